"""JSON bodies, read strictly: what both lanes do with the bytes of a request, whoever received them."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import orjson
from gunicorn.http.errors import ParseException

from app.data import exact
from app.data.items import TOO_DEEP, object_end
from app.errors import BadRequest, FieldError, Invalid, UnsupportedMediaType
from app.models.acceptance import CONTAINERS

UNROUNDED = {str, int, bool, type(None)}
"""What orjson reads as it is written; a float may have been an integer beyond 64 bits."""


def require_json(media_type: str) -> None:
    """`UnsupportedMediaType` if the `Content-Type`, without its parameters, is none of JSON."""
    if media_type != "application/json":
        found = f"is `{media_type}`" if media_type else "is missing"
        detail = f"{found}; this path reads application/json"
        raise UnsupportedMediaType(f"`Content-Type` {detail}", errors=[FieldError("Content-Type:", detail)])


@contextmanager
def receiving(patience_seconds: float) -> Iterator[None]:
    """Tells a client, by `BadRequest`, what went wrong while its body was read; it had so long for each part of it."""
    try:
        yield
    except (TimeoutError, BlockingIOError):  # of the loop's lane, and of a socket with a limit
        raise BadRequest(f"nothing of the body arrived for {patience_seconds:g} seconds") from None
    except (OSError, ValueError, ParseException) as error:
        raise BadRequest(f"the body could not be received: {error}") from None


def cut_short(n_bytes: int, n_announced: int | None) -> BadRequest:
    """Of a body that ended before its `Content-Length`."""
    return BadRequest(
        f"the connection closed before the whole body had arrived: {n_bytes} of {n_announced} bytes"
    )


def parse_json(body: bytes, max_depth: int) -> Any:
    """The JSON value of a body; `BadRequest` if it is none, `Invalid` if an item in it nests too deep."""
    if not body or body.isspace():
        raise BadRequest("the body is empty: send a JSON object", errors=[FieldError("", "nothing was sent")])
    try:
        value = orjson.loads(body)
        kinds = _kinds_in_items(value)
        if kinds is None or not UNROUNDED.issuperset(kinds):
            value = exact.exactly(value, body)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}", errors=[FieldError("", str(error))]) from None
    except RecursionError:
        raise invalid("", _too_deep(max_depth)) from None
    if kinds is None or not kinds.isdisjoint(CONTAINERS):
        _check_depth(body, value, max_depth)
    return value


def _kinds_in_items(value: Any) -> set[type] | None:
    """The types of what the items of a body hold; None if it is not `{"data": [item, …]}`.

    To look at the values of flat items takes a fraction of what it takes to look for depth and long numbers in a body.
    """
    items = value.get("data") if type(value) is dict and len(value) == 1 else None
    if type(items) is not list or not {dict}.issuperset(map(type, items)):
        return None
    return set(map(type, chain.from_iterable(map(dict.values, items))))


def items_of(value: Any) -> list[Any]:
    """The items of a body `{"data": [item, …]}`, at least one."""
    if not isinstance(value, dict):
        raise invalid("", 'the body must be a JSON object: {"data": [item, …]}')
    for key in value:
        if key != "data":
            raise invalid(f"/{key}", 'unknown field: the body is {"data": [item, …]}')
    items = value.get("data")
    if not isinstance(items, list):
        raise invalid("/data", "must be an array of items" if "data" in value else "is missing")
    if not items:
        raise invalid("/data", "at least one item is needed")
    return items


def invalid(pointer: str, detail: str) -> Invalid:
    """One thing that is wrong with one place of the body."""
    return Invalid(f"{pointer or 'body'}: {detail}", errors=[FieldError(pointer, detail)])


def _check_depth(body: bytes, value: Any, max_depth: int) -> None:
    """`Invalid` for items here that nest deeper than those of an upload may: what is written must be read again."""
    around = 2  # an item stands in an array in an object
    if not isinstance(value, dict) or body.count(b"{") + body.count(b"[") <= max_depth + around:
        return
    if object_end(body, body.index(b"{"), max_depth + around) == TOO_DEEP:
        data = value.get("data")
        items = data if isinstance(data, list) else []
        deep = next((index for index, item in enumerate(items) if _is_deeper(item, max_depth)), None)
        raise invalid("" if deep is None else f"/data/{deep}", _too_deep(max_depth))


def _is_deeper(value: Any, max_depth: int) -> bool:
    """Whether objects and arrays nest deeper; level by level, because recursion could itself go too deep."""
    level = [value]
    for _ in range(max_depth + 1):
        level = [part for part in level if isinstance(part, dict | list)]
        if not level:
            return False
        level = [below for part in level for below in (part.values() if isinstance(part, dict) else part)]
    return True


def _too_deep(max_depth: int) -> str:
    return f"objects and arrays nest deeper than {max_depth} levels"
