"""Items that were parsed and given away, and are parsed again if anybody looks at them still."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import overload

from app.models import JsonObject


class Reparsed(Sequence[JsonObject]):
    """`n_items` items, which `parse` makes when the first of them is looked at; a slice of them waits likewise."""

    def __init__(self, n_items: int, parse: Callable[[], Sequence[JsonObject]]) -> None:
        self._n_items = n_items
        self._parse = parse

    @cached_property
    def _items(self) -> Sequence[JsonObject]:
        return self._parse()

    def __len__(self) -> int:
        return self._n_items

    @overload
    def __getitem__(self, place: int) -> JsonObject: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[JsonObject]: ...
    def __getitem__(self, place: int | slice) -> JsonObject | Sequence[JsonObject]:
        if isinstance(place, slice):
            return Reparsed(len(range(self._n_items)[place]), lambda: self._items[place])
        return self._items[place]
