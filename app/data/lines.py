"""Line by line: NDJSON items, and the whole lines that CSV is read from too."""

from collections.abc import Iterable, Iterator
from operator import methodcaller

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

_stripped = methodcaller("strip", WHITE_SPACE)


def ndjson_items(pieces: Iterable[bytes], limits: Limits) -> Iterator[list[bytes]]:
    """The JSON text of each line that is not blank, checked, in batches; errors name the line."""
    return (items for _, items in checked_blocks(pieces, limits))


def checked_blocks(pieces: Iterable[bytes], limits: Limits) -> Iterator[tuple[bytes, list[bytes]]]:
    """Blocks of whole lines, as they are in the body, each with its items; errors name the line that is none.

    A block is checked as a whole, at twice the speed of line by line; which line is wrong is looked for later.
    """
    first_line = 1
    for block in whole_lines(pieces, limits):
        lines = block.split(b"\n")
        texts = list(filter(None, map(_stripped, lines)))
        if not _are_items(texts, limits):
            _refuse_first(lines, first_line, limits)
        yield block, _on_one_line(texts, block)
        first_line += len(lines) - 1


def items_of(block: bytes) -> list[bytes]:
    """The items of a block that was checked once."""
    return _on_one_line(list(filter(None, map(_stripped, block.split(b"\n")))), block)


def _on_one_line(items: list[bytes], block: bytes) -> list[bytes]:
    """A carriage return can only stand between tokens: inside a string orjson refuses it."""
    return [item.replace(b"\r", b"") for item in items] if b"\r" in block else items


def _are_items(texts: list[bytes], limits: Limits) -> bool:
    longest = max(map(len, texts), default=0)
    if longest > limits.max_item_bytes:
        return False
    # Each level takes two bytes, and most lines are too short to be too deep.
    if longest > 2 * limits.max_depth and any(_is_too_deep(text, limits.max_depth) for text in texts):
        return False
    try:
        return {dict}.issuperset(map(type, map(orjson.loads, texts)))
    except orjson.JSONDecodeError:
        return False


def _refuse_first(lines: list[bytes], first_line: int, limits: Limits) -> None:
    """Raises what is wrong with the first line that is no item."""
    for number, line in enumerate(lines, first_line):
        item = line.strip(WHITE_SPACE)
        if len(item) > limits.max_item_bytes:
            raise item_too_large(f"line {number}", limits)
        if _is_too_deep(item, limits.max_depth):
            raise item_too_deep(f"line {number}", limits)
        if item and not _are_items([item], limits):
            raise item_refused(item, f"line {number}", line.index(item), "the line")


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
