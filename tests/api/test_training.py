"""Training by the same three steps: upload labelled items, make a job, and see what came of it."""

from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import update

from app.db import Database
from app.runner import Runner
from app.tables import ArtifactPart
from app.versions import events
from app.versions.follower import Follower
from tests.api.conftest import Client, MakeApp, client_of, ended, make_job, refused, services_of
from tests.waiting import wait_until

DECLARED = """
[[model]]
name = "pupil"
version = "0"
class = "tests.models.pupils:Pupil"

[[model]]
name = "untaught"
version = "1"
class = "tests.models.specimens:Upper"
"""
LABELED = [{"text": text, "label": label} for text, label in zip("abcdefgh", "xyyyyyyz", strict=True)]


@pytest.fixture
def app(make_app: MakeApp, tmp_path: Path) -> Flask:
    app = make_app(DECLARED, artifact_cache=tmp_path / "cache")
    client_of(app).get("/readyz")  # begins to load
    return app


@pytest.fixture
def client(app: Flask) -> Client:
    for served in services_of(app).registry.models():
        served.wait_ready(30)
    return client_of(app)


def follow(app: Flask) -> None:
    """Has the app's process see what was promoted and removed, and waits for what that loads."""
    here = services_of(app)
    Follower(here.database, here.registry, here.settings.models_file).look()
    for served in here.registry.models():
        served.wait_ready(30)


def train(client: Client, model: str = "pupil", **body: Any) -> dict[str, Any]:
    return ended(client, model, kind="train", **({"data": LABELED} | body))


def test_a_train_job_is_a_job_and_names_the_version_that_it_made(client: Client, runner: Runner) -> None:
    lines = "".join(f'{{"text":"{item["text"]}","label":"{item["label"]}"}}\n' for item in LABELED)
    upload = client.post("/v1/inputs", data=lines, content_type="application/x-ndjson").json

    made = make_job(client, "pupil", kind="train", input_id=upload["id"], options={"seed": 10**30})
    assert (made["kind"], made["version"], made["options"]) == ("train", "0", {"seed": 10**30})
    job = client.get(f"/v1/jobs/{made['id']}?wait=30").json

    assert (job["status"], job["counts"]["succeeded"], job["progress"]) == ("succeeded", 8, 1.0)
    assert job["trained"]["version"] == "t1"
    assert (job["trained"]["metrics"]["accuracy"], job["trained"]["metrics"]["seed"]) == (0.75, 10**30)
    assert [each["trained"] for each in client.get("/v1/jobs").json["data"]] == [job["trained"]]
    events = client.get(f"/v1/jobs/{job['id']}/events").json["data"]
    assert [event["event"] for event in events] == ["created", "started", "trained", "finished"]
    for path in ("outputs", "errors"):
        refused(client.get(f"/v1/jobs/{job['id']}/{path}"), 409, "is a training")


