"""What a job gave: its outputs in any format, whole or by ranges of items, and its errors."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flask import Response, request
from marshmallow import fields, validate

from app.api.blueprints import Blueprint, media
from app.api.jobs import POLL_SECONDS
from app.api.ranges import range_of_header, range_of_query
from app.api.requests import checked_id
from app.api.schemas.fields import Schema
from app.api.services import services
from app.config import MAX_ITEMS
from app.data.codings import Coding, coding_of_accept_encoding, compress
from app.data.formats import Format, format_of_accept
from app.data.writing import write_answers
from app.errors import Conflict, NotAcceptable
from app.jobs import history
from app.tables import TERMINAL_JOB_STATES, Job

blueprint = Blueprint("outputs", __name__, description="What jobs gave: predictions and errors")

VARY = "Accept, Accept-Encoding"
HAS_COLUMNS = (Format.CSV, Format.PARQUET)
MAX_COLUMNS = 10_000
"""Of a CSV or Parquet file: it has a cell for each in every row, however few of them an answer has."""


class OutputQuery(Schema):
    is_partial = fields.Boolean(
        data_key="partial",
        load_default=False,
        metadata={"description": "what there is so far, of a job that still runs"},
    )
    offset = fields.Integer(
        validate=validate.Range(0, MAX_ITEMS),
        metadata={"description": "place of the first item within the input, from 0"},
    )
    limit = fields.Integer(
        validate=validate.Range(1, MAX_ITEMS),
        metadata={"description": "items at most, those that failed included"},
    )


@blueprint.get("/v1/jobs/<job_id>/outputs")
@blueprint.arguments(OutputQuery, location="query")
@blueprint.doc(
    parameters=[
        {"in": "header", "name": name, "schema": {"type": "string"}, "description": description}
        for name, description in (
            ("Range", "`items=0-999`, `items=1000-` or `items=-500`: answered with 206"),
            ("If-None-Match", "an `ETag`: answered with 304 if it is the one still"),
        )
    ],
    responses={
        status: {
            "description": description,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/ArticlePredictions"}},
                **media(Format.NDJSON, Format.CSV, Format.PARQUET),
            },
        }
        for status, description in ((200, "Answers in the order of the input"), (206, "Those of the `Range`"))
    },
)
@blueprint.problems(400, 404, 406, 409, 410, 416, 422)
def get_outputs(query: Mapping[str, Any], job_id: str) -> Response:
    """Each item with its prediction, in input order, as `Accept` asks: JSON, NDJSON, CSV or Parquet.

    Items that failed are left out, but keep their place in ranges; `/errors` names them. A job with an `output_url`
    has its outputs there: that is a 409. A part, by `Range` or by
    `offset` and `limit`, is a document of its own.
    """
    format = format_of_accept(request.headers.get("Accept"))
    coding = _coding()
    database = services().database
    with database.reading() as session:
        job = history.get_job(session, checked_id(job_id, "job"))
        history.require_predictions(job)
        if job.status not in TERMINAL_JOB_STATES and not query["is_partial"]:
            raise Conflict(
                f"job {job_id} is {job.status}: wait until it is done, or ask for ?partial=true",
                headers={"Retry-After": str(POLL_SECONDS)},
            )
        history.require_in_database(job)
        history.require_kept(job)
        columns = history.output_columns(session, job_id) if format in HAS_COLUMNS else ()
    if len(columns) > MAX_COLUMNS:
        detail = f"the answers have {len(columns):,} different fields, more than the {MAX_COLUMNS:,} columns of a table"
        raise NotAcceptable(f"{detail}: ask for {Format.NDJSON.media_type}")
    wanted = range_of_query(query, job.n_items)
    etag = _etag(job, format, coding, wanted)
    # Not `make_conditional`, which collects a streamed body in memory to count its bytes.
    if etag is not None and request.if_none_match.contains_weak(etag):
        return Response(status=304, headers=[("ETag", f'"{etag}"'), ("Vary", VARY)])
    asked = range_of_header(job.n_items, etag, is_given=len(wanted) < job.n_items)
    response = stream(
        lambda: history.iterate_outputs(database, job_id, wanted if asked is None else asked), format, columns
    )
    response.headers["Content-Disposition"] = f'attachment; filename="{job_id}.{format}"'
    response.headers["Accept-Ranges"] = "items"
    if asked is not None:
        response.status_code = 206
        response.headers["Content-Range"] = f"items {asked.start}-{asked.stop - 1}/{job.n_items}"
    if etag is not None:
        response.set_etag(etag)
    return response


@blueprint.get("/v1/jobs/<job_id>/errors")
@blueprint.doc(responses={200: {"description": "One error a line", "content": media(Format.NDJSON)}})
@blueprint.problems(404, 406, 409, 410)
def get_errors(job_id: str) -> Response:
    """The items without a prediction, and why: NDJSON lines `{"index", "code", "message"}` in input order."""
    database = services().database
    with database.reading() as session:
        job = history.get_job(session, checked_id(job_id, "job"))
        history.require_predictions(job)
        history.require_kept(job)
    return _compressed(history.error_lines(database, job_id), Format.NDJSON)


def stream(
    payloads: Callable[[], Iterable[tuple[bytes, int]]], format: Format, columns: Sequence[str] = ()
) -> Response:
    """Outputs as a streamed body in that format; `payloads` gives them from the start each time it is called."""
    return _compressed(write_answers(format, payloads, columns), format)


def _compressed(blocks: Iterable[bytes], format: Format) -> Response:
    """A streamed body, compressed as the client likes it."""
    coding = _coding()
    response = Response(compress(blocks, coding), mimetype=format.media_type)
    response.headers["Vary"] = VARY
    if coding is not Coding.IDENTITY:
        response.headers["Content-Encoding"] = coding
    return response


def _coding() -> Coding:
    return coding_of_accept_encoding(request.headers.get("Accept-Encoding"))


def _etag(job: Job, format: Format, coding: Coding, items: range) -> str | None:
    """What tells one body from another: the outputs of a job that has ended change by a retry alone.

    None for a job that runs. A `Range` of a body has the tag of the whole, as RFC 9110 (15.3.7) wants it.
    """
    if job.finished_at is None:
        return None
    told = (job.id, job.finished_at.isoformat(), format, coding, str(items.start), str(items.stop))
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]
