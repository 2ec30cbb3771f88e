"""Online predictions: every item answered in order, or one precise error."""

import gzip
import re
import threading
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from flask import Flask

from app.api import online
from app.runner import Runner
from tests.api import moody
from tests.api.conftest import Client, MakeApp, client_of, items, on_both_lanes, refused, services_of
from tests.waiting import wait_until

# What is written here is written by what other tests hold to both databases.
pytestmark = [
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
    on_both_lanes,
]

PREDICT = "/v1/models/moody/predict"
LOADING_AND_BROKEN = """
[[model]]
name = "loading"
version = "1"
class = "tests.api.moody:Loading"

[[model]]
name = "broken"
version = "7"
class = "tests.api.moody:Broken"
"""


def test_items_are_answered_in_order_by_the_default_version(client: Client) -> None:
    response = client.post(PREDICT, json={"data": items("a", "b")})

    assert response.status_code == 200
    assert response.mimetype == "application/json"
    assert response.json == {
        "prediction": [{"text": "a", "mood": "better"}, {"text": "b", "mood": "better"}],
        "model": "moody",
        "version": "2",
    }


def test_fields_that_the_schema_does_not_know_come_back_untouched(client: Client) -> None:
    item = {
        "id": 123456789012345678901234567890,
        "text": "a\0b \u2028 é 😀",
        "tags": [None, True, 1.5, -(2**63), 2**64, {"a~/b": []}],
        "mood": "mine, and the model's wins",
    }

    response = client.post(PREDICT, json={"data": [item]})

    assert response.json["prediction"] == [item | {"mood": "better"}]
    assert b'"id":123456789012345678901234567890,' in response.data


def test_a_compressed_body_is_read(client: Client) -> None:
    body = gzip.compress(b'{"data":[{"text":"a"}]}')

    response = client.post(
        PREDICT, data=body, content_type="application/json", headers={"Content-Encoding": "gzip"}
    )

    assert response.json["prediction"] == [{"text": "a", "mood": "better"}]


def test_errors_point_at_every_bad_item_and_none_is_predicted(client: Client) -> None:
    response = client.post(PREDICT, json={"data": [{"text": "a"}, {"text": 1}, {}, 7]})

    problem = refused(response, 422, "3 of 4 items do not fit model moody 2")
    assert problem["errors"] == [
        {"pointer": "/data/1/text", "detail": "Not a valid string."},
        {"pointer": "/data/2/text", "detail": "Missing data for required field."},
        {"pointer": "/data/3", "detail": "An item is a JSON object, not a number."},
    ]


def test_a_thousand_errors_are_told_by_the_first_hundred(client: Client) -> None:
    problem = refused(client.post(PREDICT, json={"data": [{}] * 1000}), 422, "1000 of 1000 items")

    assert len(problem["errors"]) == 100


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("!raise", "model moody 2 raised RuntimeError: this text is too sad"),
        ("!exit", "model moody 2 raised SystemExit: 3"),
        ("!nul", "a lone \\udc80 surrogate"),
        ("!short", "returned 0 predictions for 2 items"),
        ("!set", "predicted what is not JSON"),
        ("!schema", "its Item schema raised KeyError: 'bug'"),
        ("!schema exit", "its Item schema raised SystemExit: 3"),
    ],
)
def test_a_model_that_misbehaves_is_a_500_that_says_how(text: str, why: str, client: Client) -> None:
    problem = refused(client.post(PREDICT, json={"data": items("a", text)}), 500, why)

    assert problem["type"] == "urn:twofold:problem:model-failed"
    assert client.post(PREDICT, json={"data": items("a")}).status_code == 200


def test_a_model_whose_other_server_is_away_is_a_503_to_be_asked_again(client: Client) -> None:
    response = client.post(PREDICT, json={"data": items("a", "!away")})

    problem = refused(response, 503, "model moody 2 raised TimeoutError: the other server did not answer")
    assert problem["type"] == "urn:twofold:problem:model-away"
    assert response.headers["Retry-After"] == "5"


