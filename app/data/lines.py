"""Line by line: NDJSON items, and the whole lines that CSV is read from too."""

from collections.abc import Iterable, Iterator

import orjson

from app.data.chunks import Limits
from app.data.items import (
    BOM,
    TOO_DEEP,
    WHITE_SPACE,
    item_refused,
    item_too_deep,
    item_too_large,
    object_end,
)


def ndjson_items(pieces: Iterable[bytes], limits: Limits) -> Iterator[bytes]:
    """The JSON text of each line that is not blank, checked; errors name the line."""
    loads = orjson.loads
    max_item_bytes, max_depth = limits.max_item_bytes, limits.max_depth
    first_line = 1
    for block in whole_lines(pieces, limits):
        lines = block.split(b"\n")
        for number, line in enumerate(lines, first_line):
            item = line.strip(WHITE_SPACE)
            n_bytes = len(item)
            if not n_bytes:
                continue
            if n_bytes > max_item_bytes:
                raise item_too_large(f"line {number}", limits)
            # Each level takes two bytes, and most lines are too short to be too deep.
            if n_bytes > 2 * max_depth and _is_too_deep(item, max_depth):
                raise item_too_deep(f"line {number}", limits)
            try:
                is_object = type(loads(item)) is dict
            except orjson.JSONDecodeError:
                is_object = False
            if not is_object:
                raise item_refused(item, f"line {number}", line.index(item), "the line")
            # A carriage return can only stand between tokens: inside a string orjson refuses it.
            yield item.replace(b"\r", b"") if b"\r" in item else item
        first_line += len(lines) - 1


def whole_lines(pieces: Iterable[bytes], limits: Limits) -> Iterator[bytes]:
    """The same bytes without a byte order mark, in blocks that end with a newline (the last one may not).

    Raises TooLarge for a line that is longer than an item may be.
    """
    unfinished: list[bytes] = []  # joined only when the line ends, so that a long line costs linear time
    n_unfinished = n_lines = 0
    is_start = True
    for piece in pieces:
        if is_start:
            piece, is_start = piece.removeprefix(BOM), False
        end = piece.rfind(b"\n") + 1
        if end:
            block = b"".join((*unfinished, piece[:end]))
            yield block
            n_lines += block.count(b"\n")
            unfinished.clear()
            n_unfinished = 0
        unfinished.append(piece[end:])
        n_unfinished += len(piece) - end
        if n_unfinished > limits.max_item_bytes + len(b"\r"):
            raise item_too_large(f"line {n_lines + 1}", limits)
    if n_unfinished:
        yield b"".join(unfinished)


def _is_too_deep(item: bytes, max_depth: int) -> bool:
    if item.count(b"{") + item.count(b"[") <= max_depth:
        return False
    return item[0] in b"{[" and object_end(item, 0, max_depth) == TOO_DEEP
