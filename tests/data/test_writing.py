"""Downloads in each format, streamed from payloads; failed items' places are left out."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.data import Format, Limits, pack, write_csv, write_json, write_ndjson
from tests.data import bodies
from tests.data.bodies import Item, dumped, items_of, read

# Chunks of answers, None in the place of an item that failed.
answer_chunks = st.lists(st.lists(st.none() | bodies.json_item, max_size=4), max_size=3)


def payloads_of(chunks: list[list[Item | None]]) -> list[tuple[bytes, int]]:
    return [(pack(map(dumped, chunk)), chunk.count(None)) for chunk in chunks]


def present(chunks: list[list[Item | None]]) -> list[Item]:
    return [answer for chunk in chunks for answer in chunk if answer is not None]


def columns_of(answers: list[Item]) -> list[str]:
    return list(dict.fromkeys(name for answer in answers for name in answer))


@bodies.sampled
@given(answer_chunks)
def test_ndjson_has_the_present_answers_one_per_line(chunks: list[list[Item | None]]) -> None:
    body = b"".join(write_ndjson(payloads_of(chunks)))
    lines = body.split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line) for line in lines] == present(chunks)


@bodies.sampled
@given(answer_chunks)
def test_json_is_one_valid_document(chunks: list[list[Item | None]]) -> None:
    body = b"".join(write_json(payloads_of(chunks)))
    assert json.loads(body) == {"prediction": present(chunks)}


@bodies.sampled
@given(answer_chunks)
def test_csv_has_the_present_answers_cell_by_cell(chunks: list[list[Item | None]]) -> None:
    answers = present(chunks)
    columns = columns_of(answers)
    body = b"".join(write_csv(payloads_of(chunks), columns)).decode()
    header, *rows = csv.reader(io.StringIO(body, newline=""), strict=True)
    assert header == columns
    assert len(rows) == len(answers)
    for row, answer in zip(rows, answers, strict=True):
        for column, cell in zip(columns, row, strict=False):
            value = answer.get(column)
            assert (cell if isinstance(value, str) else json.loads(cell or "null")) == value


@bodies.sampled
@given(bodies.json_items, bodies.limits)
def test_what_is_read_as_ndjson_is_written_byte_for_byte(items: list[Item], limits: Limits) -> None:
    body = b"".join(dumped(item) + b"\n" for item in items)
    chunks = read(body, Format.NDJSON, limits)
    assert b"".join(write_ndjson((chunk.payload, 0) for chunk in chunks)) == body


@bodies.sampled
@given(bodies.json_items, bodies.limits)
def test_what_is_read_as_json_is_written_as_the_same_items(items: list[Item], limits: Limits) -> None:
    chunks = read(dumped({"data": items}), Format.JSON, limits)
    assert json.loads(b"".join(write_json((chunk.payload, 0) for chunk in chunks))) == {"prediction": items}


@bodies.sampled
@given(bodies.csv_tables, bodies.limits)
def test_what_is_read_as_csv_is_written_as_the_same_items(items: list[Item], limits: Limits) -> None:
    payloads = [(chunk.payload, 0) for chunk in read(bodies.csv_body(items), Format.CSV, limits)]
    body = b"".join(write_csv(payloads, columns_of(items)))
    assert list(items_of(read(body, Format.CSV))) == items


def test_the_bytes_of_each_format() -> None:
    payloads = [(b'[{"a":1},\nnull]', 1), (b"[]", 0), (b"[null]", 1), (b'[{"a":"x"},\n{"a":2}]', 0)]
    assert b"".join(write_ndjson(payloads)) == b'{"a":1}\n{"a":"x"}\n{"a":2}\n'
    assert b"".join(write_json(payloads)) == b'{"prediction":[{"a":1},\n{"a":"x"},\n{"a":2}]}\n'
    assert b"".join(write_csv(payloads, ["a"])) == b"a\r\n1\r\nx\r\n2\r\n"


def test_no_answers_at_all() -> None:
    assert b"".join(write_ndjson([])) == b""
    assert b"".join(write_json([])) == b'{"prediction":[]}\n'
    assert b"".join(write_csv([], ["a", "b"])) == b"a,b\r\n"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("true", "true"),
        ("false", "false"),
        ("-7", "-7"),
        ("0.1", "0.1"),
        ("18446744073709551616", "18446744073709551616"),
        ("0.12345678901234567890", "0.12345678901234567890"),
        ("null", '""'),  # so that the row is no blank line
        ('""', '""'),
        ('"null"', "null"),
        ('"a,b"', '"a,b"'),
        ('"a\\"b"', '"a""b"'),
        ('"a\\nb"', '"a\nb"'),
        ('"\\r"', '"\r"'),
        ('"ä😀"', "ä😀"),
        ("[]", "[]"),
        ('[1, "x"]', '"[1,""x""]"'),
        (
            '{"n": 123456789012345678901234567890, "d": [1.50]}',
            '"{""n"":123456789012345678901234567890,""d"":[1.50]}"',
        ),
    ],
)
def test_a_csv_cell(value: str, cell: str) -> None:
    body = b"".join(write_csv([(b'[{"a":%s}]' % value.encode(), 0)], ["a"])).decode()
    assert body == f"a\r\n{cell}\r\n"


def test_csv_fields_follow_the_columns() -> None:
    payloads = [(b'[{"b":1,"a":2,"other":3},\n{"b":4}]', 0)]
    assert b"".join(write_csv(payloads, ["a", "b"])) == b"a,b\r\n2,1\r\n,4\r\n"
