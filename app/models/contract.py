"""The contract of `app.models.Model`, checked: on a class when it is loaded, on predictions at every call."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Number
from pathlib import Path
from types import NoneType
from typing import Any, cast

from marshmallow import Schema

from app.models import JsonObject, Model

JUDGED = (str, Number, NoneType, list, tuple, dict)
"""Types that compare with a scalar to a plain bool; an array would not."""


class ContractError(Exception):
    """The model does not keep the contract; the message says what was found and what to change."""


def import_class(class_path: str) -> type[Model]:
    """The class at `module:Class`, from the working directory, `PYTHONPATH` or what is installed.

    Raises `ContractError` if it is not there or cannot be a model. What the module itself raises on import
    comes through as it is.
    """
    directory = os.getcwd()
    if directory not in sys.path and "" not in sys.path:
        # `python -m` and gunicorn do the same; under a console script nobody else does.
        sys.path.insert(0, directory)
    module_name, _, class_name = class_path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and misses one of its own imports
        raise ContractError(
            f"there is no module {error.name!r} in {directory} or on PYTHONPATH: correct class in models.toml"
        ) from error
    for part in class_name.split("."):
        if not hasattr(found, part):
            raise ContractError(f"{module_name} has no {class_name!r}: correct class in models.toml")
        found = getattr(found, part)
    if not isinstance(found, type):
        raise ContractError(f"{class_path} is {_described(found)}, not a class")
    if not callable(getattr(found, "predict", None)):
        raise ContractError(f"{class_path} has no method predict(self, items): add it")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise ContractError(f"{class_path} is abstract: define {missing}")
    return cast(type[Model], found)


def nested_schema(model: Model | type[Model], name: str) -> type[Schema] | None:
    """The marshmallow schema class that `model` has under `name`, if any."""
    declared: object = getattr(model, name, None)
    if declared is None:
        return None
    if not isinstance(declared, type) or not issubclass(declared, Schema):
        raise ContractError(f"{name} is {_described(declared)}: make it a class {name}(marshmallow.Schema)")
    return declared


def load(model: Model, artifact: Path | None, options: Mapping[str, Any]) -> None:
    """Calls the model's `load`, if it has one, with the local artifact and the declared options."""
    method: Callable[..., object] | None = getattr(model, "load", None)
    if method is None:
        if artifact is not None or options:
            raise ContractError(
                "artifact or options are declared, but it has no load(self, artifact, **options)"
            )
        return
    try:
        inspect.signature(method).bind(artifact, **options)
    except TypeError as error:
        raise ContractError(
            f"load{inspect.signature(method)} cannot be called with the declared options: {error}: "
            "change options in models.toml, or the method"
        ) from error
    method(artifact, **options)


def checked(
    predictions: object,
    items: Sequence[object],
    declared_fields: frozenset[str] | None,
    load: Callable[[object], object],
) -> list[JsonObject]:
    """`predictions` as a list of dicts, if they are what `predict` owes for `items`, else `ContractError`.

    `items` are as their client sent them; `load` gives one as the model got it. `declared_fields` are those of the
    `Prediction` schema. Without one (None) order is not checked: a model may answer under a name that the client's
    item happens to hold, and nothing tells that from an echo.
    """
    if not isinstance(predictions, Sequence) or isinstance(predictions, (str, bytes, bytearray)):
        hint = ": wrap it in list(…)" if isinstance(predictions, Iterator) else ""
        raise ContractError(f"predict returned {_described(predictions)}, not a list of dicts{hint}")
    if len(predictions) != len(items):
        raise ContractError(
            f"predict returned {len(predictions)} predictions for {len(items)} items: "
            "return exactly one for each, in the same order"
        )
    is_plain = type(predictions) is list and {dict}.issuperset(map(type, predictions))
    plain: list[JsonObject] = predictions if is_plain else _dicts(predictions)  # type: ignore[assignment]  # a list of dicts
    names: set[str] = set().union(*plain)  # three times as fast as by way of an iterator
    if not {str}.issuperset(map(type, names)):
        _check_names(plain)
    if declared_fields is not None and (undeclared := names - declared_fields):
        for position, (prediction, item) in enumerate(zip(plain, items, strict=True)):
            _check_order(position, prediction, item, undeclared, load)
    return plain


def _dicts(predictions: Sequence[object]) -> list[JsonObject]:
    for position, prediction in enumerate(predictions):
        if not isinstance(prediction, Mapping):
            raise ContractError(
                f"prediction {position} is {_described(prediction)}, not a dict: return a dict of fields"
            )
    return list(map(dict, cast(Sequence[JsonObject], predictions)))


def _check_names(predictions: Sequence[JsonObject]) -> None:
    for position, prediction in enumerate(predictions):
        for name in prediction:
            if not isinstance(name, str):
                raise ContractError(
                    f"prediction {position} has the key {name!r}: keys are strings, use {str(name)!r}"
                )


def _check_order(
    position: int,
    prediction: JsonObject,
    item: object,
    undeclared: set[str],
    load: Callable[[object], object],
) -> None:
    for name, value in prediction.items():
        if name in undeclared and not _repeats(value, name, item) and not _repeats(value, name, load(item)):
            own = item[name] if isinstance(item, Mapping) else None
            raise ContractError(
                f"prediction {position} repeats {name!r} as {_shortened(value)}, but its item has "
                f"{_shortened(own)}: keep the order of items, or declare {name!r} in Prediction"
            )


def _repeats(value: object, name: str, item: object) -> bool:
    """Whether `value` is what the item has under this name, or cannot be compared with it."""
    if not isinstance(item, Mapping) or name not in item:
        return True  # a post_load hook may have made an object of the item
    own = item[name]
    if own is value or not isinstance(own, (str, Number, NoneType)) or not isinstance(value, JUDGED):
        return True
    return bool(own == value)


def _described(value: object) -> str:
    if value is None:
        return "None"
    return f"{_shortened(value)} (type {type(value).__qualname__})"


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
