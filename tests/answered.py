"""Answers as the service makes them, from items and predictions that a test has in its hands."""

from collections.abc import Sequence

from app.models import JsonObject


def answers(items: Sequence[JsonObject], predictions: Sequence[JsonObject]) -> list[JsonObject]:
    """Each item's own fields, as its client sent them, plus its prediction's, which win if both have one."""
    return [item | prediction for item, prediction in zip(items, predictions, strict=True)]
