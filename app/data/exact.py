"""JSON in and out at orjson's speed, with integers of any size: orjson alone reads those beyond 64 bits as floats."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import orjson

from app.data.chunks import SEPARATOR, pack, unpack

_TO_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER, _SPARSE_NUMBER = b"0" * 19, b"0" * 4
"""Of 19 digits in a row, four stand among every fourth byte: most texts are seen to have none by a quarter of them."""
_BETWEEN, _BETWEEN_LINES = b"},{", b"}" + SEPARATOR + b"{"
_TOO_DEEP = "Recursion limit reached"
"""What orjson says of more than 254 levels."""
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def loads(text: bytes) -> Any:
    """The value of a JSON text; `ValueError` if it is none. Every integer is exact."""
    return exactly(orjson.loads(text), text)


def exactly(value: Any, text: bytes) -> Any:
    """The value of a text, that orjson has read from it, with its integers exact."""
    # orjson has checked the grammar, which the standard library takes less strictly.
    return json.loads(text) if has_long_number(text) else value


def has_long_number(text: bytes) -> bool:
    """Whether there are 19 digits in a row: perhaps an integer beyond 64 bits or a decimal beyond a double."""
    if _SPARSE_NUMBER not in text[::4].translate(_TO_ZEROS):
        return False
    return _LONG_NUMBER in text.translate(_TO_ZEROS)


def dumps(value: Any) -> bytes:
    """Compact JSON of what `loads` gives, and of numpy's numbers and arrays; NaN and infinity become null.

    Raises `TypeError` or `ValueError` for what is no JSON, and for what nests too deep to be read again.
    """
    try:
        return orjson.dumps(value)
    except TypeError as error:
        if str(error) == _TOO_DEEP:
            raise
    try:  # a second try, because with options orjson takes twice as long over what needs none
        return orjson.dumps(value, option=_OPTIONS)
    except TypeError:
        return _dumps_long(value)


def pack_objects(values: Sequence[dict[str, Any]], dumps: Callable[[Any], bytes] = dumps) -> bytes:
    """The payload of these objects, `dumps` of each. Written in one piece, which takes a quarter of the time: orjson
    begins every text with a buffer of 4 KiB, and a thousand of those are more than a processor's cache."""
    text = dumps(values)
    payload = text.replace(_BETWEEN, _BETWEEN_LINES)
    if len(payload) - len(text) != len(values) - 1:  # it stands inside a value, too
        return pack(map(dumps, values))
    return payload


def dumps_objects(values: Sequence[dict[str, Any]], dumps: Callable[[Any], bytes] = dumps) -> list[bytes]:
    """`dumps` of each object."""
    return unpack(pack_objects(values, dumps))


def canonical_objects(values: Sequence[dict[str, Any]]) -> list[bytes]:
    """The one JSON text of each object that `loads` gave: the same for equal ones, however written, for no others.

    An object is the same in any order of its fields. 1 and 1.0 are not the same here: code can tell them apart.
    """
    try:
        return dumps_objects(values, _dumps_sorted)
    except TypeError:  # an integer beyond 64 bits: how it is written must not change those beside it
        return list(map(_canonical, values))


def _canonical(value: dict[str, Any]) -> bytes:
    try:
        return _dumps_sorted(value)
    except TypeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def _dumps_sorted(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _dumps_long(value: Any) -> bytes:
    """Like `dumps`, integers beyond 64 bits included; the last try, because it is ten times slower."""
    try:
        text = _written(value).encode()
        orjson.loads(
            text
        )  # which refuses numbers, and on newer Pythons levels, that the standard library writes
    except RecursionError:
        raise TypeError(_TOO_DEEP) from None
    except orjson.JSONDecodeError as error:
        raise TypeError(error.msg) from None
    return text


def _written(value: Any) -> str:
    write = partial(json.dumps, ensure_ascii=False, separators=(",", ":"), default=_plain)
    try:
        return write(value, allow_nan=False)
    except ValueError:  # a NaN: the standard library writes it as it is or not at all
        return write(json.loads(write(value), parse_constant=lambda _: None))


def _plain(value: Any) -> Any:
    """What the standard library cannot write, as orjson would have read it; its words if it cannot either."""
    return json.loads(orjson.dumps(value, option=_OPTIONS))
