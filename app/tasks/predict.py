"""The task of a `predict` job: answer every item of a chunk, and name those that cannot be answered."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from operator import attrgetter
from typing import Any

from app.cache.recall import Recall
from app.data import exact
from app.data.chunks import pack, together, unpack
from app.errors import FieldError, ModelAway, ModelFailed
from app.jobs.claims import ItemFailure
from app.models import JsonObject
from app.models.served import ServedModel
from app.predictions import encode_chunk
from app.tasks.answers import ChunkAnswer, Outcome, ParsedChunk
from app.tasks.reparsed import Reparsed

MAX_MESSAGE_CHARACTERS = 1000


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


@contextmanager
def _all_of(stopwatches: Sequence[Stopwatch]) -> Iterator[None]:
    with ExitStack() as entered:
        for stopwatch in stopwatches:
            entered.enter_context(stopwatch)
        yield


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
    chunk = ParsedChunk(payload)
    if recall is None:
        return chunk.answer(_predict(served, chunk.items, chunk.spent, stopwatch))
    asked = recall.unknown_places()
    asked_items = Reparsed(len(asked), lambda: [chunk.items[place] for place in asked])
    predicted = _predict(served, asked_items, [chunk.spent[place] for place in asked], stopwatch)
    asked_keys = [recall.keys[place] for place in asked]
    new_keys = (asked_keys[place] for place in predicted.places)
    new = dict(zip(new_keys, unpack(predicted.payload), strict=True))
    outcome = _spread(predicted, asked_keys, new, recall)
    return chunk.answer(outcome, n_cached=len(outcome.places) - len(new), new=new)


def predict_chunks(
    served: ServedModel, payloads: Sequence[bytes], stopwatches: Sequence[Stopwatch] = ()
) -> list[ChunkAnswer]:
    """Answers all items of several chunks as `predict_chunk` does, in one call of the model.

    `ModelFailed` if it raises or breaks its contract: `predict_chunk` then finds out by which items of which chunk.
    `TransientFailure` and `Unavailable` likewise.
    """
    chunks = list(map(ParsedChunk, payloads))
    asked = [_ask(served, chunk.items, chunk.spent) for chunk in chunks]
    items = Reparsed(
        sum(len(each.items) for each in asked),
        lambda: list(chain.from_iterable(each.items for each in asked)),
    )
    loaded = list(chain.from_iterable(each.loaded for each in asked))
    try:
        predicted = served.predict(items, loaded, within=_all_of(stopwatches))
    except ModelFailed as error:
        raise_if_transient(error)
        raise
    left = iter(predicted)
    answered = []
    for chunk, each in zip(chunks, asked, strict=True):
        predictions = list(islice(left, len(each.items)))
        payload = encode_chunk(served, predictions)
        answered.append(chunk.answer(Outcome(each.places, predictions, payload, each.failures)))
    return answered


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the model is asked: the items that its schema accepts, which stand at these places of their chunk, and the
    same loaded; and the failures of the others."""

    places: Sequence[int]
    items: Sequence[JsonObject]
    loaded: list[JsonObject]
    failures: list[ItemFailure]


def _ask(served: ServedModel, items: Sequence[JsonObject], spent: list[JsonObject]) -> _Asked:
    """What to ask about these items; `spent` are the same, to be given to the model."""
    loaded, failures = _validate(served, spent, 0)
    places: Sequence[int] = range(len(items))
    if failures:
        refused_places = {failure.place for failure in failures}
        places = [place for place in places if place not in refused_places]
        items = [items[place] for place in places]
    return _Asked(places, items, loaded, failures)


def _predict(
    served: ServedModel, items: Sequence[JsonObject], spent: list[JsonObject], stopwatch: Stopwatch | None
) -> Outcome:
    """What becomes of these items, which may be none; `spent` are the same, to be given to the model."""
    if not items:
        return Outcome((), [], pack(()), [])
    asked = _ask(served, items, spent)
    places, failures = asked.places, asked.failures
    predictions: list[JsonObject] = []
    payloads: list[bytes] = []
    for run, predicted in _isolate(served, asked.items, asked.loaded, 0, stopwatch):
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
    return Outcome(places, predictions, together(payloads), failures)


def _spread(
    predicted: Outcome, asked_keys: Sequence[str], new: Mapping[str, bytes], recall: Recall
) -> Outcome:
    """What became of all items, when this became of those that were asked for: what is equal has the same lot."""
    keys, known = recall.keys, recall.known
    texts = {**known, **new}
    predictions = dict(zip(known, exact.loads(pack(known.values())), strict=True))
    predictions |= zip(new, predicted.predictions, strict=True)
    failures = {asked_keys[failure.place]: failure for failure in predicted.failures}
    places: Sequence[int] = range(len(keys))
    if failures:
        places = [place for place in places if keys[place] not in failures]
    return Outcome(
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
