"""Parquet both ways: rows become items that lose nothing, and answers columns that hold every value."""

import io
import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.data import Format, Limits, pack
from app.data.writing import write_answers
from app.errors import BadRequest, Invalid, ServingError, TooLarge
from tests.data import bodies
from tests.data.bodies import LIMITS, Item, assert_chunk_format, bytewise, dumped, items_of, parquet, read

SMALL = replace(LIMITS, max_item_bytes=300, max_bytes=10_000, max_items=50, max_depth=5)


def items(table: Any, **options: Any) -> list[Item]:
    chunks = read(parquet(table, **options), Format.PARQUET)
    assert_chunk_format(chunks, LIMITS)
    return list(items_of(chunks))


def answered(chunks: list[list[Item | None]], columns: list[str]) -> Any:
    payloads = [(pack(map(dumped, chunk)), chunk.count(None)) for chunk in chunks]
    body = b"".join(write_answers(Format.PARQUET, lambda: payloads, columns))
    return pq.read_table(io.BytesIO(body))


def test_rows_become_items_in_order_across_row_groups_and_blocks() -> None:
    expected = [{"id": index, "text": f"é {index}", "x": index / 2} for index in range(5000)]
    body = parquet(pa.Table.from_pylist(expected), row_group_size=1300)

    for blocks in ([body], bytewise(body)):
        assert list(items_of(read(blocks, Format.PARQUET, replace(LIMITS, chunk_items=700)))) == expected


AT = datetime(2027, 1, 31, 9, 30, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([None, None], pa.null(), [None, None]),
        ([True, None], pa.bool_(), [True, None]),
        ([-128, 127], pa.int8(), [-128, 127]),
        ([2**64 - 1, 0], pa.uint64(), [2**64 - 1, 0]),
        ([2**53 + 1, -(2**63)], pa.int64(), [2**53 + 1, -(2**63)]),
        ([1.5, float("nan")], pa.float64(), [1.5, None]),
        ([0.5, None], pa.float32(), [0.5, None]),
        ([0.5], pa.float16(), [0.5]),
        (['a\n"b', ""], pa.string(), ['a\n"b', ""]),
        (["x"] * 3, pa.dictionary(pa.int32(), pa.string()), ["x"] * 3),
        (["x"], pa.large_string(), ["x"]),
        (["ä".encode()], pa.binary(), ["ä"]),
        ([b"abcd"], pa.binary(4), ["abcd"]),
        ([date(2027, 1, 31)], pa.date32(), ["2027-01-31"]),
        ([time(9, 30, 0, 5)], pa.time64("us"), ["09:30:00.000005"]),
        ([AT.replace(tzinfo=None)], pa.timestamp("us"), ["2027-01-31T09:30:00.123456"]),
        ([AT], pa.timestamp("ns", "Europe/Berlin"), ["2027-01-31T09:30:00.123456Z"]),
        ([AT.replace(microsecond=0)], pa.timestamp("s", "UTC"), ["2027-01-31T09:30:00Z"]),
        ([[1, 2], [], None], pa.list_(pa.int8()), [[1, 2], [], None]),
        ([[AT]], pa.list_(pa.timestamp("ns", "UTC")), [["2027-01-31T09:30:00.123456Z"]]),
        ([[1.0, 2.0]], pa.list_(pa.float32(), 2), [[1.0, 2.0]]),
        ([{"x": 1, "y": None}], pa.struct({"x": pa.int64(), "y": pa.string()}), [{"x": 1, "y": None}]),
        ([[("k", 1)], []], pa.map_(pa.string(), pa.int64()), [{"k": 1}, {}]),
        ([uuid.UUID(int=7).bytes], pa.uuid(), ["00000000-0000-0000-0000-000000000007"]),
    ],
    ids=lambda value: str(value).replace("\n", "") if isinstance(value, pa.DataType) else "",
)
def test_a_value_becomes_what_json_has_for_it(values: list[Any], kind: Any, expected: list[Any]) -> None:
    assert [item["a"] for item in items(pa.table({"a": pa.array(values, kind)}))] == expected


def test_a_decimal_keeps_every_digit() -> None:
    digits = Decimal("12345678901234567890123456789.012345678")
    body = parquet(pa.table({"a": pa.array([digits], pa.decimal128(38, 9))}))
    assert read(body, Format.PARQUET)[0].payload == b'[{"a":%s}]' % str(digits).encode()


