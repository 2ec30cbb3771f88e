"""Which items of a job are asked for: by `offset` and `limit`, or by a `Range` in the unit `items` (RFC 9110, 14)."""

import re
from collections.abc import Mapping
from typing import Any

from flask import request

from app.errors import BadRequest, FieldError, Invalid, RangeNotSatisfiable

_RANGE = re.compile(r"\s*([0-9]{1,18})?\s*-\s*([0-9]{1,18})?\s*")


def range_of_query(query: Mapping[str, Any], n_items: int) -> range:
    """The places that `offset` and `limit` name, of which some may not be there."""
    start = min(query.get("offset", 0), n_items)
    return range(start, min(start + query.get("limit", n_items), n_items))


def range_of_header(n_items: int, etag: str | None, *, is_given: bool) -> range | None:
    """The places that `Range` names; None without one, for other units, if `If-Range` names another body, and for HEAD.

    Raises RangeNotSatisfiable for places that are not there, BadRequest for a range that cannot be read or more
    than one, Invalid if the query gave a part already.
    """
    unit, _, text = request.headers.get("Range", "").partition("=")
    if unit.strip().lower() != "items" or request.method != "GET" or not _is_of(etag):
        return None
    match = _RANGE.fullmatch(text)
    first, last = (
        (None if place is None else int(place) for place in match.groups()) if match else (None, None)
    )
    if first is last is None:
        detail = f"`items={text}` is no range: send one, such as items=0-999, items=1000- or items=-500"
        raise _refused(BadRequest, detail)
    if is_given:
        raise _refused(Invalid, "ask for a part by `Range` or by `offset` and `limit`, not by both")
    if first is None:
        asked = range(max(n_items - (last or 0), 0), n_items)
    elif last is None:
        asked = range(first, n_items)
    elif last < first:
        raise _refused(BadRequest, f"`items={text}` ends before it begins")
    else:
        asked = range(first, min(last + 1, n_items))
    if not asked:
        raise RangeNotSatisfiable(
            f"`Range` asks for items={text}, and there are {n_items}: 0 to {n_items - 1}",
            errors=[FieldError("Range:", f"there are {n_items} items")],
            headers={"Content-Range": f"items */{n_items}", "Accept-Ranges": "items"},
        )
    return asked


def _is_of(etag: str | None) -> bool:
    """Whether a range of this body is wanted, rather than of one that a client had before (RFC 9110, 13.1.5)."""
    if "If-Range" not in request.headers:
        return True
    return etag is not None and request.headers["If-Range"].strip() == f'"{etag}"'


def _refused(kind: type[BadRequest] | type[Invalid], detail: str) -> BadRequest | Invalid:
    return kind(f"`Range`: {detail}", errors=[FieldError("Range:", detail)])
