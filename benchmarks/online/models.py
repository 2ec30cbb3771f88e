"""The models of `classifier` as this project serves them: plain classes."""

from pathlib import Path
from typing import Any

from marshmallow import Schema, fields

from benchmarks.online import classifier


class Nothing:
    class Item(Schema):
        text = fields.String(required=True)

    class Prediction(Schema):
        sentiment = fields.String(required=True)

    def predict(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"sentiment": label} for label in classifier.nothing([item["text"] for item in items])]


class TfIdf:
    class Item(Schema):
        text = fields.String(required=True)

    class Prediction(Schema):
        sentiment = fields.String(required=True)

    def load(self, artifact: Path | None) -> None:
        assert artifact is not None, "the joblib file that benchmarks.online.classifier wrote"
        self._predict = classifier.load(artifact)

    def predict(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"sentiment": label} for label in self._predict([item["text"] for item in items])]
