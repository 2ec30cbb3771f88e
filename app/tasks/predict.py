"""The task of a `predict` job: answer every item of a chunk, and name those that cannot be answered."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from operator import attrgetter, or_
from typing import Any

from app.cache.recall import Recall
from app.data import exact
from app.data.chunks import MISSING, answers, joined, pack, together, unpack
from app.data.objects import Written
from app.errors import FieldError, ModelAway, ModelFailed
from app.jobs.claims import ItemFailure
from app.models import JsonObject
from app.models.served import ServedModel
from app.predictions import encode_chunk
from app.tasks.reparsed import Reparsed

MAX_MESSAGE_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class ChunkAnswer:
    """A chunk's answers in the chunk format, `null` where an item failed; the fields that occur; the failures.

    The answers are predictions alone, to be read beside their items (`app.data.chunks.answers`), or, if `is_whole`,
    items with their predictions.
    If `written` tells of an object that holds the answers, `items` is empty. `n_cached` items have an answer that was
    not predicted for them; `new` is what the cache is to keep, by its key.
    """

    items: bytes
    columns: list[str]
    failures: list[ItemFailure]
    is_whole: bool = False
    written: Written | None = None
    n_cached: int = 0
    new: dict[str, bytes] = field(default_factory=dict)

    def made_whole(self, payload: bytes) -> "ChunkAnswer":
        """The same, whole; `payload` has the chunk's items."""
        if self.is_whole:
            return self
        return replace(self, items=answers(payload, self.items, len(self.failures)), is_whole=True)


class Stopwatch:
    """Tells, to any thread, for how long a chunk has been in its model. Waiting for the model's slot does not count.

    Of a training it tells how far that says it is.
    """

    def __init__(self) -> None:
        self._entered_at: float | None = None
        self.progress = self.told_progress = 0.0

    def report(self, share: Any) -> None:
        """Takes what a training says of itself; what is no number of 0 to 1 is not taken."""
        with suppress(TypeError, ValueError, OverflowError):
            if 0 <= (told := float(share)) <= 1:
                self.progress = told

    @property
    def seconds(self) -> float:
        """Since the call of `predict` that runs now; 0 if none does."""
        entered_at = self._entered_at
        return 0.0 if entered_at is None else time.monotonic() - entered_at

    def __enter__(self) -> None:
        self._entered_at = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._entered_at = None


class TransientFailure(Exception):
    """What the model depends on failed, not an item: the chunk is to be tried again as it is."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def predict_chunk(
    served: ServedModel, payload: bytes, stopwatch: Stopwatch | None = None, recall: Recall | None = None
) -> ChunkAnswer:
    """Answers all items of a chunk. With a `recall` the model sees only what is unknown to it, and of equal items one.

    Items that the model's schema refuses fail as `invalid_item`. If the model or its schema raises or breaks its
    contract, the guilty items are found by halving, fail as `model_failed`, and the rest are answered all the same.
    `TransientFailure` if the model is away; `Unavailable` while it is not ready.
    """
    parsed: list[JsonObject] = exact.loads(payload)
    are_filled = {dict}.issuperset(map(type, parsed)) and all(parsed)
    own = _names(parsed) if are_filled else None
    # What is parsed now is the model's to change. Few chunks need their items again.
    items = Reparsed(len(parsed), partial(exact.loads, payload))
    new: dict[str, bytes] = {}
    n_cached = 0
    if recall is None:
        outcome = _predict(served, items, parsed, stopwatch)
    else:
        asked = recall.unknown_places()
        asked_items = Reparsed(len(asked), lambda: [items[place] for place in asked])
        predicted = _predict(served, asked_items, [parsed[place] for place in asked], stopwatch)
        asked_keys = [recall.keys[place] for place in asked]
        new_keys = (asked_keys[place] for place in predicted.places)
        new = dict(zip(new_keys, unpack(predicted.payload), strict=True))
        outcome = _spread(predicted, asked_keys, new, recall)
        n_cached = len(outcome.places) - len(new)
    answered, columns, is_whole = _answers(payload, items, outcome, own)
    if outcome.failures:
        lines = unpack(answered)
        for failure in outcome.failures:  # by ascending place, so that each stands where it belongs
            lines.insert(failure.place, MISSING)
        answered = pack(lines)
    return ChunkAnswer(answered, columns, outcome.failures, is_whole, n_cached=n_cached, new=new)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of items: at these places there are predictions, which `payload` has as JSON; the others failed."""

    places: Sequence[int]
    predictions: list[JsonObject]
    payload: bytes
    failures: list[ItemFailure]


def _answers(
    payload: bytes, items: Sequence[JsonObject], outcome: _Outcome, own: dict[str, None] | None
) -> tuple[bytes, list[str], bool]:
    """The answers of the items that have a prediction; the names that occur, those of the items first; whether the
    answers are whole. The items' names are `own` if all items are objects with a field at least; else it is None.

    An item's own bytes are kept, so that nothing of it is written again and no digit changes; unless a prediction
    has a field of the same name, which wins.
    """
    if outcome.failures:
        items, own = [items[place] for place in outcome.places], None
    new = _names(outcome.predictions)
    names = _names(items) if own is None else own
    columns = list(names | new)
    if not names.keys().isdisjoint(new):
        return pack(map(exact.dumps, map(or_, items, outcome.predictions))), columns, True
    if (own is not None or all(items)) and all(outcome.predictions):
        return outcome.payload, columns, False
    texts = unpack(payload)
    fields = (prediction[1:-1] for prediction in unpack(outcome.payload))
    return pack(map(joined, map(texts.__getitem__, outcome.places), fields)), columns, True


