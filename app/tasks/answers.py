"""A chunk's answer, made of what became of its items."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from operator import or_

from app.data import exact
from app.data.chunks import MISSING, answers, joined, pack, unpack
from app.data.objects import Written
from app.jobs.claims import ItemFailure
from app.models import JsonObject
from app.tasks.reparsed import Reparsed


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of items: at these places there are predictions, which `payload` has as JSON; the others failed."""

    places: Sequence[int]
    predictions: list[JsonObject]
    payload: bytes
    failures: list[ItemFailure]


class ParsedChunk:
    """The items of a chunk, to be given to a model, and to be found again for the answer."""

    def __init__(self, payload: bytes) -> None:
        self.spent: list[JsonObject] = exact.loads(payload)
        """The items, which are the model's to change."""
        are_filled = {dict}.issuperset(map(type, self.spent)) and all(self.spent)
        self._names = _names(self.spent) if are_filled else None
        self._payload = payload
        # Few chunks need their items again.
        self.items = Reparsed(len(self.spent), partial(exact.loads, payload))

    def answer(
        self, outcome: Outcome, *, n_cached: int = 0, new: dict[str, bytes] | None = None
    ) -> ChunkAnswer:
        """The answer, when this became of its items; `n_cached` and `new` as it has them."""
        answered, columns, is_whole = _answers(self._payload, self.items, outcome, self._names)
        if outcome.failures:
            lines = unpack(answered)
            for failure in outcome.failures:  # by ascending place, so that each stands where it belongs
                lines.insert(failure.place, MISSING)
            answered = pack(lines)
        return ChunkAnswer(answered, columns, outcome.failures, is_whole, n_cached=n_cached, new=new or {})


def _answers(
    payload: bytes, items: Sequence[JsonObject], outcome: Outcome, own: dict[str, None] | None
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
