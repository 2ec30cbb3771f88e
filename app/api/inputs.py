"""Inputs: uploaded as a stream, sealed when whole."""

from collections.abc import Mapping
from typing import Any

from flask import Response, request, url_for

from app.api.blueprints import Blueprint, media
from app.api.paging import page_of
from app.api.requests import body_blocks, checked_id, limits
from app.api.schemas import InputList, InputQuery, InputSchema, Items, UploadQuery
from app.api.services import services
from app.data.formats import Format, format_of_content_type
from app.jobs import history, inputs
from app.jobs.uploads import receive
from app.tables import Input

blueprint = Blueprint("inputs", __name__, description="Uploaded sets of items, for jobs to run over")


@blueprint.post("/v1/inputs")
@blueprint.doc(
    requestBody={
        "required": True,
        "content": {
            "application/json": {"schema": Items},
            **media(Format.NDJSON, Format.CSV, Format.PARQUET),
        },
    }
)
@blueprint.arguments(UploadQuery, location="query")
@blueprint.response(201, InputSchema)
@blueprint.problems(400, 413, 415, 422, 503)
def upload_input(query: Mapping[str, Any]) -> tuple[Input, int, dict[str, str]]:
    """Uploads items: JSON `{"data": [item, …]}`, NDJSON, CSV with a header row, or Parquet.

    `Content-Encoding` may be gzip or zstd.
    A body that breaks off or breaks a rule leaves nothing behind. Schedules run over what names their `collection`.
    """
    format = format_of_content_type(request.headers.get("Content-Type"))
    here = services()
    blocks = body_blocks(here.settings.max_upload_bytes)
    input_id = receive(here.database, blocks, format, limits(here.settings), **query)
    with here.database.reading() as session:
        return (
            history.get_input(session, input_id),
            201,
            {"Location": url_for("inputs.get_input", input_id=input_id)},
        )


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
