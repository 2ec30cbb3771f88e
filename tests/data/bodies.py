"""Bodies for the tests of the data path: limits, block boundaries, and items written in each format."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from app.data import Format, ItemChunk, Limits, read_items

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

LIMITS = Limits(chunk_items=1000, chunk_bytes=1 << 20, max_item_bytes=1 << 20, max_bytes=1 << 30)

# The machine may be busy: time is no property here.
sampled = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

Item = dict[str, Any]

# Beyond 64 bits and beyond a double on purpose: they must come through digit by digit.
_numbers = (
    st.integers(-(10**40), 10**40) | st.integers(-100, 100) | st.floats(allow_nan=False, allow_infinity=False)
)
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ['"', "\\", '\\"', "}{", "],[", "\r\n", ",\n", "\u2028", "😀", "\x85", "\x00"]
)
_values = st.recursive(
    st.none() | st.booleans() | _numbers | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)
json_item = st.dictionaries(_texts, _values, max_size=4)
json_items = st.lists(json_item, min_size=1, max_size=8)

_names = st.lists(_texts.filter(str.strip), min_size=1, max_size=4, unique=True)
csv_tables = _names.flatmap(
    lambda names: st.lists(st.fixed_dictionaries(dict.fromkeys(names, _texts)), min_size=1, max_size=8)
)
limits = st.builds(
    lambda chunk_items, chunk_bytes: replace(LIMITS, chunk_items=chunk_items, chunk_bytes=chunk_bytes),
    st.integers(1, 5),
    st.sampled_from([1, 40, 200, 1 << 20]),
)


@st.composite
def split(draw: st.DrawFn, body: bytes) -> list[bytes]:
    """The body cut into blocks anywhere, empty ones included."""
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=10)))
    return [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


def bytewise(body: bytes) -> list[bytes]:
    return [body[index : index + 1] for index in range(len(body))]


def whole(body: bytes) -> list[bytes]:
    return [body]


Cut = Callable[[bytes], list[bytes]]
both_cuts = pytest.mark.parametrize("cut", [bytewise, whole])


def dumped(value: object, indent: int | None = None, ascii: bool = False) -> bytes:
    """JSON by the standard library, which keeps every digit of an integer."""
    return json.dumps(value, indent=indent, ensure_ascii=ascii).encode()


def csv_body(items: Sequence[Item]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(items[0]))
    writer.writeheader()
    writer.writerows(items)
    return text.getvalue().encode()


def parquet(table: Any, **options: Any) -> bytes:
    """An Arrow table as a Parquet file."""
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def read(blocks: Iterable[bytes] | bytes, format: Format, limits: Limits = LIMITS) -> list[ItemChunk]:
    return list(read_items([blocks] if isinstance(blocks, bytes) else blocks, format, limits))


def items_of(chunks: Iterable[ItemChunk]) -> Iterator[Item]:
    for chunk in chunks:
        yield from json.loads(chunk.payload)


def assert_chunk_format(chunks: Sequence[ItemChunk], limits: Limits) -> None:
    """Consecutive, within the limits, and one item per line."""
    first_item = 0
    for chunk in chunks:
        assert chunk.first_item == first_item
        assert 1 <= chunk.n_items <= limits.chunk_items
        assert len(chunk.payload) <= limits.chunk_bytes or chunk.n_items == 1
        assert (chunk.payload[:1], chunk.payload[-1:]) == (b"[", b"]")
        lines = chunk.payload[1:-1].split(b",\n")
        assert len(lines) == chunk.n_items == chunk.payload.count(b"\n") + 1
        assert b"\r" not in chunk.payload
        assert all(type(json.loads(line)) is dict for line in lines)
        first_item += chunk.n_items
