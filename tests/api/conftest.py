"""The app over either database, its client, and a runner beside it."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import structlog
import werkzeug.test as werkzeug
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.test import TestResponse

from app import factory
from app.api.services import EXTENSION, Services
from app.config import Settings
from app.db import Database
from app.jobs.wakeup import Wakeup
from app.runner import Runner
from app.tables import Row
from tests.api import moody
from tests.api.gateway import Gateway

MakeApp = Callable[..., Flask]


class Answer(TestResponse):
    """A response as the tests read it: `json` is there, or the test fails. For the type checker alone."""

    @property
    def json(self) -> Any: ...


class Client(FlaskClient):
    """Flask's test client, whose answers are `Answer`."""

    def get(self, *args: Any, **options: Any) -> Answer:
        return cast(Answer, super().get(*args, **options))

    def post(self, *args: Any, **options: Any) -> Answer:
        return cast(Answer, super().post(*args, **options))

    def put(self, *args: Any, **options: Any) -> Answer:
        return cast(Answer, super().put(*args, **options))

    def open(self, *args: Any, **options: Any) -> Answer:
        return cast(Answer, super().open(*args, **options))


def client_of(app: Flask) -> Client:
    """A client of this app, by the lane that the test runs on; threads do not share one."""
    if app.config["LANE"] == "asgi":
        return cast(Client, werkzeug.Client(_behind_asgi(app)))
    app.test_client_class = Client
    return cast(Client, app.test_client())


def _behind_asgi(app: Flask) -> Any:
    if "gateway" not in app.extensions:
        app.extensions["gateway"] = Gateway(app)
    return app.extensions["gateway"]


def services_of(app: Flask) -> Services:
    services: Services = app.extensions[EXTENSION]
    return services


on_both_lanes = pytest.mark.parametrize("lane", ["asgi", "wsgi"], indirect=True)
"""For a test that runs on one database alone."""


@pytest.fixture
def lane(request: pytest.FixtureRequest) -> str:
    """How requests come to the app: as gunicorn's threads call it, or by way of the event loop.

    Where a test says nothing else, it runs on the loop with SQLite and on threads with Postgres: once on each lane.
    """
    kind = request.node.callspec.params.get("database") if hasattr(request.node, "callspec") else "sqlite"
    return str(getattr(request, "param", "asgi" if kind.endswith("sqlite") else "wsgi"))


@pytest.fixture
def make_app(
    database: Database, lane: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeApp]:
    """Makes the app of this test, with small chunks, other `models` or any setting changed."""
    made: list[Flask] = []
    # With an engine of its own, each app would compile every statement anew.
    monkeypatch.setattr(factory, "Database", lambda url: database if url == database.url else Database(url))

    def make(models: str = moody.DECLARED, **changes: Any) -> Flask:
        (tmp_path / "models.toml").write_text(models)
        settings: dict[str, Any] = {
            "database_url": database.url,
            "models_file": tmp_path / "models.toml",
            "runner": "off",
            "runner_threads": 2,
            "chunk_items": 4,
            "poll_seconds": 0.05,
            "log_format": "json",
        }
        app = factory.create_app(Settings(**(settings | changes)))
        app.config["LANE"] = lane
        made.append(app)
        return app

    yield make
    for app in made:
        for served in services_of(app).registry.models():
            served.wait_ready(30)
        services_of(app).cache.close()
        if services_of(app).database is not database:
            services_of(app).database.dispose()
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> Client:
    return client_of(app)


@pytest.fixture
def start_runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Flask], Runner]]:
    """Starts a runner that works on an app's database in a thread of its own."""
    # Its listener ends up to a second after it is told to; with a poll of 50 ms nothing here needs the hint.
    monkeypatch.setattr(Wakeup, "start", lambda self: None)
    monkeypatch.setattr(Wakeup, "stop", lambda self: None)
    started: list[tuple[Runner, threading.Thread]] = []

    def start(app: Flask) -> Runner:
        here = services_of(app)
        runner = Runner(here.database, here.registry, here.settings)
        thread = threading.Thread(target=runner.run, name="runner")
        thread.start()
        started.append((runner, thread))
        return runner

    yield start
    for runner, thread in started:
        runner.stop()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def runner(app: Flask, start_runner: Callable[[Flask], Runner]) -> Runner:
    """A runner beside the app."""
    return start_runner(app)


@pytest.fixture
def count_rows(database: Database) -> Callable[[], dict[str, int]]:
    """How many rows the tables hold, of those that hold any."""
    tables = [table.name for table in Row.metadata.sorted_tables]
    counting = text(" UNION ALL ".join(f"SELECT '{name}', count(*) FROM {name}" for name in tables))

    def count() -> dict[str, int]:
        with database.reading() as session:
            return {name: n_rows for name, n_rows in session.execute(counting) if n_rows}

    return count


def refused(response: TestResponse, status: int, *fragments: str) -> dict[str, Any]:
    """The problem that this response is, whose detail or errors hold all fragments."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/problem+json"
    problem: dict[str, Any] = orjson.loads(response.data)
    assert problem["status"] == status
    assert problem["type"].startswith("urn:twofold:problem:")
    assert problem["request_id"] == response.headers["X-Request-ID"]
    said = " ".join(
        [problem["detail"], *(f"{e['pointer']} {e['detail']}" for e in problem.get("errors", []))]
    )
    for fragment in fragments:
        assert fragment in said
    return problem


def items(*texts: str) -> list[dict[str, str]]:
    return [{"text": text} for text in texts]


def ended(client: Client, model: str = "moody", **body: Any) -> dict[str, Any]:
    """A new job, when it has ended."""
    made = make_job(client, model, **body)
    job: dict[str, Any] = client.get(f"/v1/jobs/{made['id']}?wait=30").json
    assert job["done"], job
    return job


def make_job(client: Client, model: str = "moody", **body: Any) -> dict[str, Any]:
    """A new job, which no runner has seen yet if the test has none."""
    response = client.post("/v1/jobs", json={"model": model, **body})
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json
    return job


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[moody.Gated]]:
    """The gate of the model `gated`, closed; opened at the end, so that no thread stays behind it."""
    monkeypatch.setattr(moody.Gated, "opened", threading.Event())
    monkeypatch.setattr(moody.Gated, "entered", threading.Semaphore(0))
    yield moody.Gated
    moody.Gated.opened.set()
