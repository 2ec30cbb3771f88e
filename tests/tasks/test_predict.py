"""The predict task: every item of a chunk answered or named, however the model behaves."""

import math
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from marshmallow import Schema, ValidationError, fields, validates_schema

from app.data import pack, unpack
from app.errors import ModelFailed, Unavailable
from app.models import JsonObject
from app.models.served import ServedModel
from app.tasks.answers import ChunkAnswer
from app.tasks.predict import Stopwatch, TransientFailure, predict_chunk, predict_chunks
from tests.models.specimens import LoadRaises, Schemaless, declare, served


class Tripping:
    """Raises when an item of the call says `bad`; counts its calls and the items in them."""

    calls: list[int] = []  # noqa: RUF012 — the test reads it from the class

    class Item(Schema):
        id = fields.Integer(required=True)

        @validates_schema
        def bug(self, data: JsonObject, **_: Any) -> None:
            if data.get("bug"):
                raise KeyError("a bug of the schema")
            if data.get("refuse"):
                raise ValidationError(data["refuse"], "refuse")

    class Prediction(Schema):
        label = fields.String()

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        Tripping.calls.append(len(items))
        for item in items:
            if "bad" in item:
                raise ValueError(item["bad"])
        return [item.get("answer", {"label": "ok"}) for item in items]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ServedModel:
    monkeypatch.setattr(Tripping, "calls", [])
    return served(Tripping)


def run(model: ServedModel, items: Sequence[object]) -> ChunkAnswer:
    """What becomes of a chunk of these items, as a client reads it: each answer with its item."""
    return run_texts(model, [orjson.dumps(item) for item in items])


def run_texts(model: ServedModel, texts: Sequence[bytes]) -> ChunkAnswer:
    payload = pack(texts)
    return predict_chunk(model, payload).made_whole(payload)


def failures(answer: ChunkAnswer) -> list[tuple[int, str, str]]:
    return [(failure.place, failure.code, failure.message) for failure in answer.failures]


def test_a_chunk_without_faults_costs_one_call_and_echoes_its_items(model: ServedModel) -> None:
    big = 123456789012345678901234567890
    answer = run_texts(model, [b'{"id":1,"x":"\\u0000"}', b'{"id":%d,"y":[1.5]}' % big])

    assert unpack(answer.items) == [
        b'{"id":1,"x":"\\u0000","label":"ok"}',
        b'{"id":%d,"y":[1.5],"label":"ok"}' % big,
    ]
    assert answer.columns == ["id", "x", "y", "label"]
    assert answer.failures == []
    assert Tripping.calls == [2]


@pytest.mark.parametrize("bad", [{0}, {99}, {50}, {0, 99}, {13, 14}, {3, 40, 41, 77}, set(range(100))])
def test_guilty_items_are_found_by_halving_and_the_rest_is_answered(
    bad: set[int], model: ServedModel
) -> None:
    answer = run(model, [{"id": i, "bad": "no"} if i in bad else {"id": i} for i in range(100)])

    lines = unpack(answer.items)
    assert [place for place, line in enumerate(lines) if line == b"null"] == sorted(bad)
    assert [orjson.loads(line)["id"] for line in lines if line != b"null"] == sorted(set(range(100)) - bad)
    message = "model specimen 1 raised ValueError: no"
    assert failures(answer) == [(place, "model_failed", message) for place in sorted(bad)]
    # Each guilty item costs two calls a level below the one where its way parts from the others'.
    levels = math.ceil(math.log2(100 / len(bad))) + 1
    assert len(Tripping.calls) <= 2 * len(bad) * levels + 1


def test_items_that_the_schema_refuses_never_reach_the_model(model: ServedModel) -> None:
    answer = run(model, [{"id": 0}, {"id": "x"}, {}, 7, {"id": 4}])

    assert Tripping.calls == [2]
    assert [line == b"null" for line in unpack(answer.items)] == [False, True, True, True, False]
    assert failures(answer) == [
        (1, "invalid_item", "/id: Not a valid integer."),
        (2, "invalid_item", "/id: Missing data for required field."),
        (3, "invalid_item", "item: An item is a JSON object, not a number."),
    ]


def test_failures_of_both_kinds_stand_in_the_order_of_the_items(model: ServedModel) -> None:
    answer = run(model, [{"id": 0, "bad": "a"}, {}, {"id": 2}, {"id": 3, "bad": "b"}, {"id": "x"}])

    assert [(place, code) for place, code, _ in failures(answer)] == [
        (0, "model_failed"),
        (1, "invalid_item"),
        (3, "model_failed"),
        (4, "invalid_item"),
    ]
    assert unpack(answer.items)[2] == b'{"id":2,"label":"ok"}'
    assert answer.columns == ["id", "label"]


