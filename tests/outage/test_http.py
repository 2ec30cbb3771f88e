"""While the database is away, requests are refused with a problem that says when to ask again; then all goes on."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import URL, event, text

from app.config import Settings
from app.db import Database
from app.factory import create_app
from tests.outage.postgres import OwnPostgres, own_postgres

ROOT = Path(__file__).parent.parent.parent
LINES = b'{"text":"good"}\n{"text":"bad"}\n'
BIG = b"".join(b'{"text":"%0990d"}\n' % number for number in range(2000))
NDJSON = {"content_type": "application/x-ndjson"}


Serve = Callable[[URL], FlaskClient]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Makes a client of an app on a database; its connections are closed at the end."""
    databases: list[Database] = []

    def make(url: URL) -> FlaskClient:
        app = create_app(Settings(database_url=url, models_file=ROOT / "models.toml"))
        databases.append(app.extensions["twofold"].database)
        return app.test_client()

    yield make
    for database in databases:
        database.dispose()


def body(response: Any) -> Any:
    return response.json


def make_job(client: FlaskClient) -> Any:
    uploaded = client.post("/v1/inputs", data=LINES, **NDJSON)
    assert uploaded.status_code == 201, uploaded.json
    return client.post("/v1/jobs", json={"model": "sentiment", "input_id": body(uploaded)["id"]})


def check_refused(response: Any) -> None:
    """503, with a time to come back, and a problem document."""
    assert (response.status_code, response.content_type) == (503, "application/problem+json"), response.data
    assert int(response.headers["Retry-After"]) > 0
    assert response.json["type"] == "urn:twofold:problem:unavailable"
    assert response.json["detail"]


def check_works(client: FlaskClient) -> None:
    accepted = make_job(client)
    assert accepted.status_code == 202, accepted.json
    assert body(client.get(accepted.headers["Location"]))["status"] == "queued"


@pytest.fixture(scope="module")
def power(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnPostgres]:
    with own_postgres(tmp_path_factory.mktemp("outage") / "pg") as postgres:
        yield postgres


def test_a_stopped_postgres_is_told_and_a_started_one_is_found_again(
    power: OwnPostgres, serve: Serve
) -> None:
    client = serve(power.url)
    accepted = make_job(client)
    assert accepted.status_code == 202

    power.stop()
    check_refused(client.get(accepted.headers["Location"]))
    check_refused(client.post("/v1/inputs", data=LINES, **NDJSON))
    check_refused(client.post("/v1/jobs", json={"model": "sentiment", "data": [{"text": "good"}]}))
    assert client.get("/readyz").status_code == 503
    assert client.get("/livez").status_code == 200
    power.start()

    assert body(client.get(accepted.headers["Location"]))["status"] == "queued", "what was accepted is there"
    check_works(client)


def test_terminated_connections_are_replaced(postgres_url: URL, serve: Serve) -> None:
    client = serve(postgres_url)
    check_works(client)

    terminate(postgres_url)

    check_works(client)


@pytest.mark.parametrize("statement", ["INSERT INTO input_chunks", "UPDATE inputs", "INSERT INTO jobs"])
def test_a_connection_that_breaks_in_the_middle_of_a_request_leaves_nothing_of_it(
    postgres_url: URL, serve: Serve, statement: str
) -> None:
    client = serve(postgres_url)
    database = client.application.extensions["twofold"].database

    with before_first(database, statement, lambda: terminate(postgres_url)):
        refused = client.post("/v1/jobs", json={"model": "sentiment", "data": [{"text": "good"}]})

    check_refused(refused)
    assert body(client.get("/v1/inputs"))["data"] == []
    assert body(client.get("/v1/jobs"))["data"] == []
    check_works(client)


def test_a_locked_sqlite_file_is_told_and_readers_go_on(
    sqlite_url: URL, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.BUSY_SECONDS", 0.05)
    client = serve(sqlite_url)
    accepted = make_job(client)

    with closing(sqlite3.connect(str(sqlite_url.database), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        check_refused(client.post("/v1/inputs", data=LINES, **NDJSON))
        check_refused(client.post(f"{accepted.headers['Location']}/cancel"))
        assert body(client.get(accepted.headers["Location"]))["status"] == "queued"
        other.execute("ROLLBACK")

    check_works(client)


def test_a_full_disk_is_told_and_leaves_nothing_of_the_upload(sqlite_url: URL, serve: Serve) -> None:
    """SQLite says "database or disk is full" of both; `max_page_count` has it say so without filling a disk."""
    client = serve(sqlite_url)
    database = client.application.extensions["twofold"].database
    check_works(client)

    limit = limited(database, 20)
    check_refused(client.post("/v1/inputs", data=BIG, **NDJSON))
    assert len(body(client.get("/v1/inputs"))["data"]) == 1, "reading works, and only what was whole is there"
    limit(1 << 30)

    with database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM inputs")).scalar_one() == 1
    check_works(client)
    assert client.post("/v1/inputs", data=BIG, **NDJSON).status_code == 201


def terminate(url: URL) -> None:
    """Ends all other connections to a Postgres database."""
    other = Database(url)
    with other.engine.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    other.dispose()


@contextmanager
def before_first(database: Database, statement: str, act: Callable[[], None]) -> Iterator[None]:
    """Acts once, before a statement that begins so."""
    has_acted = threading.Event()

    def intervene(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if sql.startswith(statement) and not has_acted.is_set():
            has_acted.set()
            act()

    event.listen(database.engine, "before_cursor_execute", intervene)
    yield
    event.remove(database.engine, "before_cursor_execute", intervene)
    assert has_acted.is_set(), f"no statement began with {statement}"


def limited(database: Database, more_pages: int) -> Callable[[int], None]:
    """Has the file grow by so many pages at most; the function returned sets another limit."""
    with database.engine.connect() as connection:
        n_pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    def limit(pages: int) -> None:
        nonlocal more_pages
        more_pages = pages

    def apply(connection: Any, _record: object, _proxy: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {n_pages + more_pages}")

    event.listen(database.engine, "checkout", apply)
    return limit
