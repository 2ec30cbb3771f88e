"""Models that the API tests serve: what they do depends on what an item says."""

import sys
import threading
from pathlib import Path
from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema

from app.models import JsonObject

DECLARED = """
[[model]]
name = "moody"
version = "1"
class = "tests.api.moody:Moody"

[[model]]
name = "moody"
version = "2"
class = "tests.api.moody:Moody"
options = { mood = "better" }
default = true

[[model]]
name = "gated"
version = "1"
class = "tests.api.moody:Gated"
concurrency = 2
"""


class Moody:
    """Feels what `mood` says, but a text that begins with `!` makes it misbehave, each in its own way."""

    class Item(Schema):
        text = fields.String(required=True)

        @validates_schema
        def bug(self, data: JsonObject, **_: Any) -> None:
            if data.get("text") == "!schema exit":
                sys.exit(3)
            if data.get("text") == "!schema":
                raise KeyError("bug")
            if data.get("text") == "!refuse":
                raise ValidationError("no \0 here", "text")

    class Prediction(Schema):
        mood = fields.String(required=True)

    def load(self, artifact: Path | None, *, mood: str = "good") -> None:
        self.mood = mood

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        texts = [item["text"] for item in items]
        if "!raise" in texts:
            raise RuntimeError("this text is too sad")
        if "!nul" in texts:
            raise RuntimeError("NUL \0 and a lone \udc80 surrogate")
        if "!away" in texts:
            raise TimeoutError("the other server did not answer")
        if "!exit" in texts:
            raise SystemExit(3)
        if "!short" in texts:
            return []
        return [{"mood": {1} if text == "!set" else self.mood} for text in texts]


class Gated:
    """An item that says `hold` keeps its call inside `predict` until the test opens the gate."""

    entered = threading.Semaphore(0)
    opened = threading.Event()

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        if any(item.get("hold") for item in items):
            Gated.entered.release()
            Gated.opened.wait(30)
        return [{"passed": True} for _ in items]


class Loading:
    """Stays loading until the test lets it."""

    may_load = threading.Event()

    def load(self, artifact: Path | None) -> None:
        Loading.may_load.wait(30)

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        return [{} for _ in items]


class Broken:
    def load(self, artifact: Path | None) -> None:
        raise OSError("the weights are corrupt")

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        return [{} for _ in items]