def test_a_chunk_of_refused_items_calls_no_model(model: ServedModel) -> None:
    answer = run(model, [{}, {}])

    assert Tripping.calls == []
    assert (answer.items, answer.columns) == (b"[null,\nnull]", [])
    assert [place for place, _, _ in failures(answer)] == [0, 1]


def test_an_item_on_which_the_schema_itself_breaks_fails_alone(model: ServedModel) -> None:
    answer = run(model, [{"id": 0}, {"id": 1, "bug": True}, {"id": "x"}, {"id": 3}])

    assert [line == b"null" for line in unpack(answer.items)] == [False, True, True, False]
    assert failures(answer) == [
        (1, "model_failed", "model specimen 1: its Item schema raised KeyError: 'a bug of the schema'"),
        (2, "invalid_item", "/id: Not a valid integer."),
    ]
    assert Tripping.calls == [2]


class Sparing:
    """Says nothing of most items."""

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        return [item.get("say", {}) for item in items]


def test_items_and_predictions_without_a_field_are_joined_all_the_same() -> None:
    texts = [b"{}", b"{ \t}", b'{"d":1.50}', b'{"d":1.50,"say":{"e":1}}', b'{"say":{"e":{}}}']

    answer = run_texts(served(Sparing), texts)

    assert unpack(answer.items) == [*texts[:3], b'{"d":1.50,"say":{"e":1},"e":1}', b'{"say":{"e":{}},"e":{}}']
    assert answer.columns == ["d", "say", "e"]
    assert unpack(run_texts(served(Constant), texts[:3]).items) == [
        b'{"e":1}',
        b'{ \t"e":1}',
        b'{"d":1.50,"e":1}',
    ]


def test_predictions_stand_alone_where_they_can_be_read_beside_their_items(model: ServedModel) -> None:
    def told(model: ServedModel, *items: JsonObject) -> tuple[list[bytes], bool]:
        answer = predict_chunk(model, pack(map(orjson.dumps, items)))
        return unpack(answer.items), answer.is_whole

    assert told(model, {"id": 0}, {"id": 1}) == ([b'{"label":"ok"}', b'{"label":"ok"}'], False)
    assert told(model, {"id": 0, "bad": "no"}, {}, {"id": 2}) == (
        [b"null", b"null", b'{"label":"ok"}'],
        False,
    )
    assert told(model, {"id": 0, "label": "?"}, {"id": 1}) == (
        [b'{"id":0,"label":"ok"}', b'{"id":1,"label":"ok"}'],
        True,
    )
    assert told(served(Constant), {"id": 0}, {}) == ([b'{"id":0,"e":1}', b'{"e":1}'], True)
    assert told(served(Sparing), {"id": 0}, {"say": {"e": 1}}) == (
        [b'{"id":0}', b'{"say":{"e":1},"e":1}'],
        True,
    )


class Constant:
    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        return [{"e": 1} for _ in items]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("answer", "why"),
    [({"label": {1, 2}}, "is not JSON"), ([], "not a dict"), (None, "not a dict")],
)
def test_an_answer_that_breaks_the_contract_fails_its_own_item(
    answer: object, why: str, monkeypatch: pytest.MonkeyPatch, model: ServedModel
) -> None:
    def predict(_: Tripping, items: list[JsonObject]) -> list[Any]:
        return [answer if item["id"] == 1 else {"label": "ok"} for item in items]

    monkeypatch.setattr(Tripping, "predict", predict)

    outcome = run(model, [{"id": i} for i in range(4)])

    assert [line == b"null" for line in unpack(outcome.items)] == [False, True, False, False]
    ((place, code, message),) = failures(outcome)
    assert (place, code) == (1, "model_failed")
    assert why in message


@pytest.mark.parametrize("depth", [300, 100_000])
def test_an_answer_that_nests_too_deep_fails_its_own_item(
    depth: int, monkeypatch: pytest.MonkeyPatch, model: ServedModel
) -> None:
    def predict(_: Tripping, items: list[JsonObject]) -> list[Any]:
        return [{"label": nested(depth) if item["id"] == 1 else "ok"} for item in items]

    monkeypatch.setattr(Tripping, "predict", predict)

    outcome = run(model, [{"id": i} for i in range(4)])

    ((place, code, message),) = failures(outcome)
    assert (place, code) == (1, "model_failed")
    assert "is not JSON" in message


