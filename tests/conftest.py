"""Both databases for every test that asks for `database`: file SQLite, and a real PostgreSQL server; and an S3 API."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import structlog
from moto.server import ThreadedMotoServer
from sqlalchemy import URL, make_url, text

from app.db import Database
from app.tables import Row
from tests.postgres import start_postgres

FRESH = ("fresh sqlite", "fresh postgres")
on_fresh_databases = pytest.mark.parametrize("database", FRESH, indirect=True)
"""For a test that changes the tables or fills them, or that listens to the engine or needs an unused one."""

_numbers = itertools.count()

# By default structlog has rich draw a traceback, with all local variables: half a second for each that is logged.
structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The endpoint of a server of the S3 API."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def make_bucket(moto: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Makes an empty bucket on a real S3 API, which the environment points at as it would at any other."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    def make(name: str) -> Any:
        found = boto3.resource("s3").create_bucket(Bucket=name)
        found.objects.all().delete()
        return found

    return make


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[URL]:
    """A PostgreSQL server for this test process, on a socket of its own; stopped and deleted at the end."""
    server = start_postgres(tmp_path_factory.mktemp("pg"))
    url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    # Tests kill processes, not the machine: syncing to the disk would only make each fresh database slower.
    for statement in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"):
        _administer(url, statement)
    yield url
    server.cleanup()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the newest tables and no rows, to copy: faster than to migrate for each test."""
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    database = Database(make_url(f"sqlite:///{path}"))
    database.upgrade()
    database.dispose()
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres: URL) -> str:
    """The name of a Postgres database with the newest tables and no rows, to use as a template."""
    _administer(postgres, "CREATE DATABASE migrated")
    database = Database(postgres.set(database="migrated"))
    database.upgrade()
    database.dispose()
    return "migrated"


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> URL:
    """A fresh, migrated SQLite file."""
    path = shutil.copy(migrated_sqlite, tmp_path / f"twofold-{next(_numbers)}.db")
    return make_url(f"sqlite:///{path}")


@pytest.fixture
def postgres_url(postgres: URL, migrated_postgres: str) -> Iterator[URL]:
    """A fresh, migrated Postgres database; dropped at the end, with whoever is still connected to it."""
    name = f"twofold_{next(_numbers)}"
    _administer(postgres, f"CREATE DATABASE {name} TEMPLATE {migrated_postgres} STRATEGY FILE_COPY")
    yield postgres.set(database=name)
    _administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> URL:
    """The URL of a fresh, migrated database: each test that asks for it runs once on either kind."""
    url: URL = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(scope="session")
def shared_sqlite(migrated_sqlite: Path) -> Iterator[Database]:
    """The SQLite file that `database` is in this process."""
    path = shutil.copy(migrated_sqlite, migrated_sqlite.with_name("shared.db"))
    database = Database(make_url(f"sqlite:///{path}"))
    yield database
    database.dispose()


@pytest.fixture(scope="session")
def shared_postgres(postgres: URL, migrated_postgres: str) -> Iterator[Database]:
    """The Postgres database that `database` is in this process."""
    _administer(postgres, f"CREATE DATABASE shared TEMPLATE {migrated_postgres}")
    database = Database(postgres.set(database="shared"))
    yield database
    database.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A migrated database without rows, on either kind in turn: the same for all tests of this process.

    To make one for each test takes several times as long, and every statement has to be compiled for it anew. What an
    earlier test left is deleted now, when all its threads and processes have ended.
    """
    kind = request.param
    if kind in FRESH:
        fresh = Database(request.getfixturevalue(f"{kind.removeprefix('fresh ')}_url"))
        yield fresh
        fresh.dispose()
    else:
        shared: Database = request.getfixturevalue(f"shared_{kind}")
        _empty(shared)
        yield shared


@pytest.fixture
def select_all(database: Database) -> Callable[..., list[dict[str, Any]]]:
    """Runs plain SQL, as an admin would, and gives its rows as dictionaries."""
    return selecting(database)


def selecting(database: Database) -> Callable[..., list[dict[str, Any]]]:
    """The same for any database."""

    def run(sql: str, **parameters: object) -> list[dict[str, Any]]:
        with database.reading() as session:
            return [dict(row) for row in session.execute(text(sql), parameters).mappings()]

    return run


def _empty(database: Database) -> None:
    """Row by row, since there are few: a TRUNCATE makes the files of all tables anew, and takes four times as long."""
    if database.is_postgres:
        beforehand = [
            "SET LOCAL lock_timeout = '20s'",
            f"LOCK TABLE {', '.join(Row.metadata.tables)}",  # after whoever was killed in the middle of a commit
            "SET LOCAL session_replication_role = replica",  # which checks no foreign keys
            "SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'",
        ]
    else:
        beforehand = ["PRAGMA defer_foreign_keys = ON", "DELETE FROM sqlite_sequence"]
    with database.writing() as session:
        for statement in (*beforehand, *(f"DELETE FROM {table}" for table in Row.metadata.tables)):
            session.execute(text(statement))


def _administer(server: URL, statement: str) -> None:
    engine = Database(server).engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()
