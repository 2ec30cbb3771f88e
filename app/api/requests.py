"""Requests: their ids, their bodies, and their parameters checked by marshmallow with precise pointers."""

import hashlib
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import structlog
from flask import Flask, Request, Response, g, request
from marshmallow import EXCLUDE, RAISE, Schema, ValidationError
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import ClientDisconnected

from app.api.services import services
from app.config import Settings
from app.data import exact
from app.data.chunks import Limits
from app.data.codings import decompress
from app.data.items import TOO_DEEP, object_end
from app.errors import BadRequest, FieldError, Invalid, NotFound, UnsupportedMediaType
from app.jobs.ids import is_id, new_id
from app.models.schemas import field_errors

BLOCK_BYTES = 64 * 1024
TOLD = 3
"""How many errors the one sentence of a problem tells; its `errors` have the others."""
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def register(app: Flask) -> None:
    """Gives every request an id: the client's `X-Request-ID` if it sends a usable one, else a new one."""
    app.before_request(_begin)
    app.after_request(_echo_id)


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else new_id()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _echo_id(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    return response


def body_blocks(max_bytes: int) -> Iterator[bytes]:
    """The body as it arrives, decompressed; `TooLarge` once it is over `max_bytes`."""
    request.max_content_length = None  # counted here, after decompression
    return decompress(_received(), request.headers.get("Content-Encoding"), max_bytes)


def _received() -> Iterator[bytes]:
    n_bytes = 0
    try:
        while block := request.stream.read(BLOCK_BYTES):
            n_bytes += len(block)
            yield block
        # gunicorn gives what came before a client hung up as if it were all: lines of half an upload may look whole.
        if n_bytes < (request.content_length or 0):
            raise ClientDisconnected
    except ClientDisconnected:
        raise BadRequest(
            f"the connection closed before the whole body had arrived: {n_bytes} of {request.content_length} bytes"
        ) from None
    except (OSError, ValueError) as error:
        raise BadRequest(f"the body could not be received: {error}") from None


def read_json(*, any_media_type: bool = False) -> Any:
    """The JSON value of the body. The article's routes take any `Content-Type`, as its server did."""
    if not any_media_type and request.mimetype != "application/json":
        found = f"is `{request.mimetype}`" if request.mimetype else "is missing"
        detail = f"{found}; this path reads application/json"
        raise UnsupportedMediaType(f"`Content-Type` {detail}", errors=[FieldError("Content-Type:", detail)])
    g.body = body = b"".join(body_blocks(services().settings.max_request_bytes))
    if not body.strip():
        raise BadRequest("the body is empty: send a JSON object", errors=[FieldError("", "nothing was sent")])
    max_depth = limits(services().settings).max_depth
    try:
        value = exact.loads(body)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}", errors=[FieldError("", str(error))]) from None
    except RecursionError:
        raise _invalid("", _too_deep(max_depth)) from None
    _check_depth(body, value, max_depth)
    return value


def body_sha256() -> str:
    """The hex digest of the body that `read_json` read, decompressed: what tells one request from another."""
    return hashlib.sha256(g.body).hexdigest()


def _check_depth(body: bytes, value: Any, max_depth: int) -> None:
    """`Invalid` for items here that nest deeper than those of an upload may: what is written must be read again."""
    around = 2  # an item stands in an array in an object
    if not isinstance(value, dict) or body.count(b"{") + body.count(b"[") <= max_depth + around:
        return
    if object_end(body, body.index(b"{"), max_depth + around) == TOO_DEEP:
        data = value.get("data")
        items = data if isinstance(data, list) else []
        deep = next((index for index, item in enumerate(items) if _is_deeper(item, max_depth)), None)
        raise _invalid("" if deep is None else f"/data/{deep}", _too_deep(max_depth))


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


def read_data(**options: bool) -> list[Any]:
    """The items of a body `{"data": [item, …]}`, at least one."""
    body = read_json(**options)
    if not isinstance(body, dict):
        raise _invalid("", 'the body must be a JSON object: {"data": [item, …]}')
    for key in body:
        if key != "data":
            raise _invalid(f"/{key}", 'unknown field: the body is {"data": [item, …]}')
    items = body.get("data")
    if not isinstance(items, list):
        raise _invalid("/data", "must be an array of items" if "data" in body else "is missing")
    if not items:
        raise _invalid("/data", "at least one item is needed")
    return items


def limits(settings: Settings) -> Limits:
    """How large uploads, their items and their chunks may be here."""
    return Limits(
        chunk_items=settings.chunk_items,
        chunk_bytes=settings.chunk_bytes,
        max_item_bytes=settings.max_item_bytes,
        max_bytes=settings.max_upload_bytes,
        max_items=settings.max_items,
    )


def checked_id(text: str, kind: str) -> str:
    """An id from a path; what is none of ours names nothing, so it is `NotFound`."""
    if not is_id(text):
        raise NotFound(f"there is no {kind} {text}: ids look like 01981f5e-7c4b-7d3a-9f10-2b6c8e0d4a71")
    return text


def _invalid(pointer: str, detail: str) -> Invalid:
    return Invalid(f"{pointer or 'body'}: {detail}", errors=[FieldError(pointer, detail)])


class Parser(FlaskParser):
    """Reads query parameters and JSON bodies for the views' schemas, and refuses with pointers into them."""

    DEFAULT_UNKNOWN_BY_LOCATION = {"query": RAISE, "json": RAISE, "headers": EXCLUDE}  # noqa: RUF012 — webargs' own form

    def load_json(self, req: Request, schema: Schema) -> Any:
        return read_json()

    def handle_error(
        self,
        error: ValidationError,
        req: Request,
        schema: Schema,
        *,
        error_status_code: Any,
        error_headers: Any,
    ) -> NoReturn:
        found = [
            FieldError(_placed(location, each.pointer), each.detail)
            for location, messages in error.messages_dict.items()
            for each in field_errors(messages, "", schema)
        ]
        told = "; ".join(f"{each.pointer or 'body'}: {each.detail}" for each in found[:TOLD])
        more = f"; and {len(found) - TOLD} more" if len(found) > TOLD else ""
        raise Invalid(told + more, errors=found)


def _placed(location: str, pointer: str) -> str:
    """A pointer into a part of the request, as `FieldError` wants it."""
    match location:
        case "query":
            return f"?{pointer[1:]}"
        case "headers":
            return f"{pointer[1:]}:"
        case _:
            return pointer