def test_a_message_that_quotes_its_whole_item_is_cut(model: ServedModel) -> None:
    ((_, _, message),) = failures(run(model, [{"id": 0, "bad": "x" * 100_000}]))

    assert len(message) == 1000
    assert message.endswith("x…")


def test_a_model_that_is_not_ready_fails_the_chunk_and_not_its_items() -> None:
    with pytest.raises(Unavailable, match="weights are corrupt"):
        run(served(LoadRaises), [{"text": "a"}])
    with pytest.raises(Unavailable, match="still loading"):
        run(ServedModel(declare(Schemaless)), [{}])


class Devouring:
    """Empties all it is given, down to nested values, before it fails on a bad item or answers."""

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        eaten = [dict(item) for item in items]
        for item in items:
            item["tags"].clear()
            item.clear()
        if any("bad" in item for item in eaten):
            raise ValueError("bad")
        return [{"id": -item["id"]} if "again" in item else {"n": item["id"]} for item in eaten]


@pytest.mark.parametrize("max_batch_size", [100, 3])
def test_a_model_may_destroy_what_it_is_given(max_batch_size: int) -> None:
    items: list[JsonObject] = [{"id": place, "tags": ["a"]} for place in range(10)]
    items[4]["bad"] = items[7]["again"] = True

    answer = run(served(Devouring, max_batch_size=max_batch_size), items)

    expected: list[JsonObject | None] = [item | {"n": item["id"]} for item in items]
    expected[4] = None
    expected[7] = items[7] | {"id": -7}
    assert orjson.loads(answer.items) == expected
    assert [place for place, _, _ in failures(answer)] == [4]
    assert answer.columns == ["id", "tags", "again", "n"]


CHUNKS: list[list[JsonObject]] = [
    [{"id": 1, "note": "first"}, {"id": 2}],
    [{"id": "none"}, {"id": 3, "answer": {"label": "own"}}, {"id": 4, "refuse": "me"}],
    [{"id": 5, "bug": True}],
    [{"id": 6, "label": "taken"}],
    [{"id": 7, "answer": {}}, {"id": 8}],
]


def test_several_chunks_in_one_call_are_answered_as_each_by_itself(model: ServedModel) -> None:
    payloads = [pack(map(orjson.dumps, items)) for items in CHUNKS]
    apart = [predict_chunk(model, payload) for payload in payloads]
    Tripping.calls.clear()

    assert predict_chunks(model, payloads) == apart
    assert Tripping.calls == [6], "what the schema accepts of them"
    assert [len(answer.failures) for answer in apart] == [0, 2, 1, 0, 0]


def test_a_call_for_several_chunks_gets_no_more_than_a_model_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tripping, "calls", [])
    payloads = [pack([b'{"id":1}'] * 3)] * 3
    answers = predict_chunks(served(Tripping, max_batch_size=4), payloads)
    assert Tripping.calls == [4, 4, 1]
    assert [len(unpack(answer.items)) for answer in answers] == [3, 3, 3]


class Unwritable:
    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        return [{"label": object() if item["id"] == 2 else "ok"} for item in items]


@pytest.mark.parametrize(
    ("cls", "item"),
    [(Tripping, b'{"id":2,"bad":"one"}'), (Tripping, b'{"id":2,"answer":7}'), (Unwritable, b'{"id":2}')],
    ids=["it raises", "it breaks its contract", "it predicts what is not JSON"],
)
def test_whose_fault_it_is_that_a_call_fails_is_for_each_chunk_to_find_out(cls: type, item: bytes) -> None:
    with pytest.raises(ModelFailed):
        predict_chunks(served(cls), [pack([b'{"id":1}']), pack([item]), pack([b'{"id":3}'])])


class Watched:
    """Sees whether its stopwatches run, and goes away."""

    stopwatches: Sequence[Stopwatch] = ()
    seen: list[bool] = []  # noqa: RUF012 — the test reads it from the class

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        Watched.seen.append(all(stopwatch.seconds > 0 for stopwatch in self.stopwatches))
        raise ConnectionResetError("away")


def test_a_call_for_several_chunks_is_timed_for_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    stopwatches = [Stopwatch(), Stopwatch()]
    monkeypatch.setattr(Watched, "stopwatches", stopwatches)
    monkeypatch.setattr(Watched, "seen", [])
    with pytest.raises(TransientFailure, match="away"):
        predict_chunks(served(Watched), [b"[{}]", b"[{}]"], stopwatches)
    assert Watched.seen == [True]
    assert [stopwatch.seconds for stopwatch in stopwatches] == [0, 0]