def test_a_model_that_is_not_there_is_named(client: Client) -> None:
    refused(
        client.post("/v1/models/happy/predict", json={"data": items("a")}), 404, "'happy'", "moody, gated"
    )


def test_a_model_that_loads_or_failed_is_a_503_that_names_it(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moody.Loading, "may_load", threading.Event())
    monkeypatch.setattr(online, "LOAD_WAIT_SECONDS", 0.01)
    app = make_app(LOADING_AND_BROKEN)
    client = client_of(app)
    assert not services_of(app).registry.get("broken").wait_ready(30)

    loading = client.post("/v1/models/loading/predict", json={"data": [{}]})
    broken = client.post("/v1/models/broken/predict", json={"data": [{}]})
    article = client.post("/prediction/online", json={"data": [{}]})

    refused(loading, 503, "model loading 1 is still loading")
    assert int(loading.headers["Retry-After"]) > 0
    refused(broken, 503, "model broken 7 failed to load: OSError: the weights are corrupt")
    refused(article, 503, "model loading 1 is still loading")
    moody.Loading.may_load.set()


def test_a_request_that_comes_while_the_model_loads_waits_for_it(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moody.Loading, "may_load", threading.Event())
    app = make_app(LOADING_AND_BROKEN)
    answers: list[Any] = []
    asking = threading.Thread(
        target=lambda: answers.append(
            client_of(app).post("/v1/models/loading/predict", json={"data": [{"id": 1}]})
        )
    )

    asking.start()
    moody.Loading.may_load.set()
    asking.join(30)

    assert [answer.json["prediction"] for answer in answers] == [[{"id": 1}]]


def test_models_are_listed_with_their_versions_states_and_schemas(make_app: MakeApp) -> None:
    app = make_app(moody.DECLARED + LOADING_AND_BROKEN)
    moody.Loading.may_load.set()
    client = client_of(app)
    client.post(PREDICT, json={"data": items("a")})
    client.post("/v1/models/broken/predict", json={"data": [{}]})

    listed = client.get("/v1/models").json["data"]

    assert [(model["name"], model["version"], model["default"]) for model in listed] == [
        ("moody", "1", False),
        ("moody", "2", True),
        ("gated", "1", True),
        ("loading", "1", True),
        ("broken", "7", True),
    ]
    assert listed[1]["state"] == "ready"
    assert listed[1]["item"]["required"] == ["text"]
    assert listed[1]["prediction"]["properties"]["mood"] == {"type": "string"}
    assert (listed[4]["state"], listed[4]["reason"]) == ("failed", "OSError: the weights are corrupt")
    assert client.get("/v1/models/moody").json == listed[1]
    refused(client.get("/v1/models/happy"), 404, "'happy'")


HOLD = {"data": [{"hold": True, "n": 1}]}
GATED = "/v1/models/gated/predict"


def test_a_late_answer_is_a_504_that_says_how_to_get_a_job(
    make_app: MakeApp, gate: type[moody.Gated]
) -> None:
    app = make_app(online_timeout_seconds=0.1)
    assert services_of(app).registry.get("gated").wait_ready(30)
    client = client_of(app)
    compressed = {"data": gzip.compress(orjson.dumps(HOLD)), "headers": {"Content-Encoding": "gzip"}}

    answers = [
        client.post(GATED, json=HOLD),
        client.post(GATED, content_type="application/json", **compressed),  # which no lane takes
    ]

    for answer in answers:
        problem = refused(answer, 504, "within 0.1 seconds", "Prefer: wait=", "/v1/jobs")
        assert problem["type"] == "urn:twofold:problem:overdue"
    gate.opened.set()

    def in_time() -> Any:
        answer = client.post(GATED, json={"data": [{"n": 2}]})
        return answer.status_code == 200 and answer.json["prediction"]

    assert wait_until(in_time, "an answer in time") == [{"n": 2, "passed": True}]


