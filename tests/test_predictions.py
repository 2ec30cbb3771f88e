"""The one way to a model: items in, answers out, or errors that point at the items."""

import math
from typing import Any

import pytest

from app.errors import FieldError, Invalid, ModelFailed, Unavailable
from app.models.batcher import Batcher
from app.models.served import ServedModel
from app.predictions import accept, encode
from tests.answered import answers
from tests.models import specimens
from tests.models.specimens import declare, served


def predict(model: ServedModel, items: list[Any]) -> list[dict[str, Any]]:
    loaded = accept(model, items)
    return answers(items, Batcher(model).predict(items, loaded, seconds=30))


BIG = 123456789012345678901234567890


def test_an_answer_is_the_items_own_fields_and_the_predictions() -> None:
    items = [{"id": BIG, "text": "a", "upper": "mine"}, {"text": "b", "x": [{}]}]

    answered = predict(served(specimens.Upper), items)

    assert answered == [{"id": BIG, "text": "a", "upper": "A"}, {"text": "b", "x": [{}], "upper": "B"}]
    assert list(answered[0]) == ["id", "text", "upper"]


def test_fields_that_the_schema_drops_are_echoed_all_the_same() -> None:
    answered = predict(served(specimens.Excluding), [{"text": "a", "id": 7}])

    assert answered == [{"text": "a", "id": 7, "upper": "A"}]


def test_a_model_that_changes_its_items_changes_no_answer() -> None:
    items = [{"id": 1, "tags": ["a"]}]

    assert predict(served(specimens.Mutating), items) == [{"id": 1, "tags": ["a"], "label": "x"}]
    assert items == [{"id": 1, "tags": ["a"]}]


def test_every_refused_item_is_pointed_at_and_none_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(specimens.Strict, "predict", lambda self, items: calls.append(items), raising=False)

    with pytest.raises(Invalid, match="3 of 4 items do not fit model specimen 1") as caught:
        predict(served(specimens.Strict), [{"text": "a"}, {"text": 1, "a/b": 2}, {}, None])
    assert set(caught.value.errors) == {
        FieldError("/data/1/text", "Not a valid string."),
        FieldError("/data/1/a~1b", "Unknown field."),
        FieldError("/data/2/text", "Missing data for required field."),
        FieldError("/data/3", "An item is a JSON object, not null."),
    }
    assert calls == []


def test_a_model_that_is_not_ready_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="model specimen 1 is still loading"):
        predict(ServedModel(declare(specimens.Upper)), [{"text": "a"}])
    with pytest.raises(Unavailable, match="failed to load: OSError: weights are corrupt"):
        predict(served(specimens.LoadRaises), [{"text": "a"}])


def test_an_answer_is_encoded_with_every_digit() -> None:
    assert (
        encode(served(specimens.Upper), {"prediction": [{"id": BIG}]}) == b'{"prediction":[{"id":%d}]}' % BIG
    )
    assert encode(served(specimens.Upper), {"a": math.nan}) == b'{"a":null}'


@pytest.mark.parametrize(
    "value", [{1}, object(), "\ud800", {"id": BIG, "value": b""}], ids=["set", "object", "surrogate", "bytes"]
)
def test_an_answer_that_is_no_json_is_the_models_failure(value: Any) -> None:
    with pytest.raises(ModelFailed, match="model specimen 1 predicted what is not JSON"):
        encode(served(specimens.Upper), {"a": value})


def test_an_answer_that_nests_too_deep_is_the_models_failure() -> None:
    value: Any = BIG
    for _ in range(5000):
        value = {"in": value}

    with pytest.raises(ModelFailed, match="predicted what is not JSON"):
        encode(served(specimens.Upper), value)
