"""Predictions: items checked on their way to a model, and the JSON of its answers; the same online and in a job."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from app.data import exact
from app.errors import FieldError, Invalid, ModelFailed
from app.models import JsonObject
from app.models.served import ServedModel

T = TypeVar("T")
Text = TypeVar("Text")


def accept(served: ServedModel, items: Sequence[object]) -> list[JsonObject]:
    """The items as the model gets them; `Invalid` points at every one that its schema refuses (`/data/3/text`)."""
    loaded, refused = served.validate(items)
    if refused:
        raise Invalid(
            f"{len(refused)} of {len(items)} items do not fit {served}",
            errors=[
                FieldError(f"/data/{index}{error.pointer}", error.detail)
                for index, errors in refused
                for error in errors
            ],
        )
    return loaded


def encode(served: ServedModel, answer: JsonObject) -> bytes:
    """JSON text of what holds answers; `ModelFailed` if the model put there what is not JSON."""
    return _encoded(exact.dumps, served, answer)


def encode_each(served: ServedModel, answers: Sequence[JsonObject]) -> list[bytes]:
    """JSON text of each answer; `ModelFailed` if the model put into any what is not JSON."""
    return _encoded(exact.dumps_objects, served, answers)


def _encoded(dump: Callable[[T], Text], served: ServedModel, value: T) -> Text:
    try:
        return dump(value)
    except (TypeError, ValueError) as error:
        raise ModelFailed(
            f"{served} predicted what is not JSON: {error}. "
            "Use numbers, strings, booleans, None, lists and dicts; numpy's numbers and arrays are fine"
        ) from error