@pytest.mark.parametrize(
    ("table", "error", "words"),
    [
        (
            lambda: pa.table({"a": pa.array([1], pa.duration("s"))}),
            Invalid,
            "the column `a` is of type duration",
        ),
        (
            lambda: pa.table({"a": pa.array([{"b": timedelta(1)}])}),
            Invalid,
            "the column `a.b` is of type duration",
        ),
        (lambda: pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), Invalid, "`a` is there twice"),
        (lambda: pa.table({"a": [b"ok", b"\xff"]}), Invalid, "row 2: the column `a` .*UTF8"),
        (
            lambda: pa.table({"b": [1, 2, 3], "a": pa.array([0, 1000, 1001], pa.timestamp("ns"))}),
            Invalid,
            "row 3: the column `a` .*would lose data",
        ),
        (
            lambda: pa.table({"a": pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int8()))}),
            Invalid,
            "row 1: the column `a` .*duplicate",
        ),
        (lambda: pa.table({"a": ["x", "x" * 300]}), TooLarge, "row 2: the item is larger than 300 bytes"),
        (lambda: pa.table({"a": ["x" * 300] * 2}), TooLarge, "row 1: the item is larger"),
        (lambda: pa.table({"a": [1] * 51}), TooLarge, "more than 50 items"),
        (lambda: pa.table({"a": pa.array([[[[[[1]]]]]])}), Invalid, "deeper than 5 levels"),
        (lambda: pa.table({"a": pa.array([], pa.int64())}), Invalid, "no items"),
    ],
)
def test_what_has_no_place_among_items_is_refused(
    table: Callable[[], Any], error: type[ServingError], words: str
) -> None:
    with pytest.raises(error, match=words):
        read(parquet(table()), Format.PARQUET, SMALL)


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: b"",
        lambda body: b"PAR1",
        lambda body: body[:-1],
        lambda body: body[len(body) // 2 :],
        lambda body: body[:2000] + b"\0" * 500 + body[2500:],
        lambda body: body[:-20] + b"\xff" * 12 + body[-8:],
        lambda body: body[:-8] + b"\xff\xff\xff\x7fPAR1",
        lambda body: b'{"data":[{"a":1}]}',
    ],
    ids=["empty", "magic", "cut", "half", "page", "footer", "length", "json"],
)
def test_a_damaged_file_is_refused(damage: Callable[[bytes], bytes]) -> None:
    body = parquet(pa.table({"a": [f"text {index}" for index in range(3000)]}))
    with pytest.raises((BadRequest, Invalid), match=r"not Parquet|no items"):
        read(damage(body), Format.PARQUET)


def test_a_name_that_is_not_utf_8_is_refused() -> None:
    body = parquet(pa.table({"abcd": [1]}), store_schema=False).replace(b"abcd", b"\xffbcd")
    with pytest.raises(BadRequest, match="not Parquet that can be read: 'utf-8' codec"):
        read(body, Format.PARQUET)


def test_a_value_that_the_file_does_not_hold_is_refused_with_its_row() -> None:
    values = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), ["x", "y"])
    body = parquet(pa.table({"a": values}), compression="none", write_page_checksum=False)
    # The page of the places ends the data: the width of a place, in bits, and runs of them.
    places = b"\x01\x03\x02"
    assert body.count(places) == 1
    with pytest.raises(Invalid, match="row 1: the column `a` has a value that JSON has no form for"):
        read(body.replace(places, b"\x02\x03\xff"), Format.PARQUET)


