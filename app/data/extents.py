"""Extents: where in an object consecutive items stand, so that they can be read from there without the rest.

Found in one pass over the object, with the same checks as an upload. NDJSON and CSV alone: their items end where
lines end. In CSV every extent needs the header as well, which stands at the object's start.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from app.data.chunks import SEPARATOR, Limits, pack
from app.data.csv_items import CsvItems
from app.data.formats import Format
from app.data.items import BOM, WHITE_SPACE
from app.data.lines import checked_blocks, items_of
from app.data.reading import no_items
from app.data.transfer import regrouped
from app.errors import Invalid, TooLarge, refused

FORMATS = {".ndjson": Format.NDJSON, ".jsonl": Format.NDJSON, ".csv": Format.CSV}
"""Formats that are read in place, by how names end."""
MAX_HEADER_BYTES = 64 << 10
"""Each chunk of a CSV reads the header again."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_INSTEAD = "upload it with POST /v1/inputs instead, or store it as NDJSON or CSV"
_ANYTHING = Limits(sys.maxsize, sys.maxsize, sys.maxsize, sys.maxsize)


@dataclass(frozen=True, slots=True)
class Extent:
    """`n_items` items from the index `first_item` on, in `n_bytes` of an object from byte `offset` on.

    `header_bytes` of a CSV stand at the object's start; None says NDJSON. `sha256`, in hex, is of the header and them.
    """

    first_item: int
    n_items: int
    offset: int
    n_bytes: int
    header_bytes: int | None
    sha256: str

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """What is to be read, as (start, stop) in bytes: the header, if it has one, and the items."""
        items = (self.offset, self.offset + self.n_bytes)
        return (items,) if self.header_bytes is None else ((0, self.header_bytes), items)

    def is_of(self, parts: Iterable[bytes]) -> bool:
        """Whether these bytes of its ranges are those that were found there once."""
        return _digest(parts) == self.sha256

    def payload(self, parts: Iterable[bytes]) -> bytes:
        """The items in the chunk format, from the bytes of its ranges, which `is_of` knows: they were checked."""
        if self.header_bytes is None:
            return pack(item for block in parts for item in items_of(block))
        return pack(CsvItems(parts, _ANYTHING))


def format_of_name(name: str, given: str | None) -> Format:
    """The format of an object that is to be read in place; `Invalid` for one that must be uploaded, or unknown."""
    if given is None:
        for ending, format in FORMATS.items():
            if name.lower().endswith(ending):
                return format
        detail = (
            f"say which, ndjson or csv: the name ends with none of {', '.join(FORMATS)}; others: {_INSTEAD}"
        )
    elif given in FORMATS.values():
        return Format(given)
    else:
        detail = f"{given} cannot be read in place, in parts: {_INSTEAD}"
    raise refused(Invalid, "/format", detail)


def find_extents(blocks: Iterable[bytes], format: Format, limits: Limits) -> Iterator[Extent]:
    """The extents of an object's items, in order, each a chunk at most. Errors as those of `read_items`."""
    pieces = regrouped(blocks)
    first = next(pieces, b"")
    for magic, name in _COMPRESSED.items():
        if first.startswith(magic):
            raise Invalid(
                f"the object is compressed ({name}), so no part of it can be read alone: {_INSTEAD}"
            )
    pieces = chain([first], pieces)
    n_items = 0
    for extent in _ndjson(pieces, first, limits) if format is Format.NDJSON else _csv(pieces, limits):
        n_items += extent.n_items
        if n_items > limits.max_items:
            raise TooLarge(f"the object has more than {limits.max_items:,} items; register it in parts")
        yield extent
    if not n_items:
        raise no_items(format)


def _ndjson(pieces: Iterable[bytes], first: bytes, limits: Limits) -> Iterator[Extent]:
    lines = (
        (line, len(line) if line.strip(WHITE_SPACE) else 0)
        for block, _ in checked_blocks(pieces, limits)
        for line in _lines(block)
    )
    # A byte order mark is part of no item.
    return _grouped(lines, len(BOM) if first.startswith(BOM) else 0, None, limits)


def _csv(pieces: Iterable[bytes], limits: Limits) -> Iterator[Extent]:
    kept = _Kept(pieces)
    rows = CsvItems(kept, limits, every_row=True)
    texts = ((kept.take_to(rows.n_lines), len(item)) for item in rows)
    header = bytearray()
    while not rows.has_header:
        if (before := next(texts, None)) is None:
            return iter(())
        header += before[0]
        if len(header) > MAX_HEADER_BYTES:
            detail = f"the header is larger than {MAX_HEADER_BYTES:,} bytes: {_INSTEAD}"
            raise refused(TooLarge, "line 1", detail)
    return _grouped(texts, len(header), bytes(header), limits)


def _grouped(
    texts: Iterable[tuple[bytes, int]], offset: int, header: bytes | None, limits: Limits
) -> Iterator[Extent]:
    """Extents of consecutive texts, given with the bytes of the item in each; 0 bytes: there is none in it."""
    first_item = n_items = n_bytes = 0
    waiting: list[bytes] = []

    def extent() -> Extent:
        items = b"".join(waiting)
        sha256 = _digest([header or b"", items])
        header_bytes = None if header is None else len(header)
        return Extent(first_item, n_items, offset, len(items), header_bytes, sha256)

    for text, item_bytes in texts:
        cost = max(len(text), item_bytes) + len(SEPARATOR)
        if waiting and (n_items == limits.chunk_items or n_bytes + cost > limits.chunk_bytes):
            if n_items:
                yield extent()
            offset += sum(map(len, waiting))
            first_item, n_items, n_bytes = first_item + n_items, 0, 0
            waiting.clear()
        waiting.append(text)
        n_items += item_bytes > 0
        n_bytes += cost
    if n_items:
        yield extent()


def _digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _lines(block: bytes) -> Iterator[bytes]:
    """The lines of a block, with their ends."""
    *whole, last = block.split(b"\n")
    yield from (line + b"\n" for line in whole)
    if last:
        yield last


class _Kept:
    """Pieces, passed on as they are, whose lines can be taken once more by who has counted them."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self._waiting = b""
        self._start = 0
        self._n_taken = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._waiting = self._waiting[self._start :] + piece
            self._start = 0
            yield piece

    def take_to(self, n_lines: int) -> bytes:
        """All that was not taken yet down to the end of line `n_lines`, counted from the start."""
        end = self._start
        for _ in range(n_lines - self._n_taken):
            end = self._waiting.find(b"\n", end) + 1 or len(self._waiting)
        text = self._waiting[self._start : end]
        self._start, self._n_taken = end, n_lines
        return text