def test_a_training_is_as_far_as_it_says(client: Client, runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    made = make_job(client, "pupil", kind="train", data=LABELED, options={"hold": str(tmp_path / "hold")})
    path = f"/v1/jobs/{made['id']}"

    wait_until(lambda: client.get(path).json["progress"] == 0.5, "the training to be half-way")
    assert client.get(path).json["eta_seconds"] is not None
    (tmp_path / "hold").unlink()
    job = client.get(f"{path}?wait=30").json

    assert (job["status"], job["progress"]) == ("succeeded", 1.0)
    told = [
        event["detail"] for event in client.get(f"{path}/events").json["data"] if event["event"] == "progress"
    ]
    assert told == ["0.50"]


def test_a_training_that_fails_says_why_in_the_job(client: Client, runner: Runner) -> None:
    wrong = train(client, data=[*LABELED, {"text": "i"}])
    assert (wrong["status"], wrong["trained"]) == ("failed", None)
    assert "1 of 9 items do not fit model pupil 0" in wrong["error"]
    assert "item 8 /label: Missing data for required field." in wrong["error"]

    assert "one label is not enough" in train(client, options={"act": "raise"})["error"]


def test_a_train_job_is_refused_precisely_when_it_is_made(client: Client) -> None:
    def post(**body: Any) -> Any:
        return client.post("/v1/jobs", json={"model": "pupil", "data": LABELED, "kind": "train"} | body)

    refused(post(model="untaught"), 422, "/kind", "tests.models.specimens:Upper has no train(self, items")
    refused(post(options={"depth": 3}), 422, "/options", "an unexpected keyword argument 'depth'")
    refused(post(options={"artifact": "x"}), 422, "/options/artifact", "take it out of options")
    refused(post(options=[]), 422, "/options")
    refused(post(max_errors=3), 422, "/max_errors", "is for kind predict")
    refused(post(kind="predict", options={}), 422, "/options", "are for kind train")
    refused(post(kind="tame"), 422, "/kind", "predict, train")
    assert client.get("/v1/jobs").json["data"] == []


def test_an_untrained_version_is_told_of_and_does_not_predict(client: Client) -> None:
    (pupil, _) = client.get("/v1/models").json["data"]
    assert (pupil["state"], pupil["reason"]) == ("untrained", None)
    assert "text" in pupil["item"]["properties"]
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json["models"]["pupil 0"]) == (200, "untrained")

    body = {"data": [{"text": "a"}]}
    refused(client.post("/v1/models/pupil/predict", json=body), 409, "model pupil 0 is untrained")
    refused(client.post("/v1/jobs", json=body | {"model": "pupil"}), 409, "model pupil 0 is untrained")


def test_trained_versions_are_compared_promoted_and_served_side_by_side_until_they_are_removed(
    app: Flask, client: Client, runner: Runner, tmp_path: Path
) -> None:
    job = train(client)
    train(client, data=[{"text": "a", "label": "z"}])

    def versions() -> list[tuple[str, str, bool]]:
        listed = client.get("/v1/models/pupil/versions").json["data"]
        return [(each["version"], each["state"], each["default"]) for each in listed]

    def predicted(path: str) -> tuple[str, str]:
        answer = client.post(f"/v1/models/pupil{path}/predict", json={"data": [{"text": "a"}]})
        assert answer.status_code == 200, answer.text
        return answer.json["version"], answer.json["prediction"][0]["guess"]

    def promote(version: str) -> None:
        assert client.post(f"/v1/models/pupil/versions/{version}/promote").status_code == 202
        follow(app)
        registry = services_of(app).registry
        wait_until(lambda: registry.default("pupil").declaration.version == version, f"{version} to answer")

    assert versions() == [("0", "untrained", True), ("t1", "unserved", False), ("t2", "unserved", False)]
    made = client.get("/v1/models/pupil/versions/t1").json["trained"]
    assert (made["parent"], made["job_id"], made["input_id"]) == ("0", job["id"], job["input_id"])
    assert (made["metrics"], made["n_items"], made["promoted_at"]) == (job["trained"]["metrics"], 8, None)
    assert client.get("/v1/models/pupil/versions/0").json["trained"] is None
    refused(client.post("/v1/models/pupil/versions/t1/predict", json={"data": []}), 404, "no version 't1'")

    promote("t1")
    assert versions() == [("0", "untrained", False), ("t1", "ready", True), ("t2", "unserved", False)]
    assert predicted("") == ("t1", "y")
    (brought,) = (tmp_path / "cache" / "trained").iterdir()
    assert brought.name == made["sha256"]
    batch = ended(client, "pupil", data=[{"text": "a"}])
    assert (batch["version"], batch["status"]) == ("t1", "succeeded")

    promote("t2")
    assert (predicted(""), predicted("/versions/t1")) == (("t2", "z"), ("t1", "y"))
    assert train(client)["version"] == "t2"  # trained versions train too, by the class of their entry
    assert client.get("/v1/models/pupil/versions/t3").json["trained"]["parent"] == "t2"

    refused(client.delete("/v1/models/pupil/versions/t2"), 409, "is the default of pupil")
    assert client.delete("/v1/models/pupil/versions/t1").status_code == 204
    follow(app)
    assert versions() == [("0", "untrained", False), ("t2", "ready", True), ("t3", "unserved", False)]
    refused(client.post("/v1/models/pupil/versions/t1/predict", json={"data": []}), 404, "no version 't1'")
    refused(client.delete("/v1/models/pupil/versions/t1"), 410, "was removed")


