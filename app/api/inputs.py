"""Inputs: uploaded as a stream, sealed when whole."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import orjson
from flask import Response, request, url_for

from app.api.blueprints import Blueprint, media
from app.api.paging import page_of
from app.api.requests import body_blocks, checked, checked_id, limits
from app.api.schemas import (
    InputList,
    InputQuery,
    InputSchema,
    Items,
    PresignedUpload,
    Registration,
    UploadQuery,
    UploadTarget,
)
from app.api.services import services
from app.data.extents import format_of_name
from app.data.formats import Format, format_of_content_type
from app.data.objects import RETRY_SECONDS
from app.errors import Overloaded
from app.jobs import history, inputs
from app.jobs.ids import new_id
from app.jobs.uploads import receive, register
from app.tables import Input

MAX_REGISTRATION_BYTES = 16 << 10
"""A longer JSON body brings items."""

blueprint = Blueprint("inputs", __name__, description="Uploaded sets of items, for jobs to run over")


@blueprint.post("/v1/inputs")
@blueprint.doc(
    requestBody={
        "required": True,
        "content": {
            "application/json": {"schema": {"anyOf": [Items, Registration]}},
            **media(Format.NDJSON, Format.CSV, Format.PARQUET),
        },
    }
)
@blueprint.arguments(UploadQuery, location="query")
@blueprint.response(201, InputSchema)
@blueprint.problems(400, 403, 409, 413, 415, 422, 503)
def upload_input(query: Mapping[str, Any]) -> tuple[Input, int, dict[str, str]]:
    """Uploads items: JSON `{"data": [item, …]}`, NDJSON, CSV with a header row, or Parquet.

    `Content-Encoding` may be gzip or zstd.
    A body that breaks off or breaks a rule leaves nothing behind. Schedules run over what names their `collection`.

    JSON `{"url": "s3://…"}` registers NDJSON or CSV that stays where it is, in a folder that
    `TWOFOLD_STORAGE_PREFIXES` allows. It is read once now, and again, part by part, by each job over it; a part that is
    not what it was then fails. At most half of the threads of a process work with stores; who would be one more is
    answered with 503 at once.
    """
    format = format_of_content_type(request.headers.get("Content-Type"))
    here = services()
    blocks = body_blocks(here.settings.max_upload_bytes)
    wanted = None
    if format is Format.JSON:
        wanted, blocks = _registration(blocks)
    if wanted is None:
        input_id = receive(here.database, blocks, format, limits(here.settings), **query)
    else:
        address = here.storage.object(wanted["url"])
        format = format_of_name(address.steps[-1], wanted["format"])
        with _at_stores():
            input_id = register(here.database, here.storage, address, format, limits(here.settings), **query)
    with here.database.reading() as session:
        return (
            history.get_input(session, input_id),
            201,
            {"Location": url_for("inputs.get_input", input_id=input_id)},
        )


@blueprint.post("/v1/inputs/presigned")
@blueprint.arguments(UploadTarget)
@blueprint.response(201, PresignedUpload)
@blueprint.problems(400, 403, 413, 415, 422, 503)
def presign_upload(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """A URL to which a client without credentials can upload an object, past this service; then it registers `url`.

    Stores of the kinds `s3://` and `gs://` have this. The name is new each time, so nothing can be overwritten.
    """
    storage = services().storage
    folder = storage.folder(wanted["folder"], "/folder")
    address = folder.child(f"{new_id()}-{wanted['name']}")
    expires_at = datetime.now(UTC) + timedelta(seconds=wanted["expires_in"])
    with _at_stores():
        upload_url = storage.presign(address, wanted["expires_in"], "/folder")
    return {
        "url": str(address),
        "upload_url": upload_url,
        "method": "PUT",
        "headers": {},
        "expires_at": expires_at,
    }


@blueprint.get("/v1/inputs")
@blueprint.arguments(InputQuery, location="query")
@blueprint.response(200, InputList)
@blueprint.problems(422)
def list_inputs(query: Mapping[str, Any]) -> Any:
    """Inputs, newest first."""
    with services().database.reading() as session:
        rows = history.list_inputs(
            session,
            limit=query["limit"] + 1,
            before=query.get("cursor"),
            collection=query.get("collection"),
        )
    listed, headers = page_of(rows, query["limit"])
    return {"data": listed}, 200, headers


@blueprint.get("/v1/inputs/<input_id>")
@blueprint.response(200, InputSchema)
@blueprint.problems(404)
def get_input(input_id: str) -> Input:
    """One input."""
    with services().database.reading() as session:
        return history.get_input(session, checked_id(input_id, "input"))


@blueprint.delete("/v1/inputs/<input_id>")
@blueprint.response(204)
@blueprint.problems(404, 409)
def delete_input(input_id: str) -> Response:
    """Deletes an input that no job refers to."""
    with services().database.writing() as session:
        inputs.remove(session, checked_id(input_id, "input"))
    return Response(status=204)


def _registration(blocks: Iterator[bytes]) -> tuple[Mapping[str, Any] | None, Iterator[bytes]]:
    """What a JSON body registers, or None if it brings items; and the body, of which no more than a start was read."""
    head = b""
    for block in blocks:
        head += block
        if len(head) > MAX_REGISTRATION_BYTES:
            return None, chain([head], blocks)
    try:
        body = orjson.loads(head)
    except ValueError:
        body = None  # the reader of items says what is wrong
    if isinstance(body, dict) and "url" in body and "data" not in body:
        return checked(Registration(), body), iter(())
    return None, iter([head])


@contextmanager
def _at_stores() -> Iterator[None]:
    """For work with a store, which holds a thread; `Overloaded` at once where half of them are at stores already."""
    at_stores = services().at_stores
    if not at_stores.acquire(blocking=False):
        raise Overloaded(
            "as many requests as may work with object stores in this process at once, half of its threads "
            "(TWOFOLD_WEB_THREADS), do so already: try again soon",
            headers={"Retry-After": RETRY_SECONDS},
        )
    try:
        yield
    finally:
        at_stores.release()
