"""Every format gives the same items in order, wherever the blocks are cut, in flat memory."""

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.data import Format, Limits, pack, read_items, unpack
from app.errors import TooLarge
from tests.data import bodies
from tests.data.bodies import (
    LIMITS,
    Cut,
    Item,
    assert_chunk_format,
    both_cuts,
    bytewise,
    dumped,
    items_of,
    read,
)

TEXTUAL = [Format.JSON, Format.NDJSON, Format.CSV]


@bodies.sampled
@given(st.data(), bodies.json_items, bodies.limits, st.sampled_from([None, 0, 2]), st.booleans())
def test_json_gives_the_same_items(
    data: st.DataObject, items: list[Item], limits: Limits, indent: int | None, ascii: bool
) -> None:
    blocks = data.draw(bodies.split(dumped({"data": items}, indent, ascii)))
    chunks = read(blocks, Format.JSON, limits)
    assert list(items_of(chunks)) == items
    assert_chunk_format(chunks, limits)


@bodies.sampled
@given(st.data(), bodies.json_items, bodies.limits, st.sampled_from(["\n", "\r\n", "\n\n", " \r\n \t\n"]))
def test_ndjson_gives_the_same_items(
    data: st.DataObject, items: list[Item], limits: Limits, line_end: str
) -> None:
    body = line_end.encode().join(map(dumped, items))
    blocks = data.draw(bodies.split(body))
    chunks = read(blocks, Format.NDJSON, limits)
    assert list(items_of(chunks)) == items
    assert_chunk_format(chunks, limits)


@bodies.sampled
@given(st.data(), bodies.csv_tables, bodies.limits)
def test_csv_gives_the_same_items(data: st.DataObject, items: list[Item], limits: Limits) -> None:
    blocks = data.draw(bodies.split(bodies.csv_body(items)))
    chunks = read(blocks, Format.CSV, limits)
    assert list(items_of(chunks)) == items
    assert_chunk_format(chunks, limits)


@bodies.sampled
@given(st.lists(st.integers(0, 10**30).map(lambda number: b'{"a":%d}' % number)))
def test_unpack_undoes_pack(items: list[bytes]) -> None:
    assert unpack(pack(items)) == items
    assert json.loads(pack(items)) == [json.loads(item) for item in items]


@pytest.mark.parametrize(
    ("format", "body"),
    [
        (Format.JSON, '{"data":[{"a":"ä😀"},{"a":"\\"}{"}]}'),
        (Format.JSON, '\ufeff \n{ "data" :\r\n[ {"a":"ä😀"} ,\t{"a":"\\"}{"} ] } \n'),
        (Format.JSON, '{"d\\u0061ta":[{"a":"ä😀"},{"a":"\\"}{"}]}'),
        (Format.NDJSON, '{"a":"ä😀"}\n{"a":"\\"}{"}'),
        (Format.NDJSON, '\ufeff{"a":"ä😀"}\r\n\r\n  {"a":"\\"}{"} \r\n\n'),
        (Format.NDJSON, '{"a":"ä😀"}\n{"a":\r"\\"}{"}'),
        (Format.CSV, 'a\nä😀\n"""}{"'),
        (Format.CSV, '\ufeff\r\n"a"\r\nä😀\r\n\r\n"""}{"\r\n\r\n'),
    ],
)
@both_cuts
def test_ways_to_write_two_items(format: Format, body: str, cut: Cut) -> None:
    chunks = read(cut(body.encode()), format)
    assert list(items_of(chunks)) == [{"a": "ä😀"}, {"a": '"}{'}]
    assert_chunk_format(chunks, LIMITS)


@pytest.mark.parametrize("format", [Format.JSON, Format.NDJSON])
def test_items_keep_their_own_bytes(format: Format) -> None:
    item = b'{"n":123456789012345678901234567890, "d":0.12345678901234567890,"e":1E5,"s":"\\u00e4\\u0000\\/"}'
    body = b'{"data":[%s]}' % item if format is Format.JSON else item
    assert read(body, format)[0].payload == b"[%s]" % item


def test_indentation_goes_and_nothing_else() -> None:
    body = b'{"data": [\n  {\n    "n": 123456789012345678901234567890,\r\n\t"s": "a  b\\n  c"\n  }\n]}'
    assert read(body, Format.JSON)[0].payload == b'[{"n": 123456789012345678901234567890,"s": "a  b\\n  c"}]'


def test_a_csv_cell_is_a_string_with_its_newlines_commas_and_quotes() -> None:
    body = b'id,text\r\n1,"two\r\nlines, ""quoted"""\n2,\n'
    items = list(items_of(read(body, Format.CSV)))
    assert items == [{"id": "1", "text": 'two\r\nlines, "quoted"'}, {"id": "2", "text": ""}]


