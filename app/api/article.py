"""The four routes of the article that this project started from: a thin face over the same verbs.

They serve the default model of the first entry in `models.toml`, and name inputs by "filename".
"""

from typing import Any

from flask import Response
from marshmallow import fields

from app.api.blueprints import Blueprint
from app.api.online import answer_online
from app.api.outputs import stream
from app.api.requests import body_blocks, limits
from app.api.schemas import ArticlePredictions, Items
from app.api.schemas.fields import Schema
from app.api.services import services
from app.data.formats import Format
from app.errors import NotFound
from app.jobs import control, history
from app.jobs.ids import is_id, new_id
from app.jobs.uploads import receive
from app.tables import TERMINAL_JOB_STATES, Job, JobState

blueprint = Blueprint("article", __name__, description="The routes of the article, for its own curl calls")


class Filename(Schema):
    filename = fields.String(required=True, metadata={"description": "what POST /upload answered"})


@blueprint.post("/prediction/online")
@blueprint.doc(requestBody={"required": True, "content": {"application/json": {"schema": Items}}})
@blueprint.response(200, ArticlePredictions)
@blueprint.problems(400, 413, 422, 500, 503, 504)
def online() -> Response:
    """Predictions of the default model, now."""
    return answer_online(services().registry.default(), is_article=True)


@blueprint.post("/upload")
@blueprint.doc(requestBody={"required": True, "content": {"application/json": {"schema": Items}}})
@blueprint.response(200, Filename)
@blueprint.problems(400, 413, 422, 503)
def upload() -> dict[str, str]:
    """Stores items for a batch prediction."""
    here = services()
    blocks = body_blocks(here.settings.max_upload_bytes)
    return {"filename": receive(here.database, blocks, Format.JSON, limits(here.settings))}


@blueprint.get("/prediction/batch")
@blueprint.arguments(Filename, location="query")
@blueprint.response(200, Schema)
@blueprint.problems(404, 410, 422, 503)
def batch(query: dict[str, str]) -> dict[str, Any]:
    """Starts to predict an upload in the background, once; 404 if it is unknown or its result is there."""
    here = services()
    input_id = query["filename"]
    model = here.registry.default().declaration
    with here.database.writing() as session:
        job = _latest_job(session, input_id)
        if job is not None and _has_result(job):
            raise NotFound(f"the result of {input_id} exists already: GET /download?filename={input_id}")
        if job is None or job.status in TERMINAL_JOB_STATES:
            control.enqueue(
                session,
                job_id=new_id(),
                model=model.name,
                version=model.version,
                input_id=input_id,
                window=here.settings.job_window,
            )
    return {}


@blueprint.get("/download")
@blueprint.arguments(Filename, location="query")
@blueprint.response(200, ArticlePredictions)
@blueprint.problems(404, 406, 422)
def download(query: dict[str, str]) -> Response:
    """The predictions of an upload; 404 while there are none."""
    database = services().database
    with database.reading() as session:
        job = _latest_job(session, query["filename"])
    if job is None or not _has_result(job):
        raise NotFound(f"there is no result of {query['filename']} yet: GET /prediction/batch starts it")
    return stream(lambda: history.iterate_outputs(database, job.id), Format.JSON)


def _latest_job(session: Any, filename: str) -> Job | None:
    if not is_id(filename):
        raise NotFound(f"there is no upload {filename}")
    history.get_input(session, filename)
    return history.latest_job_of_input(session, filename)


def _has_result(job: Job) -> bool:
    is_here = job.pruned_at is None and job.output_url is None
    return is_here and job.status in (JobState.SUCCEEDED, JobState.PARTIAL)
