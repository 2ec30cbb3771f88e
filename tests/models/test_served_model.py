"""A served model: the contract of predict, and its slots."""

import threading
from collections import UserDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.errors import ModelFailed
from app.models.served import ServedModel
from tests.answered import answers
from tests.models import specimens
from tests.models.specimens import served


def scripted(monkeypatch: pytest.MonkeyPatch, result: Any) -> ServedModel:
    monkeypatch.setattr(specimens.Scripted, "result", staticmethod(result) if callable(result) else result)
    return served(specimens.Scripted)


def test_validate_predict_answer() -> None:
    model = served(specimens.Upper)
    raw: list[dict[str, Any]] = [{"id": 7, "text": "a"}, {"text": "b", "extra": {"deep": [1]}}]

    items, refused = model.validate(raw)
    predictions = model.predict(items)

    assert refused == []
    assert predictions == [{"upper": "A"}, {"upper": "B"}]
    assert answers(raw, predictions) == [
        {"id": 7, "text": "a", "upper": "A"},
        {"text": "b", "extra": {"deep": [1]}, "upper": "B"},
    ]


def test_a_prediction_wins_over_a_field_of_the_same_name() -> None:
    assert answers([{"id": 1, "label": "old"}], [{"label": "new"}]) == [{"id": 1, "label": "new"}]


ITEMS = [{"id": 1, "f": 0.5}, {"id": 2, "f": 0.25}]


@pytest.mark.parametrize(
    ("result", "detail"),
    [
        (None, "predict returned None, not a list of dicts"),
        ("ab", "predict returned 'ab' (type str), not a list"),
        ({0: {}, 1: {}}, "(type dict), not a list"),
        (lambda items: ({} for _ in items), "(type generator), not a list of dicts: wrap it in list(…)"),
        ([{}], "1 predictions for 2 items: return exactly one for each"),
        ([{}, {}, {}], "3 predictions for 2 items"),
        ([], "0 predictions for 2 items"),
        ([{}, None], "prediction 1 is None, not a dict"),
        (["happy", "sad"], "prediction 0 is 'happy' (type str), not a dict"),
        ([{}, {3: "x"}], "prediction 1 has the key 3: keys are strings, use '3'"),
        (lambda items: items[::-1], "prediction 0 repeats 'id' as 2, but its item has 1: keep the order"),
        ([{"id": 1}, {"id": 7}], "prediction 1 repeats 'id' as 7"),
        ([{"id": "1"}, {}], "prediction 0 repeats 'id' as '1'"),
        ([{"id": None}, {}], "prediction 0 repeats 'id' as None"),
        ([{"id": [1]}, {}], "prediction 0 repeats 'id' as [1]"),
    ],
)
def test_a_broken_contract_names_the_place(monkeypatch: pytest.MonkeyPatch, result: Any, detail: str) -> None:
    model = scripted(monkeypatch, result)

    with pytest.raises(ModelFailed) as caught:
        model.predict(ITEMS)

    assert caught.value.detail.startswith("model specimen 1 broke its contract: ")
    assert detail in caught.value.detail


class Scalar:
    """Stands for numpy's array: its comparison has no truth."""

    def __eq__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]  # as numpy's


@pytest.mark.parametrize(
    "result",
    [
        [{}, {}],
        ({"label": "a"}, {"label": "b"}),
        [UserDict(label="a"), {"label": "b"}],
        [{"id": 1, "f": 0.5, "label": "a"}, {"id": 2.0, "f": 0.25, "other": "b"}],
        [{"id": Scalar()}, {}],
        lambda items: [item | {"label": "a"} for item in items],
    ],
)
def test_what_keeps_the_contract(monkeypatch: pytest.MonkeyPatch, result: Any) -> None:
    predictions = scripted(monkeypatch, result).predict(ITEMS)

    assert len(predictions) == 2
    assert all(type(prediction) is dict for prediction in predictions)


def test_a_declared_field_may_differ_from_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    model = scripted(monkeypatch, [{"label": "new"}])

    assert model.predict([{"label": "old"}]) == [{"label": "new"}]


def test_without_a_prediction_schema_order_is_not_judged() -> None:
    assert served(specimens.Schemaless).predict([{"label": "old"}]) == [{"label": "1"}]


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (ValueError("bad\n  text"), "ValueError: bad text"),
        (RuntimeError(), "RuntimeError"),
        (SystemExit(2), "SystemExit: 2"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_an_exception_is_named_and_chained(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, named: str
) -> None:
    def fail(items: object) -> None:
        raise error

    with pytest.raises(ModelFailed) as caught:
        scripted(monkeypatch, fail).predict(ITEMS)

    assert caught.value.detail == f"model specimen 1 raised {named}"
    assert caught.value.__cause__ is error


def test_no_items_ask_nothing_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scripted(monkeypatch, None).predict([]) == []


@pytest.mark.parametrize("slots", [1, 3])
def test_at_most_concurrency_threads_are_in_predict(monkeypatch: pytest.MonkeyPatch, slots: int) -> None:
    monkeypatch.setattr(specimens.Gate, "most", 0)
    monkeypatch.setattr(specimens.Gate, "opened", threading.Event())
    monkeypatch.setattr(specimens.Gate, "entered", threading.Semaphore(0))
    model = served(specimens.Gate, concurrency=slots)

    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(model.predict, [{}]) for _ in range(6)]
        for _ in range(slots):
            assert specimens.Gate.entered.acquire(timeout=30)
        specimens.Gate.opened.set()

    assert [call.result() for call in calls] == [[{}]] * 6
    assert specimens.Gate.most == slots


def test_a_failed_call_gives_its_slot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = scripted(monkeypatch, lambda items: 1 / 0)

    for _ in range(2):
        with pytest.raises(ModelFailed, match="ZeroDivisionError"):
            model.predict(ITEMS)
