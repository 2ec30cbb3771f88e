"""JSON in and out at orjson's speed, with integers of any size: orjson alone reads those beyond 64 bits as floats."""

import json
import re
from typing import Any

import orjson

_LONG_NUMBER = re.compile(rb"[0-9]{19}").search
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def loads(text: bytes) -> Any:
    """The value of a JSON text; `ValueError` if it is none. Every integer is exact."""
    value = orjson.loads(text)
    if _LONG_NUMBER(text):  # orjson has checked the grammar, which the standard library takes less strictly
        return json.loads(text)
    return value


def dumps(value: Any) -> bytes:
    """Compact JSON of what `loads` gives, and of numpy's numbers and arrays; `TypeError` for what is no JSON."""
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except TypeError:
        return _dumps_long(value)


def _dumps_long(value: Any) -> bytes:
    """Like `dumps`, integers beyond 64 bits included; a second try, because it is ten times slower."""
    return json.dumps(
        value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain
    ).encode()


def _plain(value: Any) -> Any:
    """What the standard library cannot write, as orjson would have read it; its words if it cannot either."""
    return json.loads(orjson.dumps(value, option=_OPTIONS))
