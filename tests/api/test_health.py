"""Liveness and readiness: ready means models loaded, database reached, migrations current."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import URL, make_url, text

from app.db import Database
from tests.api import moody
from tests.api.conftest import Client, MakeApp, client_of, items, on_both_lanes, refused, services_of
from tests.conftest import on_fresh_databases
from tests.waiting import wait_until

LOADING = '[[model]]\nname = "loading"\nversion = "1"\nclass = "tests.api.moody:Loading"\n'
BROKEN = '[[model]]\nname = "broken"\nversion = "7"\nclass = "tests.api.moody:Broken"\n'


def test_a_process_lives_as_long_as_it_answers(client: Client) -> None:
    response = client.get("/livez")

    assert (response.status_code, response.json) == (200, {"status": "ok"})


def test_ready_means_models_and_database(make_app: MakeApp) -> None:
    app = make_app()
    for served in services_of(app).registry.models():
        assert served.wait_ready(30)

    response = client_of(app).get("/readyz")

    assert response.status_code == 200
    assert response.json == {
        "ready": True,
        "database": "ok",
        "models": {"moody 1": "ready", "moody 2": "ready", "gated 1": "ready"},
        "runners_in_trouble": {},
    }


def test_a_model_that_loads_is_not_ready_yet(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moody.Loading, "may_load", threading.Event())
    app = make_app(LOADING)
    client = client_of(app)

    before = client.get("/readyz")
    moody.Loading.may_load.set()
    assert services_of(app).registry.default().wait_ready(30)
    after = client.get("/readyz")

    assert (before.status_code, before.json["models"]) == (503, {"loading 1": "loading"})
    assert (after.status_code, after.json["models"]) == (200, {"loading 1": "ready"})


def test_a_model_that_failed_is_named_with_its_reason(make_app: MakeApp) -> None:
    app = make_app(BROKEN)
    services_of(app).registry.default().wait_ready(30)

    response = client_of(app).get("/readyz")

    assert (response.status_code, response.json["ready"]) == (503, False)
    assert response.json["models"] == {"broken 7": "failed: OSError: the weights are corrupt"}
    assert response.json["database"] == "ok"


def test_a_model_that_waits_for_what_it_needs_is_named_with_its_reason(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.models.lineup.FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("tests.models.specimens.Dependent.trouble", ConnectionError("nobody is there"))
    app = make_app(
        '[[model]]\nname = "dependent"\nversion = "1"\nclass = "tests.models.specimens:Dependent"\n'
    )
    model = services_of(app).registry.default()
    model.wait_ready(30)

    response = client_of(app).get("/readyz")

    assert (response.status_code, response.json["ready"]) == (503, False)
    assert response.json["models"] == {"dependent 1": "loading: ConnectionError: nobody is there"}
    monkeypatch.setattr("tests.models.specimens.Dependent.trouble", None)
    wait_until(lambda: model.state == "ready", "it to be loaded, and its thread to end")


@on_fresh_databases
def test_old_tables_are_refused_with_the_command_that_mends_them(
    make_app: MakeApp, database: Database
) -> None:
    with database.writing() as session:
        newest = session.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    client = client_of(make_app())

    unready = client.get("/readyz")
    job = client.post("/v1/jobs", json={"model": "moody", "data": items("a")})

    assert unready.status_code == 503
    assert "at migration 0001" in unready.json["database"]
    assert "run 'twofold db upgrade'" in unready.json["database"]
    refused(job, 503, "run 'twofold db upgrade'")
    for path in ("/v1/inputs", "/v1/jobs", "/download?filename=x"):
        refused(client.get(path), 503, "twofold db upgrade")

    # What needs no tables is served all the same.
    assert client.post("/v1/models/moody/predict", json={"data": items("a")}).status_code == 200
    assert client.post("/prediction/online", json={"data": items("a")}).status_code == 200
    for path in ("/livez", "/v1/models", "/openapi.json", "/docs/"):
        assert client.get(path).status_code == 200

    # And mended without a restart.
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :newest"), {"newest": newest})
    assert client.get("/readyz").json["database"] == "ok"
    assert client.get("/v1/jobs").status_code == 200


def test_an_empty_database_is_refused_with_the_command_that_mends_it(
    make_app: MakeApp, tmp_path: Path
) -> None:
    client = client_of(make_app(database_url=make_url(f"sqlite:///{tmp_path / 'empty.db'}")))

    assert "at migration none" in client.get("/readyz").json["database"]
    refused(client.get("/v1/jobs"), 503, "twofold db upgrade")


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_postgres_that_takes_no_writes_is_not_ready_until_it_does(
    database: Database, make_app: MakeApp
) -> None:
    app = make_app()
    client, name = client_of(app), database.url.database
    for served in services_of(app).registry.models():
        assert served.wait_ready(30)

    def make_read_only(setting: str) -> None:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("SET default_transaction_read_only = off"))
            connection.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {setting}'))
        services_of(app).database.dispose()  # as a failover does: it is a setting of new connections

    make_read_only("on")
    try:
        unready = client.get("/readyz")
    finally:
        make_read_only("off")  # others use it after this test
    assert (unready.status_code, unready.json["database"]) == (
        503,
        "the database takes no writes: it is a standby, or was made read-only",
    )
    assert client.get("/readyz").status_code == 200


@on_both_lanes
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "url",
    ["sqlite:////nowhere/at/all.db", "postgresql+psycopg://nobody@127.0.0.1:1/none?connect_timeout=2"],
    ids=["sqlite", "postgres"],
)
def test_a_database_that_is_away_is_a_503_for_as_long(url: str, make_app: MakeApp) -> None:
    away: URL = make_url(url)
    client = client_of(make_app(database_url=away))

    unready = client.get("/readyz")
    listed = client.get("/v1/jobs")

    assert unready.status_code == 503
    assert unready.json["database"].startswith("away: ")
    refused(listed, 503, "the database does not answer")
    assert int(listed.headers["Retry-After"]) > 0
