"""With the cache and without it, every sequence of jobs and requests has the same answers."""

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.cache import asking
from app.cache.asking import OnlineCache, recall
from app.cache.rows import store
from app.data import exact
from app.data.chunks import pack
from app.db import Database
from app.errors import Invalid, ModelFailed
from app.models.served import ServedModel
from app.predictions import accept, predict
from app.tasks.predict import predict_chunk
from tests.cache import models
from tests.models.specimens import served

_versions = map(str, itertools.count())

TEXTS = st.sampled_from(['"a"', '"\\u0061"', '"bad"', '"undeclared"', "1"])
OTHERS = st.sampled_from(["1", "1.0", "10e-1", "null", '"bad"', "[1]", "[ 1]", "1" + "0" * 30])
FIELDS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["text", "te\\u0078t"]), TEXTS),
        st.tuples(st.sampled_from(["id", "label"]), OTHERS),
    ),
    max_size=3,
)
ITEMS = FIELDS.map(lambda fields: "{" + ", ".join(f'"{name}":{value}' for name, value in fields) + "}")
STEPS = st.lists(
    st.tuples(st.sampled_from(["job", "online"]), st.lists(ITEMS, min_size=1, max_size=6)), max_size=8
)


class Immediate(OnlineCache):
    """Stores before it goes on, so that each step finds what the steps before it left."""

    def remember(self, served: ServedModel, predictions: Any) -> None:
        with self._database.writing() as session:
            store(session, served.declaration.name, served.declaration.version, predictions)


@pytest.fixture
def cache(database: Database, monkeypatch: pytest.MonkeyPatch) -> OnlineCache:
    monkeypatch.setattr(asking, "LOOK_SECONDS", 30)
    return Immediate(database)


def run_job(database: Database, model: ServedModel, texts: list[str]) -> Any:
    """What a client reads of a chunk: its answers, the names of the columns, and the errors."""
    payload = pack(text.encode() for text in texts)
    known = recall(database, model, exact.loads(payload)) if model.declaration.cache else None
    answer = predict_chunk(model, payload, recall=known).made_whole(payload)
    with database.writing() as session:
        store(session, model.declaration.name, model.declaration.version, answer.new)
    failures = [(failure.place, failure.code, failure.message) for failure in answer.failures]
    return exact.loads(answer.items), sorted(answer.columns), failures


def ask_online(cache: OnlineCache, model: ServedModel, texts: list[str]) -> Any:
    items = [exact.loads(text.encode()) for text in texts]
    try:
        predictions = predict(model, items, accept(model, items), model.predict, cache)
    except Invalid as error:
        return error.errors
    except ModelFailed as error:
        return str(error)
    return exact.loads(exact.dumps([item | new for item, new in zip(items, predictions, strict=True)]))


@pytest.mark.parametrize("cls", [models.Whole, models.Narrow])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_answers_are_the_same_with_and_without_a_cache(
    database: Database, cache: OnlineCache, cls: type, steps: list[tuple[str, list[str]]]
) -> None:
    version = next(_versions)  # nothing is known of it yet
    plain, cached = served(cls, version=version), served(cls, version=version, cache=True)
    for kind, texts in steps:
        if kind == "job":
            assert run_job(database, cached, texts) == run_job(database, plain, texts)
        else:
            assert ask_online(cache, cached, texts) == ask_online(cache, plain, texts)


def test_an_item_is_predicted_once_however_it_comes(database: Database, cache: OnlineCache) -> None:
    model = served(models.Narrow, version=next(_versions), cache=True)
    models.Narrow.asked = []

    run_job(database, model, ['{"text":"x","id":1}', '{"id":2, "text":"\\u0078"}', '{"text":"bad"}'])
    ask_online(cache, model, ['{"text":"x","id":3}', '{"text":"y"}'])
    answers, _, failures = run_job(database, model, ['{"text":"y"}', '{"text":"x","id":4}', '{"text":"bad"}'])

    assert [item["text"] for item in models.Narrow.asked if item["text"] != "bad"] == ["x", "x", "y"]
    assert [answer and answer.get("id") for answer in answers] == [None, 4, None]
    assert [code for _, code, _ in failures] == ["model_failed"]
    assert orjson.loads(answers[1]["seen"]) == {"text": "x"}
