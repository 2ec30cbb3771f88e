"""The items of a JSON document `{"data": [item, …]}`, found while it arrives.

No JSON parser of Python stops at the end of a value, so a scanner over brackets and strings finds where each
item ends, and orjson then reads that slice. The document outside the items is small and read by hand.
"""

import re
from collections.abc import Iterable, Iterator

import orjson

from app.data.chunks import Limits
from app.data.items import (
    BOM,
    TOO_DEEP,
    UNFINISHED,
    WHITE_SPACE,
    item_refused,
    item_too_deep,
    item_too_large,
    kind_of,
    object_end,
)
from app.errors import BadRequest, Invalid, ServingError, refused

_SHAPE = 'the body must be a JSON object of the form {"data": [item, …]}'
_MAX_KEY_BYTES = 1000
_END = -1  # what peek() gives after the last byte
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_ARRAY, _CLOSE_ARRAY, _COMMA, _COLON, _QUOTE = b'{}[],:"'

_SPACES = re.compile(rb"[ \t\r\n]*+").match
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL).match
# In valid JSON a raw line break never stands inside a string, so neither does the indentation behind it.
_LINE_BREAKS = re.compile(rb"[\r\n][ \t\r\n]*+").sub


def json_items(pieces: Iterable[bytes], limits: Limits) -> Iterator[bytes]:
    """The JSON text of each item of `data`, on one line, checked; errors name `/data/<index>` and the offset.

    An item's bytes are its own, but for line breaks and indentation between tokens. `max_item_bytes` holds
    for the item as sent.
    """
    window = _Window(pieces)
    if window.peek() == _END:
        return  # no items: the caller says so
    _open_data(window)
    yield from _items(window, limits)
    _close_document(window)