def test_what_was_removed_is_not_promoted_and_has_no_jobs(app: Flask, client: Client, runner: Runner) -> None:
    train(client)
    train(client)
    for version in ("t1", "t2"):
        assert client.post(f"/v1/models/pupil/versions/{version}/promote").status_code == 202
        follow(app)
        registry = services_of(app).registry
        wait_until(lambda: registry.defaults()["pupil"] == version, f"{version} to answer")  # noqa: B023 — at once
    refused_item = {"data": [{"text": "a"}, {"text": 5}]}
    partial = ended(client, "pupil", version="t1", **refused_item)
    assert partial["status"] == "partial"
    cron = {"cron": "0 18 * * *", "model": "pupil", "collection": "c"}
    schedule = client.post("/v1/schedules", json=cron | {"version": "t1"}).json

    removal = client.delete("/v1/models/pupil/versions/t1")
    refused(removal, 409, f"is named by schedule {schedule['id']}")
    assert client.delete(f"/v1/schedules/{schedule['id']}").status_code == 204
    assert client.delete("/v1/models/pupil/versions/t1").status_code == 204

    # All before this process has followed: it serves t1 still.
    refused(client.post("/v1/models/pupil/versions/t1/promote"), 410, "was removed")
    made = client.post("/v1/jobs", json={"model": "pupil", "version": "t1", "data": [{"text": "a"}]})
    refused(made, 410, "was removed")
    refused(client.post(f"/v1/jobs/{partial['id']}/retry"), 410, "was removed")


def test_a_default_that_waits_for_its_successor_is_not_removed(
    app: Flask, client: Client, runner: Runner
) -> None:
    train(client)
    train(client)
    for version in ("t1", "t2"):
        assert client.post(f"/v1/models/pupil/versions/{version}/promote").status_code == 202
        if version == "t1":
            follow(app)

    refused(client.delete("/v1/models/pupil/versions/t1"), 409, "until the one promoted since is ready")


def test_what_cannot_predict_is_not_promoted_or_removed(client: Client) -> None:
    refused(client.post("/v1/models/pupil/versions/0/promote"), 409, "is untrained")
    refused(client.post("/v1/models/pupil/versions/t1/promote"), 404, "no version 't1'")
    refused(client.delete("/v1/models/pupil/versions/0"), 404, "no training made a version '0'")


def test_a_version_whose_entry_is_declared_no_more_is_not_promoted(
    app: Flask, client: Client, runner: Runner
) -> None:
    train(client)
    models_file = services_of(app).settings.models_file
    models_file.write_text(models_file.read_text().replace('"0"', '"new"'))
    with services_of(app).database.writing() as session:
        events.tell_reload(session)
    follow(app)

    refused(client.post("/v1/models/pupil/versions/t1/promote"), 404, "no version '0'")
    assert client.get("/v1/models/pupil/versions/t1").json["state"] == "unserved"


def test_an_artifact_that_is_not_what_was_trained_is_not_loaded_and_told_of(
    app: Flask, client: Client, runner: Runner, database: Database
) -> None:
    train(client)
    with database.writing() as session:
        session.execute(update(ArtifactPart).values(content=b'{"guess":"evil"}'))

    assert client.post("/v1/models/pupil/versions/t1/promote").status_code == 202
    follow(app)

    told = client.get("/v1/models/pupil/versions/t1").json
    assert told["state"] == "failed"
    assert "the artifact that should have sha256" in told["reason"]
