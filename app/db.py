"""The database: one engine per process, and two ways in: to read, and to write and commit."""

import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, func, inspect, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from app.errors import ConfigurationError, Unavailable

MIGRATIONS = Path(__file__).parent.parent / "migrations"
POSTGRES_OPTIONS = r"-c timezone=UTC -c default_transaction_isolation=read\ committed"
"""Whatever a role has for its defaults: under `serializable` much of the queue would have to be repeated."""
READ_ONLY = "25006"
"""The SQLSTATE of a write to a database that takes none, such as a standby."""
BUSY_SECONDS = 15
"""How long a SQLite writer waits for another before it gives up with "database is locked"."""
MOUNTS = Path("/proc/mounts")
"""What is mounted where, on Linux; elsewhere it is absent, and nothing is checked."""
NETWORK_FILE_SYSTEMS = re.compile(
    r"(fuse\.)?(nfs\d?|cifs|smb\w*|9p|sshfs|ceph|glusterfs|lustre|afs|gpfs|beegfs\w*)"
)


UNSYNCHRONIZED = {"synchronize_session": False}
"""Options of an UPDATE or DELETE: sessions of writing transactions hold no objects that it could make stale."""


class Database:
    """The way to the rows. Cheap to make, safe to make before a fork: a process connects at its first use.

    `ConfigurationError` for a SQLite file on a network file system, whose locks and shared memory do not reach
    other machines, so that two writers corrupt the file (https://www.sqlite.org/wal.html#overview).

    A connection inherited through a fork would be shared by two processes, which corrupts both Postgres'
    protocol and SQLite's locks; so the engine belongs to the process that made it, and is made anew in a child.
    """

    def __init__(self, url: URL) -> None:
        if url.get_backend_name() == "sqlite" and MOUNTS.exists():
            refuse_network_file(url, MOUNTS.read_text(errors="replace"))
        self.url = url
        self._engine: Engine | None = None
        self._pid = 0
        self._making = (
            threading.Lock()
        )  # two threads at their first use would make two, and lose the other's connection
        self._is_current = False

    @property
    def is_postgres(self) -> bool:
        return self.url.get_backend_name() == "postgresql"

    @property
    def engine(self) -> Engine:
        with self._making:
            if self._engine is None or self._pid != os.getpid():
                self._engine, self._pid = _create_engine(self.url), os.getpid()
            return self._engine

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one state of the database, waits for no writer and is rolled back at the end."""
        with Session(self.engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that is committed at the end of the block, or rolled back if the block raises."""
        with Session(self.engine.execution_options(writes=True)) as session, session.begin():
            yield session

    def require_current_schema(self) -> None:
        """`Unavailable` unless the tables are those of this code's newest migration; free once they were."""
        if not self._is_current:
            with self.engine.connect() as connection:
                found = _migration(connection)
            if found != (wanted := newest_migration()):
                remedy = (
                    "install the version that made it so"
                    if (found or "") > wanted
                    else "run 'twofold db upgrade'"
                )
                raise Unavailable(
                    f"the database is at migration {found or 'none'}, this version needs {wanted}: {remedy}"
                )
            self._is_current = True

    def require_writable(self) -> None:
        """`Unavailable` if a Postgres takes no writes: it is a standby, or was told so."""
        if not self.is_postgres:
            return
        with self.engine.connect() as connection:
            if connection.scalar(text("SHOW transaction_read_only")) == "on":
                raise Unavailable("the database takes no writes: it is a standby, or was made read-only")

    def upgrade(self) -> None:
        """Brings the tables to this code's newest migration (`alembic upgrade head`)."""
        # Here, for to import it takes a sixth of a start, and all that only look do without it.
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self.engine.execution_options(writes=True).begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def dispose(self) -> None:
        """Closes this process's connections."""
        if self._engine is not None and self._pid == os.getpid():
            self._engine.dispose()


def newest_migration() -> str:
    """The revision that this code's tables are at, by the numbers that its migrations' files begin with."""
    return max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("*_*.py"))


def _migration(connection: Connection) -> str | None:
    """The revision that the tables are at; None if there are none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def take_turns(session: Session, name: str) -> None:
    """Lets transactions that give the same name wait for each other; on SQLite, writers do anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


def refuse_network_file(url: URL, mounts: str) -> None:
    """`ConfigurationError` if the file of a SQLite `url` lies on a network file system; `mounts` as in /proc/mounts.

    A root directory on 9p is the own disk of a sandbox (gVisor, for one), and no network.
    """
    directory = Path(url.database or "").resolve().parent
    mounted = {}
    for line in mounts.splitlines():
        _device, point, kind, *_ = line.split(" ")
        place = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point))
        if directory.is_relative_to(place):
            mounted[place] = kind  # a later line hides an earlier one of the same place
    if not mounted:
        return
    place = max(mounted, key=lambda place: len(place.parts))
    if NETWORK_FILE_SYSTEMS.fullmatch(mounted[place]) and (mounted[place], str(place)) != ("9p", "/"):
        raise ConfigurationError(
            f"DATABASE_URL: {url.database} lies on a network file system ({mounted[place]} at {place}), "
            "where SQLite's locks do not hold: use a local disk, or Postgres"
        )


def is_away(error: DBAPIError) -> bool:
    """Whether the database, rather than the statement, is at fault: gone, refusing, locked, full, read-only or none.

    Both drivers report these as `OperationalError`; psycopg adds `InterfaceError` for a connection it found closed.
    SQLite's driver reports a wrong statement so too, under the code that stands for all mistakes without their own,
    and a file that is no database, or not any more, as neither.
    """
    match getattr(error.orig, "sqlite_errorcode", 0) & 0xFF:  # but for what tells its kinds apart
        case sqlite3.SQLITE_ERROR:
            return False
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return True
    if getattr(error.orig, "sqlstate", None) == READ_ONLY:
        return True
    return isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated


def _create_engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        # Pre-ping costs a round trip per checkout and spares a request the error of a restarted server.
        return create_engine(
            url,
            pool_size=8,
            max_overflow=24,
            pool_pre_ping=True,
            connect_args={"options": POSTGRES_OPTIONS, "application_name": "twofold"},
        )
    engine = create_engine(
        url, pool_size=8, max_overflow=24, connect_args={"timeout": BUSY_SECONDS, "isolation_level": None}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """WAL lets readers and one writer work at once; FULL makes a commit survive a power cut, not just a crash.

    Chunks of a hundred kilobytes are written in pages of 8 KiB in less time than in those of 4, the default. Only a
    file that is still empty takes another size.
    """
    cursor = connection.cursor()
    for pragma in ("page_size=8192", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes the write lock at once. A deferred transaction that reads first and writes later fails
    with SQLITE_BUSY, without waiting, if anyone wrote in between."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
