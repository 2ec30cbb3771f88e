"""Chunks: consecutive items in one payload, a JSON array with one item per line.

A payload is `[` + items joined by `,\\n` + `]`, and an empty one is `[]`. No item holds a raw newline, so a
database reads a payload with `json_each`, and the items are found again without parsing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from app.errors import TooLarge

SEPARATOR = b",\n"
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
    """The payload of these items, each one JSON text without raw newlines.

    It is written as they come: items made one by one are never all in memory beside it.
    """
    payload = bytearray(b"[")
    for item in items:
        payload += item
        payload += SEPARATOR
    if len(payload) > 1:
        del payload[-len(SEPARATOR) :]
    payload += b"]"
    return bytes(payload)


def unpack(payload: bytes) -> list[bytes]:
    """The JSON texts of a payload's items, without parsing."""
    return [] if payload == b"[]" else payload[1:-1].split(SEPARATOR)


def joined(first: bytes, second: bytes) -> bytes:
    """The JSON text of an object with the fields of two, which have no name in common."""
    if second == b"{}":
        return first
    return first[:-1] + (b"," if b":" in first else b"") + second[1:]


def part(payload: bytes, start: int, n_items: int) -> bytes:
    """The payload of `n_items` of a payload's items, from place `start` on."""
    return pack(unpack(payload)[start : start + n_items])


def chunked(items: Iterable[bytes], limits: Limits) -> Iterator[ItemChunk]:
    """Pack single-line items into chunks of at most `chunk_items` items and `chunk_bytes` of payload.

    An item that is larger than `chunk_bytes` by itself gets a chunk of its own.
    Raises TooLarge with the item over `max_items`.
    """
    chunk_items, chunk_bytes = limits.chunk_items, limits.chunk_bytes
    lines: list[bytes] = []
    n_bytes = first_item = 0
    for item in items:
        cost = len(item) + len(SEPARATOR)  # n items cost n - 1 separators and two brackets: n * 2 bytes
        if lines and (n_bytes + cost > chunk_bytes or len(lines) >= chunk_items):
            yield _chunk(first_item, lines, limits)
            first_item += len(lines)
            lines.clear()
            n_bytes = 0
        lines.append(item)
        n_bytes += cost
    if lines:
        yield _chunk(first_item, lines, limits)


def _chunk(first_item: int, lines: list[bytes], limits: Limits) -> ItemChunk:
    if first_item + len(lines) > limits.max_items:
        raise TooLarge(f"the body has more than {limits.max_items:,} items; upload it in parts")
    return ItemChunk(first_item, len(lines), pack(lines))
