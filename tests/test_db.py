"""The way to the database: transactions, locks, forks and outages, on both kinds."""

import os
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError, OperationalError

from app import db
from app.db import Database, is_away
from app.errors import Unavailable
from app.jobs.ids import new_id
from tests.conftest import on_fresh_databases

INSERT = text("INSERT INTO inputs (id, status, format, created_at) VALUES (:id, 'receiving', 'json', :at)")
AT = "2026-01-01T00:00:00.000Z"


def add_input(database: Database) -> None:
    with database.writing() as session:
        session.execute(INSERT, {"id": new_id(), "at": AT})


def n_inputs(database: Database) -> int:
    with database.reading() as session:
        return int(session.execute(text("SELECT count(*) FROM inputs")).scalar_one())


def test_a_block_that_ends_is_committed_and_one_that_raises_is_not(database: Database) -> None:
    add_input(database)

    def write_and_raise() -> None:
        with database.writing() as session:
            session.execute(INSERT, {"id": new_id(), "at": AT})
            raise KeyError

    with pytest.raises(KeyError):
        write_and_raise()
    assert n_inputs(database) == 1


def test_a_reading_session_keeps_nothing(database: Database) -> None:
    with database.reading() as session:
        session.execute(INSERT, {"id": new_id(), "at": AT})

    assert n_inputs(database) == 0


def test_a_reader_is_not_stopped_by_a_writer(database: Database) -> None:
    with database.writing() as session:
        session.execute(INSERT, {"id": new_id(), "at": AT})
        assert n_inputs(database) == 0
    assert n_inputs(database) == 1


