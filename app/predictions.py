"""Predictions: items checked on their way to a model, and the JSON of its answers; the same online and in a job."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from app.cache.asking import OnlineCache
from app.data import exact
from app.errors import FieldError, Invalid, ModelFailed
from app.metrics import count_looked_up
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


def predict(
    served: ServedModel,
    items: list[JsonObject],
    loaded: list[JsonObject],
    ask: Callable[[list[JsonObject], list[JsonObject]], list[JsonObject]],
    cache: OnlineCache,
) -> list[JsonObject]:
    """The prediction of each item, of those that the cache does not know by `ask`, which gets them as `loaded` too."""
    if not served.declaration.cache:
        return ask(items, loaded)
    recall = cache.recall(served, items)
    places = recall.unknown_places()
    by_key = {key: exact.loads(text) for key, text in recall.known.items()}
    if places:
        predictions = ask([items[place] for place in places], [loaded[place] for place in places])
        keys = [recall.keys[place] for place in places]
        by_key |= zip(keys, predictions, strict=True)
        cache.remember(served, dict(zip(keys, encode_each(served, predictions), strict=True)))
    declared = served.declaration
    count_looked_up(declared.name, declared.version, "online", len(items), len(items) - len(places))
    return [by_key[key] for key in recall.keys]


def encode(served: ServedModel, answer: JsonObject) -> bytes:
    """JSON text of what holds answers; `ModelFailed` if the model put there what is not JSON."""
    return _encoded(exact.dumps, served, answer)


def encode_each(served: ServedModel, answers: Sequence[JsonObject]) -> list[bytes]:
    """JSON text of each answer; `ModelFailed` if the model put into any what is not JSON."""
    return _encoded(exact.dumps_objects, served, answers)


def encode_chunk(served: ServedModel, answers: Sequence[JsonObject]) -> bytes:
    """The same as a payload."""
    return _encoded(exact.pack_objects, served, answers)


def _encoded(dump: Callable[[T], Text], served: ServedModel, value: T) -> Text:
    try:
        return dump(value)
    except (TypeError, ValueError) as error:
        raise ModelFailed(
            f"{served} predicted what is not JSON: {error}. "
            "Use numbers, strings, booleans, None, lists and dicts; numpy's numbers and arrays are fine"
        ) from error
