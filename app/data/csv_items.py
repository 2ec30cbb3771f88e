"""The items of a CSV body (RFC 4180): a header row, then one item per row, every cell a string."""

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import chain

import orjson

from app.data.chunks import Limits
from app.data.items import item_too_large
from app.data.lines import whole_lines
from app.errors import BadRequest, Invalid, ServingError, TooLarge, refused

# The csv module's own limit, one for the process, is 128 KiB per cell. Items have a limit of ours.
csv.field_size_limit(2**31 - 1)

# Every item repeats the header's names, so names of 1 MB over rows of 2 bytes would make terabytes of a small
# body. Tables of short numbers grow about fivefold.
_MAX_GROWTH = 10


class CsvItems:
    """The JSON text of each row; blank lines are skipped. Errors name the line on which the row starts.

    With `every_row` there is b"" for each that has no item: the header and blank lines. While they are taken,
    `n_lines` tells how many lines there are down to the end of what came last, and `has_header` whether the header
    was among them.
    """

    def __init__(self, pieces: Iterable[bytes], limits: Limits, every_row: bool = False) -> None:
        self._pieces = pieces
        self._limits = limits
        self._every_row = every_row
        self.n_lines = 0
        self.has_header = False

    def __iter__(self) -> Iterator[bytes]:
        limits = self._limits
        text = _Text(self._pieces, limits)
        rows = csv.reader(chain.from_iterable(text.batches()), strict=True)
        header: list[str] = []
        max_json_bytes, n_bytes = _MAX_GROWTH * limits.max_bytes, 0
        dumps, max_item_bytes = orjson.dumps, limits.max_item_bytes
        while True:
            text.line = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                raise _broken(error, text.line) from None
            text.n_silent = 0
            if not row or not header:
                if row:
                    header = _header(row, text.line)
                    self.has_header = True
                if self._every_row:
                    self.n_lines = rows.line_num
                    yield b""
                continue
            if len(row) != len(header):
                raise _uneven(row, header, text.line)
            item = dumps(dict(zip(header, row, strict=True)))
            if len(item) > max_item_bytes:
                raise item_too_large(f"line {text.line}", limits)
            n_bytes += len(item)
            if n_bytes > max_json_bytes:
                detail = (
                    f"the rows up to here are larger than {max_json_bytes:,} bytes of JSON, names included"
                )
                raise refused(TooLarge, f"line {text.line}", detail)
            self.n_lines = rows.line_num
            # A copy: orjson leaves its buffer behind the result, 4 KiB at least, and a chunk holds 1,000 of them.
            yield b"%b" % item


class _Text:
    """Lines for csv.reader, which gives no sign of life before a row is complete.

    An open quote would make it swallow the rest of the body: `n_silent` counts the bytes since its last row.
    """

    def __init__(self, pieces: Iterable[bytes], limits: Limits) -> None:
        self._pieces = pieces
        self._limits = limits
        self.n_silent = 0
        self.line = 1

    def batches(self) -> Iterator[io.StringIO]:
        """Whole lines, decoded, that split at newlines alone (`str.splitlines` knows ten more line ends)."""
        n_lines = 0
        for block in whole_lines(self._pieces, self._limits):
            if self.n_silent > self._limits.max_item_bytes:
                raise item_too_large(f"line {self.line}", self._limits)
            self.n_silent += len(block)
            try:
                lines = block.decode()
            except UnicodeDecodeError as error:
                before = block[: error.start]
                line, offset = n_lines + before.count(b"\n") + 1, error.start - before.rfind(b"\n") - 1
                detail = f"not UTF-8 at byte offset {offset} of the line"
                raise refused(BadRequest, f"line {line}", detail) from None
            yield io.StringIO(lines, newline="\n")
            n_lines += block.count(b"\n")


def _header(names: list[str], line: int) -> list[str]:
    seen: set[str] = set()
    for column, name in enumerate(names, 1):
        if not name.strip():
            raise refused(Invalid, f"line {line}", f"the header has no name for column {column}")
        if name in seen:
            raise refused(Invalid, f"line {line}", f"the header names the column `{name}` twice")
        seen.add(name)
    return names


def _uneven(row: list[str], header: list[str], line: int) -> ServingError:
    missing = f"; `{header[len(row)]}` has none" if len(row) < len(header) else ""
    detail = f"the row has {len(row)} cells and the header {len(header)}{missing}"
    return refused(Invalid, f"line {line}", detail)


def _broken(error: csv.Error, line: int) -> ServingError:
    reason = str(error)
    if "unexpected end" in reason:
        reason = "the body ends inside a quoted cell"
    elif "new-line character" in reason:
        reason = "a carriage return stands outside quotes without a newline"
    return refused(BadRequest, f"line {line}", f"not CSV: {reason}")
