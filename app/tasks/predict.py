"""The task of a `predict` job: answer every item of a chunk, and name those that cannot be answered."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter, or_

from app.data import exact
from app.data.chunks import MISSING, joined, pack, unpack
from app.errors import FieldError, ModelAway, ModelFailed
from app.jobs.claims import ItemFailure
from app.models import JsonObject
from app.models.served import ServedModel
from app.predictions import encode_each

MAX_MESSAGE_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class ChunkAnswer:
    """A chunk's answers in the chunk format, `null` where an item failed; the fields that occur; the failures."""

    items: bytes
    columns: list[str]
    failures: list[ItemFailure]


class Stopwatch:
    """Tells, to any thread, for how long a chunk has been in its model. Waiting for the model's slot does not count."""

    def __init__(self) -> None:
        self._entered_at: float | None = None

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


def predict_chunk(served: ServedModel, payload: bytes, stopwatch: Stopwatch | None = None) -> ChunkAnswer:
    """Answers all items of a chunk.

    Items that the model's schema refuses fail as `invalid_item`. If the model or its schema raises or breaks its
    contract, the guilty items are found by halving, fail as `model_failed`, and the rest are answered all the same.
    `TransientFailure` if the model is away; `Unavailable` while it is not ready.
    """
    texts = unpack(payload)
    items: list[JsonObject] = exact.loads(payload)
    loaded, failures = _validate(served, items, 0)
    refused_places = {failure.place for failure in failures}
    places: Sequence[int] = range(len(items))
    if refused_places:
        places = [place for place in places if place not in refused_places]
        items, texts = [items[place] for place in places], [texts[place] for place in places]

    lines: list[bytes] = []
    columns: dict[str, None] = {}
    for run, predicted in _isolate(served, items, loaded, 0, stopwatch):
        if isinstance(predicted, ModelFailed):
            failures.extend(
                _failure(place, "model_failed", predicted.detail) for place in places[run.start : run.stop]
            )
            continue
        answered, names = predicted.answers(items[run.start : run.stop], texts[run.start : run.stop])
        lines += answered
        columns |= names
    failures.sort(key=attrgetter("place"))
    for failure in failures:  # by ascending place, so that each stands where it belongs
        lines.insert(failure.place, MISSING)
    return ChunkAnswer(pack(lines), list(columns), failures)


def _validate(
    served: ServedModel, items: Sequence[JsonObject], start: int
) -> tuple[list[JsonObject], list[ItemFailure]]:
    """The items that the model's schema accepts, loaded, and the others; halves them if the schema itself breaks."""
    try:
        loaded, refused = served.validate(items)
    except ModelFailed as error:
        if len(items) == 1:
            return [], [_failure(start, "model_failed", error.detail)]
        half = len(items) // 2
        first, first_failures = _validate(served, items[:half], start)
        second, second_failures = _validate(served, items[half:], start + half)
        return first + second, first_failures + second_failures
    return loaded, [_failure(start + place, "invalid_item", sentence(errors)) for place, errors in refused]


@dataclass(frozen=True, slots=True)
class _Predicted:
    """Predictions, and the JSON text of each."""

    predictions: list[JsonObject]
    texts: list[bytes]

    def answers(
        self, items: Sequence[JsonObject], item_texts: Sequence[bytes]
    ) -> tuple[list[bytes], dict[str, None]]:
        """The JSON text of each item with its prediction, and the names that occur, those of the items first.

        An item keeps its own bytes, so that nothing of it is written again and no digit changes; unless a prediction
        has a field of the same name, which wins.
        """
        own = dict.fromkeys(chain.from_iterable(items))
        new = dict.fromkeys(chain.from_iterable(self.predictions))
        if own.keys().isdisjoint(new):
            has_empty = not (all(items) and all(self.predictions))
            return joined(item_texts, self.texts, has_empty=has_empty), own | new
        merged = map(or_, items, self.predictions)
        return list(map(exact.dumps, merged)), own | new


def _isolate(
    served: ServedModel,
    items: Sequence[JsonObject],
    loaded: list[JsonObject] | None,
    start: int,
    stopwatch: Stopwatch | None,
) -> Iterator[tuple[range, _Predicted | ModelFailed]]:
    """Runs of consecutive items, in order, each with its predictions or, for a single item, with what went wrong.

    `k` guilty items among `n` cost about `2 k log2(n / k)` calls more than none.
    """
    if not items:
        return
    run = range(start, start + len(items))
    try:
        predictions = served.predict(items, loaded, within=stopwatch)
        yield run, _Predicted(predictions, encode_each(served, predictions))
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
