"""The article's mock: slow to load, slow to predict, and right by chance; for demonstrations and tests."""

import random
import time
from pathlib import Path
from typing import Any

from marshmallow import Schema, fields, validate

FEELINGS = ("happy", "sad", "angry")


class Article:
    """`{"text": "…"}` → `{"sentiment": "happy" | "sad" | "angry"}`, drawn at random for each item.

    Options: `load_seconds` (20) to sleep in `load`, and `predict_seconds` (10) to sleep in each call of
    `predict`, however many items it has: the article's figures.
    """

    class Item(Schema):
        text = fields.String(required=True)

    class Prediction(Schema):
        sentiment = fields.String(required=True, validate=validate.OneOf(FEELINGS))

    def load(
        self, artifact: Path | None, *, load_seconds: float = 20.0, predict_seconds: float = 10.0
    ) -> None:
        """Sleeps `load_seconds`; there is nothing to read, so `artifact` is ignored."""
        time.sleep(load_seconds)
        self._predict_seconds = predict_seconds

    def predict(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Sleeps `predict_seconds`, then one random feeling for each item."""
        time.sleep(self._predict_seconds)
        return [{"sentiment": random.choice(FEELINGS)} for _ in items]