def _names(objects: Sequence[JsonObject]) -> dict[str, None]:
    """The names of their fields, in the order in which they occur."""
    names = dict.fromkeys(next(iter(objects), ()))
    if names.keys() == set().union(*objects):
        return names
    return dict.fromkeys(chain.from_iterable(objects))


def _predict(
    served: ServedModel, items: Sequence[JsonObject], spent: list[JsonObject], stopwatch: Stopwatch | None
) -> _Outcome:
    """What becomes of these items, which may be none; `spent` are the same, to be given to the model."""
    if not items:
        return _Outcome((), [], pack(()), [])
    loaded, failures = _validate(served, spent, 0)
    refused_places = {failure.place for failure in failures}
    places: Sequence[int] = range(len(items))
    if refused_places:
        places = [place for place in places if place not in refused_places]
        items = [items[place] for place in places]

    predictions: list[JsonObject] = []
    payloads: list[bytes] = []
    for run, predicted in _isolate(served, items, loaded, 0, stopwatch):
        run_places = places[run.start : run.stop]
        if isinstance(predicted, ModelFailed):
            failures.extend(_failure(place, "model_failed", predicted.detail) for place in run_places)
        else:
            predictions += predicted[0]
            payloads.append(predicted[1])
    if failures:
        failures.sort(key=attrgetter("place"))
        failed_places = {failure.place for failure in failures}
        places = [place for place in places if place not in failed_places]
    return _Outcome(places, predictions, together(payloads), failures)


def _spread(
    predicted: _Outcome, asked_keys: Sequence[str], new: Mapping[str, bytes], recall: Recall
) -> _Outcome:
    """What became of all items, when this became of those that were asked for: what is equal has the same lot."""
    keys, known = recall.keys, recall.known
    texts = {**known, **new}
    predictions = dict(zip(known, exact.loads(pack(known.values())), strict=True))
    predictions |= zip(new, predicted.predictions, strict=True)
    failures = {asked_keys[failure.place]: failure for failure in predicted.failures}
    places: Sequence[int] = range(len(keys))
    if failures:
        places = [place for place in places if keys[place] not in failures]
    return _Outcome(
        places,
        [predictions[keys[place]] for place in places],
        pack(texts[keys[place]] for place in places),
        [replace(failures[key], place=place) for place, key in enumerate(keys) if key in failures],
    )


def _validate(
    served: ServedModel, items: Sequence[JsonObject], start: int
) -> tuple[list[JsonObject], list[ItemFailure]]:
    """The items that the model's schema accepts, loaded, and the others; halves them if the schema itself breaks.

    The items are spent then.
    """
    try:
        loaded, refused = served.validate(items, spend=True)
    except ModelFailed as error:
        if len(items) == 1:
            return [], [_failure(start, "model_failed", error.detail)]
        half = len(items) // 2
        first, first_failures = _validate(served, items[:half], start)
        second, second_failures = _validate(served, items[half:], start + half)
        return first + second, first_failures + second_failures
    return loaded, [_failure(start + place, "invalid_item", sentence(errors)) for place, errors in refused]


def _isolate(
    served: ServedModel,
    items: Sequence[JsonObject],
    loaded: list[JsonObject] | None,
    start: int,
    stopwatch: Stopwatch | None,
) -> Iterator[tuple[range, tuple[list[JsonObject], bytes] | ModelFailed]]:
    """Runs of consecutive items, in order, each with its predictions and their payload; or, for a single item, with
    what went wrong.

    `k` guilty items among `n` cost about `2 k log2(n / k)` calls more than none.
    """
    if not items:
        return
    run = range(start, start + len(items))
    try:
        predictions = served.predict(items, loaded, within=stopwatch)
        yield run, (predictions, encode_chunk(served, predictions))
    except ModelFailed as error:
        raise_if_transient(error)
        if len(items) == 1:
            yield run, error
        else:
            half = len(items) // 2  # loaded anew, since the model may have changed what it was given
            yield from _isolate(served, items[:half], None, start, stopwatch)
            yield from _isolate(served, items[half:], None, start + half, stopwatch)


def raise_if_transient(error: ModelFailed) -> None:
    """Raises `TransientFailure` or `MemoryError` if that is what the model's exception means: it may run again."""
    if isinstance(error, ModelAway):
        raise TransientFailure(error.detail) from error
    if isinstance(error.__cause__, MemoryError):
        raise MemoryError(error.detail) from error


def _failure(place: int, code: str, message: str) -> ItemFailure:
    """A failure whose message is cut: user code likes to quote the whole item, which may be a megabyte."""
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = f"{message[: MAX_MESSAGE_CHARACTERS - 1]}…"
    return ItemFailure(place, code, message)


def sentence(errors: Sequence[FieldError]) -> str:
    """What is wrong with an item, in one line."""
    return "; ".join(f"{error.pointer or 'item'}: {error.detail}" for error in errors)
