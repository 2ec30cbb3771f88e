"""Model classes for the tests: each keeps the contract, or breaks it in one way."""

import abc
import sys
import threading
from pathlib import Path
from typing import Any

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, post_load, validate, validates_schema

from app.models import JsonObject
from app.models.declarations import Declaration
from app.models.served import ServedModel

Items = list[JsonObject]


def declare(cls: type | str, **changes: Any) -> Declaration:
    """A declaration of a class of this module, or of a class path."""
    defaults: dict[str, Any] = {
        "name": "specimen",
        "version": "1",
        "class_path": cls if isinstance(cls, str) else f"{cls.__module__}:{cls.__qualname__}",
        "artifact": None,
        "options": {},
        "default": True,
        "concurrency": 1,
    }
    return Declaration(**(defaults | changes))


def served(cls: type | str, **changes: Any) -> ServedModel:
    """The class behind its contract, after its load, which may have failed."""
    model = ServedModel(declare(cls, **changes))
    model.load()
    return model


class Upper:
    class Item(Schema):
        text = fields.String(required=True)

    class Prediction(Schema):
        upper = fields.String(required=True)

    def predict(self, items: Items) -> Items:
        return [{"upper": item["text"].upper()} for item in items]


class Scripted:
    """Gives what the test puts in `result`, or calls it with the items."""

    result: Any = None

    class Prediction(Schema):
        label = fields.String()

    def predict(self, items: Items) -> Any:
        return self.result(items) if callable(self.result) else self.result


class Schemaless:
    def predict(self, items: Items) -> Items:
        return [{"label": str(len(item))} for item in reversed(items)]


class Nested:
    class Item(Schema):
        class Point(Schema):
            x = fields.Float(required=True)
            value = fields.Integer()

        text = fields.String(data_key="a/b")
        tags = fields.List(fields.String())
        point = fields.Nested(Point)
        path = fields.List(fields.Nested(Point))
        many = fields.Nested(Point, many=True)
        scores = fields.Dict(keys=fields.String(), values=fields.Float())
        places = fields.Dict(values=fields.Nested(Point))

    def predict(self, items: Items) -> Items:
        return [{} for _ in items]


class Hooked:
    """Its schema refuses at every stage marshmallow has; `stage` in an item chooses one."""

    class Item(Schema):
        stage = fields.String(validate=validate.NoneOf(["field"]))

        @validates_schema
        def check(self, data: JsonObject, **_: Any) -> None:
            if data.get("stage") == "schema":
                raise ValidationError("refused by the schema")

        @post_load
        def finish(self, data: JsonObject, **_: Any) -> JsonObject:
            if data.get("stage") == "post_load":
                raise ValidationError("refused after loading", "stage")
            if data.get("stage") == "bug":
                raise KeyError("bug")
            return data

    def predict(self, items: Items) -> Items:
        return [{} for _ in items]


class OddlyNested:
    """A `Dict` of `Dict`, and errors without positions."""

    class Item(Schema):
        class Meta:
            index_errors = False

        scores = fields.Dict(values=fields.Dict(values=fields.Integer()))

    def predict(self, items: Items) -> Items:
        return [{} for _ in items]


class Jealous:
    """Its schema refuses a batch that has more than one item, and no item of it."""

    class Item(Schema):
        @validates_schema(pass_collection=True)
        def check(self, data: Any, many: bool, **_: Any) -> None:
            if many and len(data) > 1:
                raise ValidationError("one at a time")

    def predict(self, items: Items) -> Items:
        return [{} for _ in items]


class Strict(Upper):
    class Item(Schema):
        class Meta:
            unknown = RAISE

        text = fields.String(required=True)


class Excluding(Upper):
    class Item(Schema):
        class Meta:
            unknown = EXCLUDE

        text = fields.String(required=True)


class Mutating:
    """Changes all it is given, down to nested values, and returns the same dicts."""

    def predict(self, items: Items) -> Items:
        for item in items:
            item["tags"].append("mine")
            item.clear()
            item["label"] = "x"
        return items


class Gate:
    """Counts the threads inside `predict`, and keeps each there until the test opens the gate."""

    inside = 0
    most = 0
    lock = threading.Lock()
    entered = threading.Semaphore(0)
    opened = threading.Event()

    def predict(self, items: Items) -> Items:
        with Gate.lock:
            Gate.inside += 1
            Gate.most = max(Gate.most, Gate.inside)
        Gate.entered.release()
        Gate.opened.wait(30)
        with Gate.lock:
            Gate.inside -= 1
        return [{} for _ in items]


class Slow:
    """Loads when the test says so."""

    may_load = threading.Event()

    def load(self, artifact: Path | None) -> None:
        Slow.may_load.wait(30)

    def predict(self, items: Items) -> Items:
        return [{} for _ in items]


class Options(Upper):
    def load(self, artifact: Path | None, *, size: int, name: str = "n") -> None:
        self.loaded = (artifact, size, name)


class Reader(Upper):
    """Remembers what it was given to read."""

    def load(self, artifact: Path | None) -> None:
        self.artifact = artifact


class Dependent(Upper):
    """Needs something that may be away: to load, or to predict."""

    trouble: Exception | None = None
    n_loads = 0

    def load(self, artifact: Path | None) -> None:
        Dependent.n_loads += 1
        self._ask()

    def predict(self, items: Items) -> Items:
        self._ask()
        return super().predict(items)

    def _ask(self) -> None:
        if Dependent.trouble is not None:
            raise Dependent.trouble


class LoadRaises(Upper):
    def load(self, artifact: Path | None) -> None:
        raise OSError("weights are\ncorrupt")


class LoadExits(Upper):
    def load(self, artifact: Path | None) -> None:
        sys.exit(3)


class InitRaises(Upper):
    def __init__(self, size: int) -> None:
        self.size = size


class NoPredict:
    pass


class ItemIsNoSchema(Upper):
    Item = {"text": str}  # type: ignore[assignment]  # noqa: RUF012 — the mistake under test


class Abstract(abc.ABC, Upper):
    @abc.abstractmethod
    def embed(self) -> None: ...


NOT_A_CLASS = Upper()
