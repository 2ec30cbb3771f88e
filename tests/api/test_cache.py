"""Online predictions of a model with a result cache: as without it, but for the calls of the model."""

import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy.exc import OperationalError

from app.cache import asking
from app.runner import Runner
from tests.api.conftest import Client, MakeApp, client_of, ended, refused
from tests.cache.models import Narrow
from tests.waiting import wait_until

CACHED = """
[[model]]
name = "narrow"
version = "1"
class = "tests.cache.models:Narrow"
cache = true
"""
PREDICT = "/v1/models/narrow/predict"

CountRows = Callable[[], dict[str, int]]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, too, the cache is asked, and left alone once it failed."""
    monkeypatch.setattr(asking, "LOOK_SECONDS", 30)
    monkeypatch.setattr(asking, "AWAY_SECONDS", 600)


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    Narrow.asked = []
    return make_app(CACHED)


@pytest.fixture
def client(app: Flask) -> Client:
    return client_of(app)


def ask(client: Client, *items: dict[str, Any]) -> Any:
    response = client.post(PREDICT, json={"data": list(items)})
    assert response.status_code == 200, response.text
    return response.json["prediction"]


def wait_for_rows(count_rows: CountRows, n_rows: int) -> None:
    wait_until(lambda: count_rows().get("cached_predictions") == n_rows, f"{n_rows} cached predictions")


def looked_up(client: Client) -> Counter[str]:
    """The hits and misses that `/metrics` tells of."""
    found = re.findall(
        r'^twofold_cache_items_total\{lane="online",model="narrow",result="(\w+)",version="1"\} (\d+)',
        client.get("/metrics").text,
        re.MULTILINE,
    )
    return Counter({result: int(count) for result, count in found})


def asked_texts() -> list[str]:
    return [item["text"] for item in Narrow.asked]


def test_an_item_that_was_predicted_is_answered_without_the_model(
    client: Client, count_rows: CountRows
) -> None:
    before = looked_up(client)
    first = ask(client, {"text": "a", "id": 1}, {"text": "a", "id": 2}, {"text": "b"})
    assert [answer.get("id") for answer in first] == [1, 2, None]
    wait_for_rows(count_rows, 2)

    second = ask(client, {"id": 3, "text": "b"}, {"text": "c"}, {"text": "a"})

    assert asked_texts() == ["a", "b", "c"]
    assert second[0] == first[2] | {"id": 3}
    assert second[2] == {name: value for name, value in first[0].items() if name != "id"}
    refused(client.post(PREDICT, json={"data": [{"text": "a"}, {"text": 1}]}), 422, "/data/1/text")
    assert looked_up(client) - before == Counter(hit=3, miss=3)


def test_jobs_and_requests_spare_each_other_the_model(
    client: Client, count_rows: CountRows, app: Flask, start_runner: Callable[[Flask], Runner]
) -> None:
    start_runner(app)
    job = ended(client, "narrow", data=[{"text": "a"}, {"text": "b"}])
    assert job["counts"] == {"total": 2, "succeeded": 2, "errored": 0, "canceled": 0, "cached": 0}

    ask(client, {"text": "b"}, {"text": "c"})
    wait_for_rows(count_rows, 3)
    job = ended(client, "narrow", data=[{"text": "c"}, {"text": "a", "id": 9}, {"text": "d"}])

    assert job["counts"] == {"total": 3, "succeeded": 3, "errored": 0, "canceled": 0, "cached": 2}
    assert asked_texts() == ["a", "b", "c", "d"]
    outputs = client.get(f"/v1/jobs/{job['id']}/outputs", headers={"Accept": "application/json"})
    assert [answer.get("id") for answer in outputs.json["prediction"]] == [None, 9, None]


@pytest.mark.parametrize("verb", ["look_up", "store"])
def test_a_database_that_is_away_costs_the_cache_and_nothing_else(
    client: Client, monkeypatch: pytest.MonkeyPatch, count_rows: CountRows, verb: str
) -> None:
    failed = threading.Event()

    def fail(*_: Any) -> Any:
        failed.set()
        raise OperationalError("SELECT", {}, Exception("the server is gone"))

    monkeypatch.setattr(asking, verb, fail)
    assert len(ask(client, {"text": "a"})) == 1
    assert failed.wait(10)
    wait_until(lambda: client_is_away(client), "that the failure is known")
    failed.clear()

    assert len(ask(client, {"text": "a"})) == 1

    assert not failed.is_set()  # for some seconds it is not asked again
    assert asked_texts() == ["a", "a"]
    assert "cached_predictions" not in count_rows()


def client_is_away(client: Client) -> bool:
    cache: asking.OnlineCache = client.application.extensions["twofold"].cache
    return cache._is_away()


def test_a_database_that_hangs_is_not_waited_for(
    client: Client, monkeypatch: pytest.MonkeyPatch, count_rows: CountRows
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(asking, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(asking, "look_up", lambda *_: go_on.wait(30))
    try:
        assert len(ask(client, {"text": "a"})) == 1
    finally:
        go_on.set()
    assert asked_texts() == ["a"]


def test_no_more_than_so_many_predictions_wait_to_be_stored(
    client: Client, monkeypatch: pytest.MonkeyPatch, count_rows: CountRows, app: Flask
) -> None:
    monkeypatch.setattr(asking, "MOST_WAITING", 1)
    cache = asking.OnlineCache(app.extensions["twofold"].database)
    served = app.extensions["twofold"].registry.get("narrow")
    go_on, n_stored = threading.Event(), []

    def store(*arguments: Any) -> None:
        go_on.wait(30)
        n_stored.append(len(arguments[3]))

    monkeypatch.setattr(asking, "store", store)
    cache.remember(served, {"1": b"{}"})
    cache.remember(served, {"2": b"{}", "3": b"{}"})
    go_on.set()
    cache._storer.shutdown()

    assert n_stored == [1]
