"""JSON of whatever size its numbers have: in, and out again, to the digit."""

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given

from app.data import exact
from app.data.chunks import pack
from tests.data.bodies import json_item, sampled

BIG = 123456789012345678901234567890


@sampled
@given(json_item)
def test_what_is_written_is_read_again(item: dict[str, Any]) -> None:
    assert exact.loads(exact.dumps(item)) == item


@pytest.mark.parametrize("number", [0, -1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 2**64, BIG, -BIG, 10**300])
def test_every_integer_is_exact(number: int) -> None:
    read = exact.loads(b'{"id":%d}' % number)

    assert read == {"id": number}
    assert type(read["id"]) is int
    assert exact.dumps(read) == b'{"id":%d}' % number


@pytest.mark.parametrize("n_before", range(8))
def test_an_integer_beyond_64_bits_is_exact_wherever_it_stands(n_before: int) -> None:
    text = b'{"%b":%d}' % (b"x" * n_before, 2**64)

    assert exact.loads(text) == {"x" * n_before: 2**64}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"nan",
        b"[NaN]",
        b"[Infinity]",
        b"[-Infinity, %d]" % BIG,
        b'{"a": %d, "b": NaN}' % BIG,
        b"[01]",
        b"[1,]",
        b"{'a': 1}",
        b'"\\ud800"',
        b'["\\ud800", %d]' % BIG,
        b'"\xff"',
        b'["\xff", %d]' % BIG,
        b'"a\x00b"',
        b"\xef\xbb\xbf{}",
        b"1e999",
        b"9" * 5000,
        b"[" * 100_000,
        '{"a": 1}'.encode("utf-16"),
    ],
)
def test_what_is_no_json_is_refused_however_long_its_numbers(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        exact.loads(text)


def test_digits_in_a_string_are_a_string() -> None:
    assert exact.loads(b'{"card":"%d","x":0.5}' % BIG) == {"card": str(BIG), "x": 0.5}


@pytest.mark.parametrize("id", [1, BIG])
def test_text_is_written_compactly_and_as_it_is(id: int) -> None:
    value = {"id": id, "text": 'é😀\u2028\0"\n', "list": [1.5, None, True, {}]}

    written = exact.dumps(value)

    assert written == (
        b'{"id":%d,"text":"\xc3\xa9\xf0\x9f\x98\x80\xe2\x80\xa8\\u0000\\"\\n","list":[1.5,null,true,{}]}' % id
    )


@pytest.mark.parametrize("id", [1, BIG])
def test_not_a_number_becomes_null_beside_any_integer(id: int) -> None:
    written = exact.dumps({"id": id, "score": math.nan, "most": math.inf, "half": 0.5})

    assert written == b'{"id":%d,"score":null,"most":null,"half":0.5}' % id


@pytest.mark.parametrize("id", [1, BIG])
def test_what_orjson_knows_beyond_json_is_written_beside_any_integer(id: int) -> None:
    written = exact.dumps({"id": id, "at": datetime(2027, 1, 31, tzinfo=UTC)})

    assert json.loads(written) == {"id": id, "at": "2027-01-31T00:00:00+00:00"}


@pytest.mark.parametrize("id", [1, BIG])
@pytest.mark.parametrize(
    "value", [{1}, object(), b"x", 1j, "\ud800"], ids=["set", "object", "bytes", "complex", "surrogate"]
)
def test_what_is_no_json_is_not_written(id: int, value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        exact.dumps({"id": id, "value": value})


@pytest.mark.parametrize("id", [1, BIG])
@pytest.mark.parametrize("depth", [2000, 100_000])
def test_what_nests_too_deep_is_not_written(id: int, depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [value]

    with pytest.raises((TypeError, ValueError), match=r"ecursion|depth"):
        exact.dumps({"id": id, "value": value})


def test_what_nests_too_deep_beside_a_nan_is_not_written() -> None:
    value: Any = 1
    for _ in range(3000):
        value = [value]

    with pytest.raises(TypeError):
        exact.dumps({"nan": float("nan"), "id": BIG, "value": value})


def test_a_number_that_could_not_be_read_again_is_not_written() -> None:
    with pytest.raises(TypeError, match="number is infinity"):
        exact.dumps({"id": 10**400})


def test_what_contains_itself_is_not_written() -> None:
    value: dict[str, Any] = {"id": BIG}
    value["self"] = value

    with pytest.raises((TypeError, ValueError)):
        exact.dumps(value)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [{}],
        [{}, {}, {}],
        [{"a": 1}, {"b": "é\n"}],
        [{"a": "},{"}, {"b": 1}],
        [{"a": [{"b": 1}, {"b": 2}, {}]}, {}],
        [{"a": BIG}, {"b": "},\n{"}],
    ],
)
def test_objects_are_packed_a_line_each(values: list[dict[str, Any]]) -> None:
    each = list(map(exact.dumps, values))

    assert exact.pack_objects(values) == pack(each)
    assert exact.dumps_objects(values) == each