class _Window:
    """The stretch of the document that is in memory: `data`, read up to `position`."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._dropped = 0
        self.data = next(self._pieces, b"")
        self.position = len(BOM) if self.data.startswith(BOM) else 0

    @property
    def offset(self) -> int:
        """Where `position` is in the whole body."""
        return self._dropped + self.position

    def peek(self) -> int:
        """The next byte that is not white space, which `position` then points at; _END after the last."""
        while True:
            if self.position < len(self.data):
                byte = self.data[self.position]
                if byte not in WHITE_SPACE:
                    return byte
                match = _SPACES(self.data, self.position)
                self.position = match.end() if match else self.position
            elif not self.grow():
                return _END

    def grow(self) -> bool:
        """Drop what was read and at least double what is left; False when the document has no more.

        Whoever grows starts over at `position`. Doubling keeps the sum of those starts linear.
        """
        parts = [self.data[self.position :]]
        wanted = len(parts[0]) or 1
        for piece in self._pieces:
            parts.append(piece)
            wanted -= len(piece)
            if wanted <= 0:
                break
        self._dropped += self.position
        self.position = 0
        self.data = b"".join(parts)
        return len(parts) > 1

    def take(self, byte: int, expected: str) -> None:
        """Step over this byte, or refuse the document."""
        if self.peek() != byte:
            raise self.broken(expected)
        self.position += 1

    def broken(self, expected: str, pointer: str = "") -> ServingError:
        """The error for a document that has something else than `expected` at `position`, or ends there."""
        if self.peek() == _END:
            detail = f"the body is cut short at byte offset {self.offset}: expected {expected}"
        else:
            found = self.data[self.position : self.position + 1].decode(errors="backslashreplace")
            detail = f"not JSON: expected {expected}, found {found!r} at byte offset {self.offset}"
        return refused(BadRequest, pointer, detail)


def _open_data(window: _Window) -> None:
    """Read up to and including the `[` of `data`."""
    first = window.peek()
    if first != _OPEN_OBJECT:
        kind = kind_of(first)
        raise refused(Invalid, "", f"{_SHAPE}, not {kind}") if kind else window.broken("`{`")
    window.position += 1
    if window.peek() == _CLOSE_OBJECT:
        raise refused(Invalid, "/data", f"`data` is missing; {_SHAPE}")
    _take_data_key(window)
    window.take(_COLON, "`:`")
    first = window.peek()
    if first != _OPEN_ARRAY:
        kind = kind_of(first)
        raise (
            refused(Invalid, "/data", f"`data` must be an array of items, not {kind}")
            if kind
            else window.broken("an array of items", "/data")
        )
    window.position += 1


def _take_data_key(window: _Window, is_second: bool = False) -> None:
    if window.peek() != _QUOTE:
        raise window.broken("a key in quotes")
    while not (match := _STRING(window.data, window.position)):
        if len(window.data) - window.position > _MAX_KEY_BYTES:
            raise refused(Invalid, "", f"a key longer than {_MAX_KEY_BYTES:,} bytes; {_SHAPE}")
        if not window.grow():
            raise refused(BadRequest, "", "the body is cut short inside a key")
    try:
        key = orjson.loads(match[0])
    except orjson.JSONDecodeError as error:
        detail = f"not JSON: {error.msg}, in the key at byte offset {window.offset} of the body"
        raise refused(BadRequest, "", detail) from None
    if key != "data":
        pointer = "/" + key[:60].replace("~", "~0").replace("/", "~1")
        raise refused(Invalid, pointer, f"unknown key; {_SHAPE}")
    if is_second:
        raise refused(Invalid, "/data", "`data` is there twice")
    window.position = match.end()


def _items(window: _Window, limits: Limits) -> Iterator[bytes]:
    """Each item, up to and including the `]` of `data`."""
    loads = orjson.loads
    max_item_bytes, max_depth = limits.max_item_bytes, limits.max_depth
    index = 0
    byte = window.peek()
    while byte != _CLOSE_ARRAY:
        if byte != _OPEN_OBJECT:
            raise _not_an_object(window, byte, index)
        while (end := object_end(window.data, window.position, max_depth)) == UNFINISHED:
            if len(window.data) - window.position > max_item_bytes:
                raise item_too_large(f"/data/{index}", limits)
            start = window.offset
            if not window.grow():
                detail = f"the body is cut short inside the item that starts at byte offset {start}"
                raise refused(BadRequest, f"/data/{index}", detail)
        if end == TOO_DEEP:
            raise item_too_deep(f"/data/{index}", limits)
        item = window.data[window.position : end]
        if len(item) > max_item_bytes:
            raise item_too_large(f"/data/{index}", limits)
        try:
            loads(item)
        except orjson.JSONDecodeError:
            raise item_refused(item, f"/data/{index}", window.offset, "the body") from None
        yield _LINE_BREAKS(b"", item) if b"\n" in item or b"\r" in item else item
        index += 1
        window.position = end
        byte = window.peek()
        if byte == _COMMA:
            window.position += 1
            byte = window.peek()
            if byte == _CLOSE_ARRAY:
                raise window.broken("an item after the comma", f"/data/{index}")
        elif byte != _CLOSE_ARRAY:
            raise window.broken("`,` or `]` after the item", f"/data/{index - 1}")
    window.position += 1


def _not_an_object(window: _Window, byte: int, index: int) -> ServingError:
    kind = kind_of(byte)
    if kind is None:
        return window.broken("an item, a JSON object", f"/data/{index}")
    detail = f"an item must be a JSON object, not {kind} (byte offset {window.offset})"
    return refused(Invalid, f"/data/{index}", detail)


def _close_document(window: _Window) -> None:
    """Read from behind the `]` of `data` to the end: `}`, and nothing but white space after it."""
    if window.peek() == _COMMA:
        window.position += 1
        _take_data_key(window, is_second=True)
    window.take(_CLOSE_OBJECT, "`,` or `}` after `data`")
    if window.peek() != _END:
        raise window.broken("nothing after the document")
