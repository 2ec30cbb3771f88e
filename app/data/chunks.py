"""Chunks: consecutive items in one payload, a JSON array with one item per line.

A payload is `[` + items joined by `,\\n` + `]`, and an empty one is `[]`. No item holds a raw newline, so a
database reads a payload with `json_each`, and the items are found again without parsing.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from app.errors import TooLarge

SEPARATOR = b",\n"
_BETWEEN = b"}" + SEPARATOR
BATCH_BYTES = 64 << 10
MISSING = b"null"
"""What stands in the place of an item that failed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a chunk, an item, a body and a set of items may be. Bytes are counted decoded, after decompression."""

    chunk_items: int
    chunk_bytes: int
    max_item_bytes: int
    max_bytes: int
    max_items: int = 2**31 - 1
    max_depth: int = 100
    """Objects and arrays inside each other, the item itself counted."""


@dataclass(frozen=True, slots=True)
class ItemChunk:
    """`n_items` items from the 0-based index `first_item` on, in the chunk format."""

    first_item: int
    n_items: int
    payload: bytes


def pack(items: Iterable[bytes]) -> bytes:
    """The payload of these items, each one JSON text without raw newlines."""
    return b"[%b]" % SEPARATOR.join(items)


def unpack(payload: bytes) -> list[bytes]:
    """The JSON texts of a payload's items, without parsing."""
    return [] if payload == b"[]" else payload[1:-1].split(SEPARATOR)


def answers(items: bytes, predictions: bytes, n_missing: int) -> bytes:
    """The payload of items with their predictions: of each object its own text, then the fields of the other.

    Of the predictions `n_missing` are `null`, and so are then the answers. The others are objects with a field at
    least, as their items are, and none has a field of its item's name.
    """
    if n_missing:
        pairs = zip(unpack(items), unpack(predictions), strict=True)
        return pack(new if new == MISSING else joined(item, new[1:-1]) for item, new in pairs)
    opened = items[1:-2].split(_BETWEEN)  # each without its last brace
    fields = predictions[2:-2].split(_BETWEEN + b"{")
    n_items = len(opened)
    # Everything by one join, which takes three quarters of the time of one for each item and another for all.
    parts = [_BETWEEN] * (4 * n_items + 1)
    parts[0], parts[-1] = b"[", b"}]"
    parts[1::4] = opened
    parts[2::4] = [b","] * n_items
    parts[3::4] = fields
    return b"".join(parts)


def joined(item: bytes, fields: bytes) -> bytes:
    """The JSON text of an object with more fields, whose names are not among its own."""
    if not fields:
        return item
    return item[:-1] + (b"," if b":" in item else b"") + fields + b"}"


def part(payload: bytes, start: int, n_items: int) -> bytes:
    """The payload of `n_items` of a payload's items, from place `start` on."""
    return pack(unpack(payload)[start : start + n_items])


def together(payloads: Iterable[bytes]) -> bytes:
    """One payload of the items of several, none of them empty, in their order."""
    return pack(payload[1:-1] for payload in payloads)


def chunked(batches: Iterable[Sequence[bytes]], limits: Limits) -> Iterator[ItemChunk]:
    """Pack single-line items into chunks of at most `chunk_items` items and `chunk_bytes` of payload.

    An item that is larger than `chunk_bytes` by itself gets a chunk of its own. How items are batched makes no
    difference. Raises TooLarge with the item over `max_items`.
    """
    lines: list[bytes] = []
    n_bytes = first_item = 0
    for batch in batches:
        start = 0
        while start < len(batch):
            taken = batch[start : start + limits.chunk_items - len(lines)]
            cost = _cost(taken)
            if n_bytes + cost > limits.chunk_bytes:
                taken = taken[: _n_fitting(taken, limits.chunk_bytes - n_bytes) or not lines]
                cost = _cost(taken)
            if taken:
                lines += taken
                n_bytes += cost
                start += len(taken)
            else:
                yield _chunk(first_item, lines, limits)
                first_item += len(lines)
                lines.clear()
                n_bytes = 0
    if lines:
        yield _chunk(first_item, lines, limits)


def batched(items: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The same items in batches of `BATCH_BYTES`, the last of each included."""
    batch: list[bytes] = []
    n_bytes = 0
    for item in items:
        batch.append(item)
        n_bytes += len(item)
        if n_bytes >= BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


def _cost(items: Sequence[bytes]) -> int:
    """Bytes in a payload: n items have n - 1 separators and two brackets, which are n * 2 bytes."""
    return sum(map(len, items)) + len(SEPARATOR) * len(items)


def _n_fitting(items: Sequence[bytes], max_bytes: int) -> int:
    """How many of these items, from the first on, cost no more."""
    return bisect_right(list(accumulate(len(item) + len(SEPARATOR) for item in items)), max_bytes)


def _chunk(first_item: int, lines: list[bytes], limits: Limits) -> ItemChunk:
    if first_item + len(lines) > limits.max_items:
        raise TooLarge(f"the body has more than {limits.max_items:,} items; upload it in parts")
    return ItemChunk(first_item, len(lines), pack(lines))
