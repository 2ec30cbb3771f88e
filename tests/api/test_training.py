"""Training by the same three steps: upload labelled items, make a job, and see what came of it."""

from typing import Any

import pytest
from flask import Flask

from app.runner import Runner
from tests.api.conftest import Client, MakeApp, client_of, ended, make_job, refused, services_of

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
def app(make_app: MakeApp) -> Flask:
    app = make_app(DECLARED)
    client_of(app).get("/readyz")  # begins to load
    return app


@pytest.fixture
def client(app: Flask) -> Client:
    for served in services_of(app).registry.models():
        served.wait_ready(10)
    return client_of(app)


def train(client: Client, model: str = "pupil", **body: Any) -> dict[str, Any]:
    return ended(client, model, kind="train", **({"data": LABELED} | body))


def test_a_train_job_is_a_job_and_names_the_version_that_it_made(client: Client, runner: Runner) -> None:
    lines = "".join(f'{{"text":"{item["text"]}","label":"{item["label"]}"}}\n' for item in LABELED)
    upload = client.post("/v1/inputs", data=lines, content_type="application/x-ndjson").json

    made = make_job(client, "pupil", kind="train", input_id=upload["id"], options={"act": ""})
    assert (made["kind"], made["version"], made["options"]) == ("train", "0", {"act": ""})
    job = client.get(f"/v1/jobs/{made['id']}?wait=30").json

    assert (job["status"], job["counts"]["succeeded"], job["progress"]) == ("succeeded", 8, 1.0)
    assert job["trained"]["version"] == "t1"
    assert job["trained"]["metrics"]["accuracy"] == 0.75
    assert [each["trained"] for each in client.get("/v1/jobs").json["data"]] == [job["trained"]]
    events = client.get(f"/v1/jobs/{job['id']}/events").json["data"]
    assert [event["event"] for event in events] == ["created", "started", "trained", "finished"]
    for path in ("outputs", "errors"):
        refused(client.get(f"/v1/jobs/{job['id']}/{path}"), 409, "is a training")


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
