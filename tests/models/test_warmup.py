"""Warmup: items that a model predicts before it is ready."""

from pathlib import Path

import pytest

from tests.models.specimens import Items, Upper, served


class Remembering(Upper):
    """Knows what it was asked for."""

    def load(self, artifact: Path | None) -> None:
        self.asked: list[str] = []

    def predict(self, items: Items) -> Items:
        self.asked += [item["text"] for item in items]
        return super().predict(items)


class Short(Upper):
    def predict(self, items: Items) -> Items:
        return super().predict(items)[1:]


class Raises(Upper):
    def predict(self, items: Items) -> Items:
        raise ValueError("too cold")


def test_warmup_items_are_predicted_before_the_first_request() -> None:
    model = served(Remembering, warmup=[{"text": "a"}, {"text": "b"}])

    assert (model.state, model._model.asked) == ("ready", ["a", "b"])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("cls", "item", "reason"),
    [
        (Upper, {"text": 1}, "warmup: item 1/text: Not a valid string."),
        (Upper, {}, "warmup: item 1/text: Missing data for required field."),
        (Short, {"text": "a"}, "warmup: predict returned 1 predictions for 2 items"),
        (Raises, {"text": "a"}, "warmup: it raised ValueError: too cold"),
    ],
)
def test_a_warmup_that_fails_is_a_load_that_fails_and_says_why(
    cls: type, item: dict[str, object], reason: str
) -> None:
    model = served(cls, warmup=[{"text": "a"}, item])

    assert model.state == "failed"
    assert str(model.reason).startswith(reason)
