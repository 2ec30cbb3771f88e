"""Versions side by side over HTTP, and promotions."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from app.models.declarations import Declaration, read_declarations
from app.versions.follower import Follower
from tests.api import moody
from tests.api.conftest import Client, MakeApp, client_of, items, refused, services_of
from tests.models import specimens
from tests.models.specimens import declare
from tests.waiting import wait_until

SelectAll = Callable[..., list[dict[str, Any]]]
BROKEN = '[[model]]\nname = "moody"\nversion = "3"\nclass = "tests.api.moody:Broken"\n'


def look(app: Flask) -> None:
    """What a process does every second."""
    here = services_of(app)
    Follower(here.database, here.registry, here.settings.models_file).look()


def test_each_version_is_asked_under_its_own_path(client: Client) -> None:
    by_version = {
        version: client.post(f"/v1/models/moody/versions/{version}/predict", json={"data": items("a")}).json
        for version in ("1", "2")
    }
    by_default = client.post("/v1/models/moody/predict", json={"data": items("a")}).json

    assert {version: answer["version"] for version, answer in by_version.items()} == {"1": "1", "2": "2"}
    assert {version: answer["prediction"][0]["mood"] for version, answer in by_version.items()} == {
        "1": "good",
        "2": "better",
    }
    assert by_default == by_version["2"]


@pytest.mark.parametrize("path", ["moody/versions/9", "nobody/versions/1", "versions/1"])
def test_a_version_that_is_not_there_is_a_404(client: Client, path: str) -> None:
    refused(client.post(f"/v1/models/{path}/predict", json={"data": items("a")}), 404)


def test_an_overdue_request_to_a_version_becomes_a_job_of_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moody.Gated, "opened", threading.Event())
    response = client.post(
        "/v1/models/gated/versions/1/predict", json={"data": [{"hold": True}]}, headers={"Prefer": "wait=0"}
    )
    moody.Gated.opened.set()

    assert (response.status_code, response.json["version"]) == (202, "1")


def test_versions_are_listed_with_the_one_that_is_the_default(client: Client) -> None:
    listed = client.get("/v1/models/moody/versions").json["data"]
    one = client.get("/v1/models/moody/versions/1").json

    assert [(each["version"], each["default"]) for each in listed] == [("1", False), ("2", True)]
    assert one == listed[0]
    refused(client.get("/v1/models/nobody/versions"), 404, "there is moody, gated")
    refused(client.get("/v1/models/moody/versions/9"), 404, "there is 1, 2")


def test_a_promotion_moves_the_default_of_whoever_follows(
    app: Flask, client: Client, select_all: SelectAll
) -> None:
    assert all(served.wait_ready(30) for served in services_of(app).registry.models())

    response = client.post("/v1/models/moody/versions/1/promote")
    look(app)

    assert (response.status_code, response.json) == (202, {"model": "moody", "version": "1"})
    assert client.post("/v1/models/moody/predict", json={"data": items("a")}).json["version"] == "1"
    assert client.get("/v1/models/moody").json["version"] == "1"
    job = client.post("/v1/jobs", json={"model": "moody", "data": items("a")}).json
    assert job["version"] == "1", "a job pins the version that was the default when it was made"
    rows = select_all("SELECT kind, model, version FROM model_events")
    assert rows == [{"kind": "promoted", "model": "moody", "version": "1"}]


def test_a_version_that_is_not_there_or_does_not_load_is_not_promoted(
    make_app: MakeApp, select_all: SelectAll
) -> None:
    app = make_app(moody.DECLARED + BROKEN)
    client = client_of(app)
    services_of(app).registry.get("moody", "3").wait_ready(30)

    refused(client.post("/v1/models/moody/versions/9/promote"), 404, "there is 1, 2, 3")
    refused(client.post("/v1/models/nobody/versions/1/promote"), 404)
    refused(client.post("/v1/models/moody/versions/3/promote"), 409, "OSError: the weights are corrupt")
    assert select_all("SELECT id FROM model_events") == []


def test_nothing_is_promoted_while_the_file_is_broken_for_nobody_would_follow(
    app: Flask, client: Client, select_all: SelectAll
) -> None:
    services_of(app).settings.models_file.write_text(moody.DECLARED + "default = 1\n")

    refused(client.post("/v1/models/moody/versions/1/promote"), 409, "default is 1: write default = true")
    assert select_all("SELECT id FROM model_events") == []


def test_a_failed_reload_is_named_and_the_process_stays_ready(make_app: MakeApp) -> None:
    app = make_app()
    client, here = client_of(app), services_of(app)
    assert all(served.wait_ready(30) for served in here.registry.models())
    declared = {each.version: each for each in read_declarations(here.settings.models_file)}
    changed: list[Declaration] = [declared["1"], declare(specimens.LoadRaises, name="moody", version="2")]

    here.registry.replace(changed)
    successor = wait_until(lambda: here.registry.successor(here.registry.get("moody", "2")), "the successor")
    assert not successor.wait_ready(30)

    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert (
        ready.json["models"]["moody 2"]
        == "ready; as it is declared now: failed: OSError: weights are corrupt"
    )
    described = client.get("/v1/models/moody/versions/2").json
    assert (described["state"], described["successor"]) == (
        "ready",
        {"state": "failed", "reason": "OSError: weights are corrupt"},
    )
    assert client.post("/v1/models/moody/predict", json={"data": items("a")}).json["version"] == "2"