def test_a_csv_cell_may_be_larger_than_the_csv_module_allows_by_default() -> None:
    body = b"text\n" + b"x" * 200_000
    assert list(items_of(read(body, Format.CSV))) == [{"text": "x" * 200_000}]


def test_a_chunk_closes_at_the_items_or_the_bytes_whichever_is_first() -> None:
    body = b'{"a":1}\n' * 7 + b'{"a":"%s"}\n' % (b"x" * 50) + b'{"a":1}\n' * 2
    chunks = read(body, Format.NDJSON, replace(LIMITS, chunk_items=4, chunk_bytes=40))
    assert [(chunk.first_item, chunk.n_items) for chunk in chunks] == [(0, 4), (4, 3), (7, 1), (8, 2)]


@pytest.mark.parametrize("format", TEXTUAL)
def test_an_item_at_its_limit_passes_in_any_blocks(format: Format) -> None:
    item = b'{"text":"%s"}' % (b"x" * 1000)
    body = {
        Format.JSON: b'{"data":[%s]}' % item,
        Format.NDJSON: item + b"\r\n",
        Format.CSV: b"text\r\n" + b"x" * 1000,
    }[format]
    limits = replace(LIMITS, max_item_bytes=len(item), max_bytes=len(body))
    for blocks in (bytewise(body), [body]):
        assert read(blocks, format, limits)[0].payload == b"[%s]" % item


@pytest.mark.parametrize("format", [Format.JSON, Format.NDJSON])
def test_an_item_at_the_depth_limit_passes(format: Format) -> None:
    item = b'{"a":' + b"[" * 99 + b'"[[{{"' + b"]" * 99 + b"}"
    body = b'{"data":[%s]}' % item if format is Format.JSON else item
    assert read(body, format)[0].payload == b"[%s]" % item


def test_a_line_with_many_brackets_side_by_side_is_not_deep() -> None:
    item = b'{"a":[' + b"[],{}," * 500 + b'"[[[[\\""]}'
    assert read(item, Format.NDJSON)[0].payload == b"[%s]" % item


def test_chunks_come_while_the_body_still_arrives() -> None:
    taken = 0

    def blocks() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield b'{"a":1}\n' * 10_000

    next(read_items(blocks(), Format.NDJSON, LIMITS))
    assert taken <= 2


def _stream(format: Format, n_bytes: int) -> Iterator[bytes]:
    """About `n_bytes` of a body in blocks of 256 KiB, made as they are taken."""
    before, item, between, after = {
        Format.JSON: (b'{"data":[', b'{"id":1,"text":"%s"}', b",\n", b"]}"),
        Format.NDJSON: (b"", b'{"id":1,"text":"%s"}', b"\n", b""),
        Format.CSV: (b"id,text\n", b'1,"%s"', b"\n", b""),
    }[format]
    item %= b"x" * 2000
    yield before + item
    block = (between + item) * ((256 << 10) // len(item))
    for _ in range(n_bytes // len(block)):
        yield block
    yield after


@pytest.mark.parametrize("format", TEXTUAL)
def test_memory_stays_flat_over_50_megabytes(format: Format) -> None:
    n_items = 0
    tracemalloc.start()
    try:
        for chunk in read_items(_stream(format, 50 << 20), format, LIMITS):
            n_items += chunk.n_items
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n_items > 20_000
    assert peak_bytes < 6 << 20


@pytest.mark.parametrize("format", TEXTUAL)
def test_one_huge_block_takes_no_more_memory_than_small_ones(format: Format) -> None:
    body = b"".join(_stream(format, 20 << 20))
    tracemalloc.start()
    try:
        for _ in read_items([body], format, LIMITS):
            pass
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 6 << 20


@pytest.mark.parametrize("format", TEXTUAL)
def test_more_items_than_allowed_are_refused(format: Format) -> None:
    body = {
        Format.JSON: b'{"data":[{"a":"1"},{"a":"2"},{"a":"3"}]}',
        Format.NDJSON: b'{"a":"1"}\n\n{"a":"2"}\n{"a":"3"}',
        Format.CSV: b"a\n1\n2\n3\n",
    }[format]
    assert read(body, format, replace(LIMITS, max_items=3))[0].n_items == 3
    with pytest.raises(TooLarge, match="more than 2 items"):
        read(body, format, replace(LIMITS, max_items=2))
    with pytest.raises(TooLarge, match="more than 2 items"):
        read(body, format, replace(LIMITS, max_items=2, chunk_items=1))
