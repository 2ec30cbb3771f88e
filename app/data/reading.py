"""Uploads, read as a stream: blocks of bytes in, chunks of items out."""

from collections.abc import Iterable, Iterator

from app.data.chunks import ItemChunk, Limits, batched, chunked
from app.data.csv_items import CsvItems
from app.data.formats import Format
from app.data.json_items import json_items
from app.data.lines import ndjson_items
from app.data.transfer import at_most, regrouped
from app.errors import FieldError, Invalid


def read_items(blocks: Iterable[bytes], format: Format, limits: Limits) -> Iterator[ItemChunk]:
    """Read a decoded body into chunks, in order. Blocks may have any size and end anywhere.

    JSON is `{"data": [item, …]}`; NDJSON one item per line, blank lines skipped; CSV (RFC 4180) a header row
    and one item per row, every cell a string; Parquet one item per row. A UTF-8 byte order mark is skipped. JSON and
    NDJSON items keep their own bytes, so no number loses digits; only line breaks between their tokens go.

    Errors are raised while the chunks are taken, at the first fault: BadRequest for what cannot be read,
    Invalid for what breaks a rule (no items at all is one), TooLarge for an item, a body or a number of items over
    its limit. They name the place as `line 17` (NDJSON, CSV), `row 17` (Parquet) or `/data/17` (JSON); lines and rows
    count from 1, items from 0.
    """
    n_items = 0
    for chunk in chunked(_batches(regrouped(at_most(blocks, limits.max_bytes)), format, limits), limits):
        n_items += chunk.n_items
        yield chunk
    if not n_items:
        raise no_items(format)


def no_items(format: Format) -> Invalid:
    """What is wrong with a body that holds none."""
    return Invalid(
        "the body has no items", errors=[FieldError(_FIRST[format], "at least one item is needed")]
    )


_FIRST = {Format.JSON: "/data", Format.NDJSON: "line 1", Format.CSV: "line 1", Format.PARQUET: "row 1"}


def _batches(pieces: Iterator[bytes], format: Format, limits: Limits) -> Iterator[list[bytes]]:
    match format:
        case Format.JSON:
            return batched(json_items(pieces, limits))
        case Format.NDJSON:
            return ndjson_items(pieces, limits)
        case Format.CSV:
            return batched(CsvItems(pieces, limits))
        case Format.PARQUET:
            from app.data.parquet_items import parquet_items  # pyarrow is an extra, and 40 MB in memory

            return batched(parquet_items(pieces, limits))