# Small bodies that stand for terabytes. Memory is that of Arrow too, so each runs in a process of its own.
REPEATED = "pa.DictionaryArray.from_arrays(pa.array([0] * {n}, pa.int32()), ['x' * {n_bytes}])"
BOMBS = {
    "one long value a million times": REPEATED.format(n=1_000_000, n_bytes=900_000),
    "a value over the limit": REPEATED.format(n=100_000, n_bytes=20_000_000),
    "one long value once": "pa.array(['x' * 30_000_000])",
    "a list of nothing": "pa.array([[0] * 20_000_000], pa.list_(pa.int8()))",
}
BOMB = """
import io, resource, sys
import pyarrow as pa, pyarrow.parquet as pq
from app.data import Format, Limits, read_items
from app.errors import TooLarge
if sys.argv[1] == "write":
    writer = pq.ParquetWriter(sys.argv[2], pa.schema([("a", {values}.type)]), use_dictionary=True, compression="zstd")
    writer.write_table(pa.table({{"a": {values}}})); writer.close()
    sys.exit()
limits = Limits(chunk_items=1000, chunk_bytes=1 << 20, max_item_bytes=1 << 20, max_bytes=32 << 20)
body = open(sys.argv[2], "rb").read()
assert len(body) < 1 << 20, len(body)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    for _ in read_items([body], Format.PARQUET, limits):
        pass
except TooLarge:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("values", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_in_flat_memory(values: str, tmp_path: Any) -> None:
    for step in ("write", "read"):
        done = subprocess.run(
            [sys.executable, "-c", BOMB.format(values=values), step, tmp_path / "bomb"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100 << 10, "KiB more than before"


@bodies.sampled
@given(st.lists(st.lists(st.none() | bodies.json_item, max_size=4), max_size=3))
def test_any_answers_at_all_can_be_written(chunks: list[list[Item | None]]) -> None:
    answers = [answer for chunk in chunks for answer in chunk if answer is not None]
    columns = list(dict.fromkeys(name for answer in answers for name in answer))
    table = answered(chunks, columns)
    assert table.column_names == columns
    assert table.num_rows == len(answers) or not columns  # Parquet counts rows by its columns
    for column in columns:
        if table.schema.field(column).type == pa.string():
            for answer, cell in zip(answers, table[column].to_pylist(), strict=True):
                value = answer.get(column)
                assert cell == value or json.loads(cell) == value


@pytest.mark.parametrize(
    ("values", "kind", "cells"),
    [
        ([1, None, 2], pa.int64(), [1, None, 2]),
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        ([2**63 - 1, 1], pa.int64(), [2**63 - 1, 1]),
        ([2**53 + 1, 0.5], pa.string(), [str(2**53 + 1), "0.5"]),
        ([10**20, 1], pa.string(), [str(10**20), "1"]),
        (["a", None, "b"], pa.string(), ["a", None, "b"]),
        (["a", 1, True, [1]], pa.string(), ["a", "1", "true", "[1]"]),
        ([None, None], pa.string(), [None, None]),
        ([True, None], pa.bool_(), [True, None]),
        ([[1, 2], [0.5], []], pa.list_(pa.float64()), [[1, 2], [0.5], []]),
        ([{"x": 1}, {"y": "z"}, {}], pa.struct({"x": pa.int64(), "y": pa.string()}), None),
        ([{}, {}], pa.string(), ["{}", "{}"]),
        ([[{}], []], pa.string(), ["[{}]", "[]"]),
        ([{"x": [1]}, {"x": 1}], pa.string(), ['{"x":[1]}', '{"x":1}']),
    ],
)
@pytest.mark.parametrize("n_chunks", [1, 2])
def test_a_column_has_the_type_that_holds_all_its_values(
    values: list[Any], kind: Any, cells: list[Any] | None, n_chunks: int
) -> None:
    every: list[Item | None] = [{"a": value} for value in values]
    chunks = [every] if n_chunks == 1 else [[each] for each in every]

    table = answered(chunks, ["a"])

    found = table.schema.field("a").type
    assert found == kind or (pa.types.is_list(found) and found.value_type == kind.value_type)
    if cells is not None:
        assert table["a"].to_pylist() == cells


def test_failed_items_and_absent_fields() -> None:
    table = answered([[{"a": 1}, None, {"b": "x"}], [None]], ["a", "b", "never"])
    assert table.to_pylist() == [
        {"a": 1, "b": None, "never": None},
        {"a": None, "b": "x", "never": None},
    ]


def test_a_row_group_has_few_rows_where_there_are_many_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer has a field of its own, so that a few bytes of JSON make a table of empty cells."""
    monkeypatch.setattr("app.data.parquet_answers.GROUP_CELLS", 100)
    answers = [{f"k{index}": index} for index in range(40)]
    payloads = [(pack(map(dumped, answers[start : start + 10])), 0) for start in range(0, 40, 10)]

    body = b"".join(write_answers(Format.PARQUET, lambda: payloads, [f"k{index}" for index in range(40)]))

    table = pq.read_table(io.BytesIO(body))
    assert [
        {name: row[name] for name in row if row[name] is not None} for row in table.to_pylist()
    ] == answers
    metadata = pq.read_metadata(io.BytesIO(body))
    assert {metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)} == {2}


def test_row_groups_are_written_while_the_payloads_come() -> None:
    payload = pack([dumped({"id": index, "text": f"{index}" * 200}) for index in range(1000)])
    taken: list[int] = []

    def payloads() -> Any:
        taken.append(0)
        for _ in range(60):
            taken[-1] += 1
            yield payload, 0

    blocks = write_answers(Format.PARQUET, payloads, ["id", "text"])
    first = next(blocks)

    assert first.startswith(b"PAR1")
    assert taken[0] == 60 > taken[1]
    table = pq.read_table(io.BytesIO(b"".join([first, *blocks])))
    assert table["id"].to_pylist() == list(range(1000)) * 60


@bodies.sampled
@given(bodies.csv_tables)
def test_what_is_written_is_read_as_the_same_items(given_items: list[Item]) -> None:
    columns = list(dict.fromkeys(name for item in given_items for name in item))
    payload = pack(map(dumped, given_items))
    body = b"".join(write_answers(Format.PARQUET, lambda: [(payload, 0)], columns))
    assert list(items_of(read(body, Format.PARQUET))) == given_items


def test_limits_hold_for_the_whole_body() -> None:
    limits: Limits = replace(LIMITS, max_bytes=1000)
    with pytest.raises(TooLarge, match="1,000 bytes"):
        read(parquet(pa.table({"a": [f"{index}" for index in range(1000)]})), Format.PARQUET, limits)