def test_a_late_answer_becomes_the_job_that_the_client_prefers(
    app: Flask, gate: type[moody.Gated], start_runner: Callable[[Flask], Runner]
) -> None:
    client = client_of(app)

    response = client.post(GATED, json=HOLD, headers={"Prefer": "wait=0"})

    assert response.status_code == 202, response.text
    assert response.headers["Preference-Applied"] == "wait=0"
    assert response.headers["Location"] == f"/v1/jobs/{response.json['id']}"
    assert int(response.headers["Retry-After"]) > 0
    gate.opened.set()
    start_runner(app)
    job = client.get(f"{response.headers['Location']}?wait=30").json
    assert (job["model"], job["status"], job["counts"]["total"]) == ("gated", "succeeded", 1)
    outputs = client.get(f"{response.headers['Location']}/outputs").json
    assert outputs == {"prediction": [{"hold": True, "n": 1, "passed": True}]}


def test_an_answer_that_comes_in_time_is_given_at_once(client: Client) -> None:
    response = client.post(PREDICT, json={"data": items("a")}, headers={"Prefer": "wait=20"})

    assert response.status_code == 200
    assert response.json["prediction"] == [{"text": "a", "mood": "better"}]


@pytest.mark.parametrize("path", [PREDICT, "/prediction/online"])
@pytest.mark.parametrize("preference", ["respond-async", "respond-async, wait=10", "foo; bar, Respond-Async"])
def test_a_client_may_prefer_a_job_at_once(path: str, preference: str, client: Client) -> None:
    response = client.post(path, json={"data": items("a", "b")}, headers={"Prefer": preference})

    assert response.status_code == 202, response.text
    assert response.headers["Preference-Applied"] == "respond-async"
    assert response.json["counts"]["total"] == 2
    assert client.get(response.headers["Location"]).json["model"] == "moody"


@pytest.mark.parametrize("preference", ["wait", "wait=", "wait=-1", "wait=soon", "wait=9999999999", "=", ""])
def test_a_preference_that_is_not_understood_is_ignored(preference: str, client: Client) -> None:
    response = client.post(PREDICT, json={"data": items("a")}, headers={"Prefer": preference})

    assert response.status_code == 200
    assert "Preference-Applied" not in response.headers


def test_items_that_do_not_fit_make_no_job(client: Client) -> None:
    refused(
        client.post(PREDICT, json={"data": [{}]}, headers={"Prefer": "respond-async"}), 422, "/data/0/text"
    )

    assert client.get("/v1/jobs").json["data"] == []


def test_a_model_that_keeps_too_many_waiting_turns_the_next_away(
    make_app: MakeApp, gate: type[moody.Gated]
) -> None:
    app = make_app(moody.DECLARED.replace("concurrency = 2", "max_waiting_items = 1"))
    batcher = services_of(app).registry.batcher(services_of(app).registry.get("gated"))
    answers: list[Any] = []

    def ask(body: dict[str, Any]) -> threading.Thread:
        asking = threading.Thread(target=lambda: answers.append(client_of(app).post(GATED, json=body)))
        asking.start()
        return asking

    client_of(app).post(GATED, json={"data": [{}]})  # the model is loaded
    holding = ask(HOLD)
    assert moody.Gated.entered.acquire(timeout=10)
    waiting = ask({"data": [{"n": 2}]})
    wait_until(lambda: batcher.n_waiting_items, "the second request to wait")

    response = client_of(app).post(GATED, json={"data": [{"n": 3}]})

    problem = refused(response, 503, "1 items wait for model gated 1", "/v1/jobs")
    assert problem["type"] == "urn:twofold:problem:overloaded"
    assert int(response.headers["Retry-After"]) > 0
    gate.opened.set()
    for thread in (holding, waiting):
        thread.join(30)
    assert [answer.status_code for answer in answers] == [200, 200]


def test_metrics_tell_of_batches_and_the_models_time(client: Client) -> None:
    client.post(PREDICT, json={"data": items("a", "b", "c")})

    response = client.get("/metrics")

    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    counted = dict(
        re.findall(r'^(twofold_\w+_count)\{model="moody",version="2"\} (\S+)$', response.text, re.M)
    )
    assert set(counted) == {
        "twofold_batch_items_count",
        "twofold_batch_wait_seconds_count",
        "twofold_model_seconds_count",
    }
    assert all(float(count) >= 1 for count in counted.values())