def test_writers_that_read_before_they_write_all_succeed(database: Database) -> None:
    """On SQLite a deferred transaction would fail with "database is locked" as soon as another one had written."""
    n_writers, n_rounds = 4, 5
    together = threading.Barrier(n_writers)
    errors: list[Exception] = []

    def write() -> None:
        together.wait(10)
        try:
            for _ in range(n_rounds):
                with database.writing() as session:
                    session.execute(text("SELECT count(*) FROM inputs")).scalar_one()
                    session.execute(INSERT, {"id": new_id(), "at": AT})
        except DBAPIError as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(n_writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert errors == []
    assert n_inputs(database) == n_writers * n_rounds


@on_fresh_databases
def test_threads_at_their_first_use_share_one_engine(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_engine = db._create_engine
    second_thread_is_in = threading.Barrier(2)
    engines: list[object] = []

    def create_while_the_other_may_come_in(url: Any) -> Any:
        with suppress(threading.BrokenBarrierError):
            second_thread_is_in.wait(0.5)
        return create_engine(url)

    monkeypatch.setattr(db, "_create_engine", create_while_the_other_may_come_in)
    threads = [threading.Thread(target=lambda: engines.append(database.engine)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len(engines) == 2
    assert engines[0] is engines[1]


def test_a_child_process_makes_connections_of_its_own(database: Database) -> None:
    add_input(database)
    parent = database.engine
    reading, writing = os.pipe()

    child = os.fork()
    if child == 0:  # nothing here may raise, or a second pytest would go on
        try:
            is_new = database.engine is not parent
            os.write(writing, b"%d %d" % (is_new, n_inputs(database)))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    answer = os.read(reading, 100)
    os.close(reading)
    os.close(writing)

    assert answer == b"1 1"
    assert database.engine is parent
    assert n_inputs(database) == 1


def test_a_sqlite_commit_survives_a_power_cut_and_foreign_keys_hold(sqlite_url: Any) -> None:
    database = Database(sqlite_url)
    with database.engine.connect() as connection:
        found = {
            pragma: connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one()
            for pragma in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    database.dispose()
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 15_000}


def test_a_new_sqlite_file_has_large_pages_and_an_older_one_keeps_its_own(tmp_path: Path) -> None:
    older = tmp_path / "older.db"
    with closing(sqlite3.connect(older)) as connection:
        connection.execute("PRAGMA page_size=4096")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE something (id INTEGER)")
    sizes = []
    for file in (tmp_path / "new.db", older):
        database = Database(make_url(f"sqlite:///{file}"))
        database.upgrade()
        with database.engine.connect() as connection:
            sizes.append(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
        database.dispose()
    assert sizes == [8192, 4096]


def test_postgres_sessions_are_in_utc_and_named(postgres_url: Any) -> None:
    database = Database(postgres_url)
    with database.reading() as session:
        assert session.execute(text("SHOW timezone")).scalar_one() == "UTC"
        assert session.execute(text("SHOW application_name")).scalar_one() == "twofold"
    database.dispose()


def test_what_a_postgres_role_has_for_its_defaults_does_not_change_the_queue(postgres_url: Any) -> None:
    admin, database = Database(postgres_url), Database(postgres_url)
    with admin.writing() as session:
        session.execute(text("ALTER ROLE CURRENT_USER SET default_transaction_isolation = serializable"))
    try:
        with database.reading() as session:
            assert session.scalar(text("SHOW transaction_isolation")) == "read committed"
    finally:
        with admin.writing() as session:
            session.execute(text("ALTER ROLE CURRENT_USER RESET default_transaction_isolation"))
        admin.dispose()
        database.dispose()


def test_a_postgres_that_takes_no_writes_is_away(postgres_url: Any) -> None:
    database = Database(postgres_url)
    with database.reading() as session:
        session.execute(text("SET TRANSACTION READ ONLY"))
        with pytest.raises(DBAPIError) as refused:
            session.execute(INSERT, {"id": new_id(), "at": AT})
    assert is_away(refused.value)
    database.dispose()


def test_a_connection_that_the_server_dropped_is_replaced_unseen(postgres_url: Any) -> None:
    database, killer = Database(postgres_url), Database(postgres_url)
    assert n_inputs(database) == 0
    with killer.reading() as session:
        session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )

    assert n_inputs(database) == 0
    database.dispose()
    killer.dispose()


def test_away_is_a_database_that_does_not_answer_and_not_a_statement_that_is_wrong(
    database: Database, tmp_path: Any
) -> None:
    nowhere = [f"sqlite:///{tmp_path}/absent/file.db", "postgresql+psycopg://nobody@127.0.0.1:1/none"]
    for url in nowhere:
        with pytest.raises(OperationalError) as refused:
            n_inputs(Database(make_url(url)))
        assert is_away(refused.value)

    (tmp_path / "notes.txt").write_text("these are no tables" * 100)
    with pytest.raises(DatabaseError, match="not a database") as no_database:
        n_inputs(Database(make_url(f"sqlite:///{tmp_path}/notes.txt")))
    assert is_away(no_database.value)

    damaged = sqlite3.DatabaseError("database disk image is malformed")
    damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT_INDEX  # as the driver does
    assert is_away(DatabaseError("SELECT", {}, damaged))

    with pytest.raises(IntegrityError) as broken, database.writing() as session:
        session.execute(INSERT, {"id": new_id(), "at": None})
    assert not is_away(broken.value)


def test_a_missing_table_is_no_outage(database: Database) -> None:
    """Waiting would not mend it. (SQLite's driver calls it an `OperationalError`, like a locked file.)"""
    with pytest.raises(DBAPIError) as caught, database.reading() as session:
        session.execute(text("SELECT * FROM no_such_table"))

    assert not is_away(caught.value)


@on_fresh_databases
def test_old_tables_are_named_with_the_command_that_mends_them(database: Database) -> None:
    database.require_current_schema()
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))

    database.require_current_schema()  # it looks no more, once it was so
    other = Database(database.url)
    with pytest.raises(
        Unavailable, match=r"at migration 0001, this version needs \d+: run 'twofold db upgrade'"
    ):
        other.require_current_schema()
    other.dispose()


@on_fresh_databases
def test_tables_that_are_newer_than_the_code_are_not_told_to_be_upgraded(database: Database) -> None:
    other = Database(database.url)
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        with pytest.raises(Unavailable, match=r"needs \d+: install the version that made it so"):
            other.require_current_schema()
    finally:
        other.dispose()


def test_an_upgrade_can_be_repeated(database: Database) -> None:
    database.upgrade()
    database.upgrade()
    database.require_current_schema()
