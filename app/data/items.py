"""What an item is (a JSON object, not too large, not too deep) and how its refusal is worded."""

import re

import orjson

from app.data.chunks import Limits
from app.errors import BadRequest, Invalid, ServingError, TooLarge, refused

WHITE_SPACE = b" \t\r\n"
BOM = b"\xef\xbb\xbf"
UNFINISHED, TOO_DEEP = -1, -2

_PLAIN = rb'[^"{}\[\]]*+'
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_FLAT = rb"[\[{]" + _PLAIN + rb"(?:" + _STRING + _PLAIN + rb")*+[\]}]"
# Everything up to and including the next bracket outside strings; no match when the bytes end before it.
# Possessive, so that nothing is tried twice. The second steps over arrays and objects that hold no others:
# eight times as fast over a list of pairs, but blind to one level of depth.
_TO_BRACKET = re.compile(_PLAIN + rb"(?:" + _STRING + _PLAIN + rb")*+[{}\[\]]", re.DOTALL).match
_TO_NESTING_BRACKET = re.compile(
    _PLAIN + rb"(?:(?:" + _STRING + rb"|" + _FLAT + rb")" + _PLAIN + rb")*+[{}\[\]]", re.DOTALL
).match
_CLOSING = b"}]"
_KINDS = {
    byte: kind
    for kind, first_bytes in {
        "an object": b"{",
        "an array": b"[",
        "a string": b'"',
        "a number": b"-0123456789",
        "a boolean": b"tf",
        "null": b"n",
    }.items()
    for byte in first_bytes
}


def object_end(data: bytes, start: int, max_depth: int) -> int:
    """Where the object that opens at `start` ends (exclusive), UNFINISHED or TOO_DEEP.

    It counts brackets outside strings and no more: whether they pair, the JSON parser says.
    """
    depth, position = 1, start + 1
    while match := (_TO_NESTING_BRACKET if depth < max_depth else _TO_BRACKET)(data, position):
        position = match.end()
        if data[position - 1] in _CLOSING:
            depth -= 1
            if not depth:
                return position
        else:
            depth += 1
            if depth > max_depth:
                return TOO_DEEP
    return UNFINISHED


def item_refused(item: bytes, pointer: str, start: int, whole: str) -> ServingError:
    """Why orjson did not read `item` as an object: not UTF-8, not JSON, or not an object.

    `item` starts at byte offset `start` of `whole`, which is "the line" or "the body".
    """
    try:
        item.decode()
    except UnicodeDecodeError as error:
        return refused(BadRequest, pointer, f"not UTF-8 at byte offset {start + error.start} of {whole}")
    try:
        value = orjson.loads(item)
    except orjson.JSONDecodeError as error:
        offset = start + len(error.doc[: error.pos].encode())
        return refused(BadRequest, pointer, f"not JSON: {error.msg}, at byte offset {offset} of {whole}")
    kind = kind_of(orjson.dumps(value)[0])
    return refused(Invalid, pointer, f"an item must be a JSON object, not {kind}")


def item_too_large(pointer: str, limits: Limits) -> ServingError:
    return refused(TooLarge, pointer, f"the item is larger than {limits.max_item_bytes:,} bytes")


def item_too_deep(pointer: str, limits: Limits) -> ServingError:
    detail = f"the item nests objects and arrays deeper than {limits.max_depth} levels"
    return refused(Invalid, pointer, detail)


def kind_of(first_byte: int) -> str | None:
    """What kind of JSON value opens with this byte; None when none does."""
    return _KINDS.get(first_byte)
