"""Requests: their ids, their bodies, and their parameters checked by marshmallow with precise pointers."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import structlog
from flask import Flask, Request, Response, g, request
from marshmallow import EXCLUDE, RAISE, Schema, ValidationError
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import ClientDisconnected

from app.api.bodies import cut_short, parse_json, receiving, require_json
from app.api.services import services
from app.config import Settings
from app.data.chunks import Limits
from app.data.codings import decompress
from app.errors import FieldError, Invalid, NotFound
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


def request_id_of(given: str) -> str:
    """The id of a request whose `X-Request-ID` is this: the client's own if it is usable, else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else new_id()


def _begin() -> None:
    g.request_id = request_id_of(request.headers.get("X-Request-ID", ""))
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
    n_bytes, n_announced = 0, request.content_length
    with receiving(services().settings.client_timeout_seconds):
        try:
            while block := request.stream.read(BLOCK_BYTES):
                n_bytes += len(block)
                yield block
        except ClientDisconnected:
            raise cut_short(n_bytes, n_announced) from None
    # gunicorn gives what came before a client hung up as if it were all: lines of half an upload may look whole.
    if n_bytes < (n_announced or 0):
        raise cut_short(n_bytes, n_announced)


def read_json(*, any_media_type: bool = False) -> Any:
    """The JSON value of the body. The article's routes take any `Content-Type`, as its server did."""
    if not any_media_type:
        require_json(request.mimetype)
    return parse_json(read_body(), limits(services().settings).max_depth)


def read_body() -> bytes:
    """The whole body, decompressed; `TooLarge` if that is over `TWOFOLD_MAX_REQUEST_BYTES`."""
    body: bytes = b"".join(body_blocks(services().settings.max_request_bytes))
    g.body = body
    return body


def body_sha256() -> str:
    """The hex digest of the body that `read_body` read, decompressed: what tells one request from another."""
    return hashlib.sha256(g.body).hexdigest()


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


def checked(schema: Schema, value: Any) -> Any:
    """What a schema reads in the JSON value of a body; `Invalid` points at what it refuses."""
    try:
        return schema.load(value, unknown=RAISE)
    except ValidationError as error:
        raise _refusal(list(field_errors(error.messages, "", schema))) from None


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
        raise _refusal(found)


def _refusal(found: Sequence[FieldError]) -> Invalid:
    """The errors of a request, of which its sentence tells the first."""
    told = "; ".join(f"{each.pointer or 'body'}: {each.detail}" for each in found[:TOLD])
    more = f"; and {len(found) - TOLD} more" if len(found) > TOLD else ""
    return Invalid(told + more, errors=found)


def _placed(location: str, pointer: str) -> str:
    """A pointer into a part of the request, as `FieldError` wants it."""
    match location:
        case "query":
            return f"?{pointer[1:]}"
        case "headers":
            return f"{pointer[1:]}:"
        case _:
            return pointer
