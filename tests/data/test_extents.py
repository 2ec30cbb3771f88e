"""Extents: whatever is found in an object piece by piece is what an upload of it reads as a whole."""

import csv
import io
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.data.chunks import Limits, unpack
from app.data.extents import Extent, find_extents, format_of_name
from app.data.formats import Format
from app.data.reading import read_items
from app.errors import Invalid, ServingError, TooLarge
from tests.data.bodies import LIMITS, sampled, zstd

SMALL = Limits(chunk_items=4, chunk_bytes=120, max_item_bytes=10_000, max_bytes=1 << 30)
TEXTS = st.sampled_from(["", "x", 'é "quoted"', "two\nlines", "a, b", "long " * 30])
ENDS = st.sampled_from([b"\n", b"\r\n"])


def blocks(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def read(body: bytes, extent: Extent) -> list[bytes]:
    """The items of an extent, from its own ranges of the object."""
    parts = [body[start:stop] for start, stop in extent.ranges]
    assert extent.is_of(parts)
    return unpack(extent.payload(parts))


def check(body: bytes, format: Format, size: int) -> None:
    extents = list(find_extents(blocks(body, size), format, SMALL))

    found = [read(body, extent) for extent in extents]
    whole = [item for chunk in read_items([body], format, SMALL) for item in unpack(chunk.payload)]
    assert [item for items in found for item in items] == whole
    assert [extent.n_items for extent in extents] == [len(items) for items in found]
    assert [extent.first_item for extent in extents] == [
        sum(map(len, found[:place])) for place in range(len(found))
    ]
    assert all(first.offset + first.n_bytes <= second.offset for first, second in pairwise(extents))
    for extent in extents:
        assert extent.n_items <= SMALL.chunk_items
        assert extent.n_bytes <= SMALL.chunk_bytes or extent.n_items == 1


@sampled
@given(st.data())
def test_the_extents_of_ndjson_hold_what_an_upload_reads(data: st.DataObject) -> None:
    end = data.draw(ENDS)
    blank = st.sampled_from([b"", b"", end, b" " + end, end * 60])
    lines = data.draw(st.lists(st.tuples(blank, TEXTS), min_size=1, max_size=20))
    body = b"".join(before + orjson.dumps({"text": text}) + end for before, text in lines) + data.draw(blank)
    if data.draw(st.booleans()):
        body = body.rstrip()
    check(
        data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + body,
        Format.NDJSON,
        data.draw(st.integers(1, 300)),
    )


@sampled
@given(st.data())
def test_the_extents_of_csv_hold_what_an_upload_reads(data: st.DataObject) -> None:
    end = data.draw(ENDS)
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator=end.decode())
    text.write(data.draw(st.sampled_from(["", "", end.decode() * 3])))
    rows.writerow(["a", "b c"])
    for row in data.draw(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=20)):
        text.write(data.draw(st.sampled_from(["", "", end.decode() * 3, end.decode() * 200])))
        rows.writerow(["x", *row[1:]])
    body = text.getvalue().encode()
    if data.draw(st.booleans()):
        body = body.removesuffix(end)
    check(
        data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + body, Format.CSV, data.draw(st.integers(1, 300))
    )


@pytest.mark.parametrize("format", [Format.NDJSON, Format.CSV])
def test_a_byte_that_changed_is_noticed(format: Format) -> None:
    body = b'{"a":1}\n{"a":2}\n' if format is Format.NDJSON else b"a\n1\n2\n"
    (extent,) = find_extents([body], format, LIMITS)

    for place in range(len(body)):
        changed = body[:place] + b"#" + body[place + 1 :]
        assert not extent.is_of([changed[start:stop] for start, stop in extent.ranges])


@pytest.mark.parametrize(
    ("format", "body", "words"),
    [
        (Format.NDJSON, b'{"a":1}\n{"a":}\n', "line 2"),
        (Format.NDJSON, b"\n\n", "no items"),
        (Format.NDJSON, b"", "no items"),
        (Format.CSV, b"a,b\n1\n", "line 2"),
        (Format.CSV, b"a,b\n", "no items"),
        (Format.CSV, b'a\n"1\n', "line 2"),
        (Format.CSV, b"%b\n1\n" % (b"a" * 70_000), "the header is larger than"),
        (Format.NDJSON, b"\x1f\x8b\x08", "compressed (gzip)"),
        (Format.CSV, zstd.compress(b"a\n1\n"), "compressed (zstd)"),
    ],
)
def test_what_cannot_be_read_is_refused_where_it_breaks(format: Format, body: bytes, words: str) -> None:
    with pytest.raises(ServingError) as caught:
        list(find_extents([body], format, LIMITS))
    assert words in caught.value.detail


@pytest.mark.parametrize("format", [Format.NDJSON, Format.CSV])
def test_blank_lines_are_in_no_extent_beyond_its_size(format: Format) -> None:
    first, second = (b'{"a":1}\n', b'{"a":2}\n') if format is Format.NDJSON else (b"a\n1\n", b"2\n")
    body = first + b"\n" * 300_000 + second + b"\n" * 300_000

    extents = list(find_extents(blocks(body, 50_000), format, SMALL))

    assert [extent.n_items for extent in extents] == [1, 1]
    assert max(extent.n_bytes for extent in extents) <= SMALL.chunk_bytes


def test_blank_lines_before_a_header_belong_to_it() -> None:
    with pytest.raises(TooLarge, match="the header is larger than 65,536 bytes"):
        list(find_extents([b"\n" * 70_000], Format.CSV, LIMITS))


def test_there_is_a_limit_on_items() -> None:
    limits = Limits(2, 1000, 1000, 1000, max_items=3)
    assert len(list(find_extents([b"{}\n" * 3], Format.NDJSON, limits))) == 2
    with pytest.raises(TooLarge, match="more than 3 items"):
        list(find_extents([b"{}\n" * 4], Format.NDJSON, limits))


def test_the_format_is_that_of_the_name_unless_it_is_said() -> None:
    assert format_of_name("x.NDJSON", None) is Format.NDJSON
    assert format_of_name("x.jsonl", None) is Format.NDJSON
    assert format_of_name("x.csv", None) is Format.CSV
    assert format_of_name("x.csv", "ndjson") is Format.NDJSON


@pytest.mark.parametrize(
    ("name", "given"),
    [("x.json", None), ("x.csv.gz", None), ("x", None), ("x", "json"), ("x.csv", "parquet")],
)
def test_other_formats_are_to_be_uploaded(name: str, given: str | None) -> None:
    with pytest.raises(Invalid, match="POST /v1/inputs instead"):
        format_of_name(name, given)
