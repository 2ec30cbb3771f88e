"""The task of a `predict` job: answer every item of a chunk, and name those that cannot be answered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.data import exact
from app.data.chunks import pack, unpack
from app.data.writing import columns_of
from app.errors import FieldError, ModelFailed
from app.jobs.claims import ItemFailure
from app.models import JsonObject
from app.models.served import ServedModel, answers
from app.predictions import encode

MAX_MESSAGE_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class ChunkAnswer:
    """A chunk's answers in the chunk format, `null` where an item failed; the fields that occur; the failures."""

    items: bytes
    columns: list[str]
    failures: list[ItemFailure]


def predict_chunk(served: ServedModel, payload: bytes) -> ChunkAnswer:
    """Answers all items of a chunk.

    Items that the model's schema refuses fail as `invalid_item`. If the model or its schema raises or breaks its
    contract, the guilty items are found by halving, fail as `model_failed`, and the rest are answered all the same.
    `Unavailable` while the model is not ready.
    """
    items: list[JsonObject] = exact.loads(payload)
    loaded, failures = _validate(served, items, 0)
    refused_places = {failure.place for failure in failures}
    places = [place for place in range(len(items)) if place not in refused_places]

    lines = [b"null"] * len(items)
    columns: dict[str, None] = {}
    for run, outcome in _isolate(served, [items[place] for place in places], loaded, 0):
        run_places = places[run.start : run.stop]
        if isinstance(outcome, ModelFailed):
            failures.extend(_failure(place, "model_failed", outcome.detail) for place in run_places)
        elif len(run) == len(items):
            return ChunkAnswer(outcome.payload, columns_of(outcome.answers), [])
        else:
            columns.update(dict.fromkeys(columns_of(outcome.answers)))
            for place, line in zip(run_places, unpack(outcome.payload), strict=True):
                lines[place] = line
    return ChunkAnswer(pack(lines), list(columns), sorted(failures, key=lambda failure: failure.place))


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
    return loaded, [_failure(start + place, "invalid_item", _sentence(errors)) for place, errors in refused]


@dataclass(frozen=True, slots=True)
class _Answered:
    answers: list[JsonObject]
    payload: bytes


def _isolate(
    served: ServedModel, items: Sequence[JsonObject], loaded: Sequence[JsonObject], start: int
) -> Iterator[tuple[range, _Answered | ModelFailed]]:
    """Runs of consecutive items, in order, each with its answers or, for a single item, with what went wrong.

    `k` guilty items among `n` cost about `2 k log2(n / k)` calls more than none.
    """
    if not items:
        return
    run = range(start, start + len(items))
    try:
        answered = answers(items, served.predict(loaded))
        yield run, _Answered(answered, pack(encode(served, answer) for answer in answered))
    except ModelFailed as error:
        if len(items) == 1:
            yield run, error
        else:
            half = len(items) // 2
            yield from _isolate(served, items[:half], loaded[:half], start)
            yield from _isolate(served, items[half:], loaded[half:], start + half)


def _failure(place: int, code: str, message: str) -> ItemFailure:
    """A failure whose message is cut: user code likes to quote the whole item, which may be a megabyte."""
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = f"{message[: MAX_MESSAGE_CHARACTERS - 1]}…"
    return ItemFailure(place, code, message)


def _sentence(errors: Sequence[FieldError]) -> str:
    return "; ".join(f"{error.pointer or 'item'}: {error.detail}" for error in errors)
