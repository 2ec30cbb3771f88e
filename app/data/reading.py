"""Uploads, read as a stream: blocks of bytes in, chunks of items out."""

from collections.abc import Iterable, Iterator

from app.data.chunks import ItemChunk, Limits, chunked
from app.data.csv_items import csv_items
from app.data.formats import Format
from app.data.json_items import json_items
from app.data.lines import ndjson_items
from app.data.transfer import at_most, regrouped
from app.errors import FieldError, Invalid

_READERS = {Format.JSON: json_items, Format.NDJSON: ndjson_items, Format.CSV: csv_items}


def read_items(blocks: Iterable[bytes], format: Format, limits: Limits) -> Iterator[ItemChunk]:
    """Read a decoded body into chunks, in order. Blocks may have any size and end anywhere.

    JSON is `{"data": [item, …]}`; NDJSON one item per line, blank lines skipped; CSV (RFC 4180) a header row
    and one item per row, every cell a string. A UTF-8 byte order mark is skipped. JSON and NDJSON items keep
    their own bytes, so no number loses digits; only line breaks between their tokens go.

    Errors are raised while the chunks are taken, at the first fault: BadRequest for what cannot be read,
    Invalid for what breaks a rule (no items at all is one), TooLarge for an item or a body over its limit.
    They name the place as `line 17` (NDJSON, CSV) or `/data/17` (JSON); lines count from 1, items from 0.
    """
    items = _READERS[format](regrouped(at_most(blocks, limits.max_bytes)), limits)
    n_items = 0
    for chunk in chunked(items, limits):
        n_items += chunk.n_items
        yield chunk
    if not n_items:
        pointer = "/data" if format is Format.JSON else "line 1"
        raise Invalid("the body has no items", errors=[FieldError(pointer, "at least one item is needed")])
