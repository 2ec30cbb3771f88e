"""Malformed bodies: each is refused with the right class and names its place."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.data import Format
from app.errors import BadRequest, Invalid, ServingError, TooLarge
from tests.data import bodies
from tests.data.bodies import LIMITS, Cut, both_cuts, read

SMALL = replace(LIMITS, max_item_bytes=300, max_bytes=3000)
DEEP = b'{"a":' + b"[" * 100 + b"]" * 100 + b"}"
VERY_DEEP = b'{"a":' * 100_000
LARGE = b'{"a":"%s"}' % (b"x" * 300)

# body, error class, pointer (None: about the body as a whole), words of the detail
JSON = [
    (b"", Invalid, "/data", "at least one item"),
    (b" \n ", Invalid, "/data", "at least one item"),
    (b"\xef\xbb\xbf", Invalid, "/data", "at least one item"),
    (b'{"data":[]}', Invalid, "/data", "at least one item"),
    (b"{}", Invalid, "/data", "missing"),
    (b'[{"a":1}]', Invalid, "", "not an array"),
    (b'"data"', Invalid, "", "not a string"),
    (b"17", Invalid, "", "not a number"),
    (b"null", Invalid, "", "not null"),
    (b"hello", BadRequest, "", "found 'h' at byte offset 0"),
    (b"\xff\xfe{\x00", BadRequest, "", "at byte offset 0"),
    (b"{", BadRequest, "", "cut short at byte offset 1"),
    (b"{data:[]}", BadRequest, "", "a key in quotes, found 'd' at byte offset 1"),
    (b'{"dat', BadRequest, "", "cut short inside a key"),
    (b'{"\xff":[]}', BadRequest, "", "in the key at byte offset 1"),
    (b'{"' + b"x" * 2000, Invalid, "", "a key longer than"),
    (b'{"model":"m","data":[{}]}', Invalid, "/model", "unknown key"),
    (b'{"a/b~c":1}', Invalid, "/a~1b~0c", "unknown key"),
    (b'{"data"', BadRequest, "", "cut short"),
    (b'{"data" [{}]}', BadRequest, "", "expected `:`, found '['"),
    (b'{"data":{"a":1}}', Invalid, "/data", "not an object"),
    (b'{"data":"x"}', Invalid, "/data", "not a string"),
    (b'{"data":}', BadRequest, "/data", "found '}'"),
    (b'{"data":[', BadRequest, "/data/0", "cut short"),
    (b'{"data":[{"a":1}', BadRequest, "/data/0", "cut short"),
    (b'{"data":[{"a":1},', BadRequest, "/data/1", "cut short"),
    (b'{"data":[{"a":1},{"a":"x', BadRequest, "/data/1", "inside the item that starts at byte offset 17"),
    (b'{"data":[{"a":1},]}', BadRequest, "/data/1", "after the comma, found ']'"),
    (b'{"data":[,{"a":1}]}', BadRequest, "/data/0", "found ','"),
    (b'{"data":[{"a":1}{"a":2}]}', BadRequest, "/data/0", "found '{' at byte offset 16"),
    (b'{"data":[{"a":1}}', BadRequest, "/data/0", "found '}'"),
    (b'{"data":[{"a":1},2]}', Invalid, "/data/1", "not a number (byte offset 17)"),
    (b'{"data":[{"a":1},[{}]]}', Invalid, "/data/1", "not an array"),
    (b'{"data":["{}"]}', Invalid, "/data/0", "not a string"),
    (b'{"data":[true]}', Invalid, "/data/0", "not a boolean"),
    (b'{"data":[null]}', Invalid, "/data/0", "not null"),
    (b'{"data":[{"a":1},{"a":tru}]}', BadRequest, "/data/1", "at byte offset 22"),
    (b'{"data":[{"a":[1}]}]}', BadRequest, "/data/0", "not JSON"),
    (b'{"data":[{"a":1,}]}', BadRequest, "/data/0", "not JSON"),
    ('{"data":[{"ä":1},{"ä":x}]}'.encode(), BadRequest, "/data/1", "at byte offset 24"),
    (b'{"data":[{"a":NaN}]}', BadRequest, "/data/0", "not JSON"),
    (b'{"data":[{"a":-Infinity}]}', BadRequest, "/data/0", "not JSON"),
    (b'{"data":[{"a":1e999}]}', BadRequest, "/data/0", "infinity"),
    (b'{"data":[{"a":"\\ud800"}]}', BadRequest, "/data/0", "surrogate"),
    (b'{"data":[{"a":"\xc3"}]}', BadRequest, "/data/0", "not UTF-8 at byte offset 15"),
    (b'{"data":[{"a":"\n"}]}', BadRequest, "/data/0", "control character"),
    (b'{"data":[{"a":"\x00"}]}', BadRequest, "/data/0", "control character"),
    (b'{"data":[%s]}' % DEEP, Invalid, "/data/0", "deeper than 100"),
    (b'{"data":[{"b":[[],{}],%s]}' % DEEP[1:], Invalid, "/data/0", "deeper than 100"),
    (b'{"data":[{},%s' % VERY_DEEP[:2000], Invalid, "/data/1", "deeper than 100"),
    (b'{"data":[{},%s]}' % LARGE, TooLarge, "/data/1", "larger than 300 bytes"),
    (b'{"data":[{"a":"%s' % (b"x" * 2000), TooLarge, "/data/0", "larger than 300 bytes"),
    (b'{"data":[%s]}' % (b'{"a":1},' * 1000), TooLarge, None, "larger than 3,000 bytes"),
    (b'{"data":[{"a":1}] x}', BadRequest, "", "expected `,` or `}` after `data`, found 'x'"),
    (b'{"data":[{"a":1}]', BadRequest, "", "cut short"),
    (b'{"data":[{"a":1}],"extra":1}', Invalid, "/extra", "unknown key"),
    (b'{"data":[{"a":1}],"data":[{}]}', Invalid, "/data", "twice"),
    (b'{"data":[{"a":1}],}', BadRequest, "", "a key in quotes"),
    (
        b'{"data":[{"a":1}]}{"data":[]}',
        BadRequest,
        "",
        "nothing after the document, found '{' at byte offset 18",
    ),
    (b'{"data":[{"a":1}]}\x00', BadRequest, "", "nothing after the document"),
]
NDJSON = [
    (b"", Invalid, "line 1", "at least one item"),
    (b"\xef\xbb\xbf\r\n \n", Invalid, "line 1", "at least one item"),
    (b'{"a":1}\n\n[1]\n', Invalid, "line 3", "not an array"),
    (b'{"a":1}\r\n"x"', Invalid, "line 2", "not a string"),
    (b"17\n", Invalid, "line 1", "not a number"),
    (b"true\n", Invalid, "line 1", "not a boolean"),
    (b"null\n", Invalid, "line 1", "not null"),
    (b'{"a":1}\n  {"a":x}\n', BadRequest, "line 2", "at byte offset 7 of the line"),
    (b'{"a":1}\n{"a":', BadRequest, "line 2", "unexpected end"),
    (b'{"a":\n1}\n', BadRequest, "line 1", "unexpected end"),
    (b'{"a":1}{"a":2}\n', BadRequest, "line 1", "at byte offset 7"),
    (b'{"a":1},\n{"a":2}\n', BadRequest, "line 1", "not JSON"),
    (b'{"a":1}\n{"a":"\xff"}\n', BadRequest, "line 2", "not UTF-8 at byte offset 6 of the line"),
    (b'{"a":NaN}\n', BadRequest, "line 1", "not JSON"),
    (b'{"a":"\\udc00"}\n', BadRequest, "line 1", "surrogate"),
    (b'{"a":"x\ry"}\n', BadRequest, "line 1", "control character"),
    (b'{"a":1}\n\x0b\n', BadRequest, "line 2", "not JSON"),
    (b"{}\n" + DEEP, Invalid, "line 2", "deeper than 100"),
    (b"{}\n" + LARGE, TooLarge, "line 2", "larger than 300 bytes"),
    (b"{}\n{}\n" + b" " * 2000, TooLarge, "line 3", "larger than 300 bytes"),
    (b'{"a":1}\n' * 1000, TooLarge, None, "larger than 3,000 bytes"),
]
CSV = [
    (b"", Invalid, "line 1", "at least one item"),
    (b"\r\n\r\n", Invalid, "line 1", "at least one item"),
    (b"a,b\r\n", Invalid, "line 1", "at least one item"),
    (b"a,b,a\n1,2,3\n", Invalid, "line 1", "`a` twice"),
    (b"a,,b\n1,2,3\n", Invalid, "line 1", "no name for column 2"),
    (b'\n"a"," "\n1,2\n', Invalid, "line 2", "no name for column 2"),
    (b"a,b\n1,2\n1\n", Invalid, "line 3", "1 cells and the header 2; `b` has none"),
    (b"a,b\n1,2,3\n", Invalid, "line 2", "3 cells and the header 2"),
    (b'a,b\n1,"x\ny\nz"\n\n1,2,3\n', Invalid, "line 6", "3 cells"),
    (b'a,b\n1,"x\ny"\n1,"u\nv\nw",3\n', Invalid, "line 4", "3 cells"),
    (b'a,b\n1,2\n1,"x\ny\n', BadRequest, "line 3", "ends inside a quoted cell"),
    (b'a,b\n1,"x"y\n', BadRequest, "line 2", "not CSV"),
    (b"a,b\n1,x\ry\n", BadRequest, "line 2", "carriage return"),
    (b"a,b\n1,2\n3,\xe4\n", BadRequest, "line 3", "not UTF-8 at byte offset 2 of the line"),
    (b"\xff\xfea\x00", BadRequest, "line 1", "not UTF-8"),
    (b"a\n1\n" + b"x" * 301, TooLarge, "line 3", "larger than 300 bytes"),
    (b"a\n1\n" + b"\x00" * 50, TooLarge, "line 3", "larger than 300 bytes"),
    (b"a\n" + b"1\n" * 2000, TooLarge, None, "larger than 3,000 bytes"),
    (b"n" * 200 + b"\n" + b"1\n" * 1000, TooLarge, "line 146", "30,000 bytes of JSON, names included"),
]
TABLE = [
    pytest.param(format, *row, id=f"{format}-{row[0][:30]!r}")
    for format, rows in ((Format.JSON, JSON), (Format.NDJSON, NDJSON), (Format.CSV, CSV))
    for row in rows
]


@pytest.mark.parametrize(("format", "body", "error_class", "pointer", "words"), TABLE)
@both_cuts
def test_a_malformed_body_is_refused_where_it_breaks(
    cut: Cut,
    format: Format,
    body: bytes,
    error_class: type[ServingError],
    pointer: str | None,
    words: str,
) -> None:
    with pytest.raises(ServingError) as refusal:
        read(cut(body), format, SMALL)
    assert type(refusal.value) is error_class
    assert [error.pointer for error in refusal.value.errors] == ([] if pointer is None else [pointer])
    assert words in "; ".join([refusal.value.detail, *(error.detail for error in refusal.value.errors)])


def test_an_open_quote_does_not_swallow_the_rest_of_a_large_csv() -> None:
    n_taken = 0

    def blocks() -> Iterator[bytes]:
        nonlocal n_taken
        yield b'a\n1\n"2\n'
        for _ in range(1000):
            n_taken += 1
            yield b"3\n" * 5000

    with pytest.raises(TooLarge) as refusal:
        read(blocks(), Format.CSV, replace(LIMITS, max_item_bytes=100_000))
    assert refusal.value.errors[0].pointer == "line 3"
    assert n_taken < 50


@bodies.sampled
@given(st.data(), st.sampled_from(list(Format)), bodies.json_items)
def test_any_damage_is_read_or_refused_and_nothing_else(
    data: st.DataObject, format: Format, items: list[bodies.Item]
) -> None:
    body = (
        b"\n".join(map(bodies.dumped, items)) if format is Format.NDJSON else bodies.dumped({"data": items})
    )
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, len(body)))
    damaged = body[:start] + data.draw(st.binary(max_size=3)) + body[end:]
    try:
        chunks = read(data.draw(bodies.split(damaged)), format)
    except (BadRequest, Invalid):
        return
    bodies.assert_chunk_format(chunks, LIMITS)
