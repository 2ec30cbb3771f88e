"""Jobs: made, watched and canceled."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from flask import Response, request, url_for
from sqlalchemy.orm import Session
from structlog.contextvars import bind_contextvars

from app.api.blueprints import Blueprint
from app.api.paging import page_of
from app.api.requests import body_sha256, checked_id, limits
from app.api.schemas import (
    JobList,
    JobQuery,
    JobRequest,
    JobSchema,
    JobStory,
    JobWait,
    Repeatable,
)
from app.api.services import services
from app.data import exact
from app.errors import Conflict, FieldError, Invalid
from app.jobs import again, control, history
from app.jobs.ids import is_id, new_id
from app.jobs.manifests import manifest_url
from app.jobs.uploads import receive_items
from app.models.declarations import Declaration
from app.models.training import require_trainable
from app.tables import TERMINAL_JOB_STATES, Job, JobKind, JobState
from app.versions.trained import versions_of_jobs

blueprint = Blueprint("jobs", __name__, description="Runs of a model over an input")

POLL_SECONDS = 1
"""What a client that polls is told to wait: `Retry-After` counts in whole seconds."""
WATCH_SECONDS = (0.02, 0.5)
"""How often a waiting request looks at its job: soon at first, since many jobs are short."""


@blueprint.post("/v1/jobs")
@blueprint.arguments(JobRequest)
@blueprint.arguments(Repeatable, location="headers")
@blueprint.response(202, JobSchema)
@blueprint.problems(400, 403, 404, 409, 410, 413, 415, 422, 503)
def create_job(
    wanted: Mapping[str, Any], repeatable: Mapping[str, Any]
) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Makes a job over an uploaded input, or over items given here, and answers at once.

    With an `Idempotency-Key`, the same request may be sent again, at any time and by several at once: one job is
    made, and the others get it too. The same key with another body is refused.
    """
    job_id, is_new = make(wanted, new_id(), key=repeatable["key"])
    headers = _headers(job_id) | ({} if is_new else {"Idempotency-Replayed": "true"})
    return _read(job_id), 202, headers


@blueprint.put("/v1/jobs/<job_id>")
@blueprint.arguments(JobRequest)
@blueprint.response(202, JobSchema)
@blueprint.alt_response(200, schema=JobSchema, description="The job that the same request made before")
@blueprint.problems(400, 403, 404, 409, 410, 413, 415, 422, 503)
def put_job(wanted: Mapping[str, Any], job_id: str) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Makes a job under an id of the client's own, a UUID in lower case: sent again, it changes nothing.

    A UUIDv7 keeps lists in the order of time. The same id with another body is refused.
    """
    if not is_id(job_id):
        detail = f"{job_id} is no UUID in lower case, such as 01981f5e-7c4b-7d3a-9f10-2b6c8e0d4a71"
        raise Invalid(detail, errors=[FieldError("", detail)])
    _, is_new = make(wanted, job_id, is_given=True)
    return _read(job_id), 202 if is_new else 200, _headers(job_id)


@blueprint.get("/v1/jobs")
@blueprint.arguments(JobQuery, location="query")
@blueprint.response(200, JobList)
@blueprint.problems(422)
def list_jobs(query: Mapping[str, Any]) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Jobs, newest first."""
    wanted = {name: query.get(name) for name in ("status", "model", "input_id")}
    with services().database.reading() as session:
        rows = history.list_jobs(session, limit=query["limit"] + 1, before=query.get("cursor"), **wanted)
        page, headers = page_of(rows, query["limit"])
        return {"data": _describe(session, page)}, 200, headers


@blueprint.get("/v1/jobs/<job_id>")
@blueprint.arguments(JobWait, location="query")
@blueprint.response(200, JobSchema)
@blueprint.problems(404, 422)
def get_job(query: Mapping[str, Any], job_id: str) -> Any:
    """One job, with live counts. `?wait=30` answers when it has ended, or after 30 seconds.

    At most half of the threads of a process wait for jobs; who would be one more is answered at once, and told by
    `Retry-After` when to ask again.
    """
    checked_id(job_id, "job")
    job = _read(job_id)
    if query["wait"] and not job["done"] and services().waiting.acquire(blocking=False):
        try:
            job = _await_end(job, query["wait"])
        finally:
            services().waiting.release()
    response = Response(exact.dumps(JobSchema().dump(job)), mimetype="application/json")
    if not job["done"]:
        response.headers["Retry-After"] = str(POLL_SECONDS)
    response.add_etag()
    return response.make_conditional(request)


def _await_end(job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The job when it has ended, or as it is after so many seconds."""
    until = time.monotonic() + seconds
    pause, longest = WATCH_SECONDS
    while not job["done"] and (left := until - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, longest)
        job = _read(job["id"])
    return job


@blueprint.post("/v1/jobs/<job_id>/cancel")
@blueprint.response(200, JobSchema)
@blueprint.problems(404, 409)
def cancel_job(job_id: str) -> dict[str, Any]:
    """Cancels what has not run yet; what runs now finishes, and outputs so far are kept."""
    with services().database.writing() as session:
        control.cancel(session, checked_id(job_id, "job"))
    return _read(job_id)


@blueprint.post("/v1/jobs/<job_id>/retry")
@blueprint.response(202, JobSchema)
@blueprint.problems(404, 409, 410)
def retry_job(job_id: str) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Runs the items of an ended job again that have no prediction: failed, refused and canceled ones, no others."""
    here = services()
    with here.database.writing() as session:
        again.retry(session, checked_id(job_id, "job"), window=here.settings.job_window)
    return _read(job_id), 202, _headers(job_id)


@blueprint.get("/v1/jobs/<job_id>/events")
@blueprint.response(200, JobStory)
@blueprint.problems(404)
def get_events(job_id: str) -> dict[str, Any]:
    """The story of a job: when it was created, started, retried, rescued and by which runner, finished."""
    with services().database.reading() as session:
        history.get_job(session, checked_id(job_id, "job"))
        return {"data": history.story(session, job_id)}


@blueprint.delete("/v1/jobs/<job_id>")
@blueprint.response(204)
@blueprint.problems(404, 409)
def delete_job(job_id: str) -> Response:
    """Deletes a job that has ended, with its outputs, errors and events; its input stays."""
    with services().database.writing() as session:
        control.remove(session, checked_id(job_id, "job"))
    return Response(status=204)


def accepted(model: Declaration, items: list[Any], headers: dict[str, str]) -> Response:
    """202 with a job over items that came as an online request, and with these headers besides a job's own."""
    services().database.require_current_schema()
    wanted = JobRequest().load({"model": model.name, "version": model.version, "data": items})
    job_id, _ = make(wanted, new_id())
    body = orjson.dumps(JobSchema().dump(_read(job_id)))
    return Response(body, 202, _headers(job_id) | headers, mimetype="application/json")


def make(
    wanted: Mapping[str, Any], job_id: str, *, key: str | None = None, is_given: bool = False
) -> tuple[str, bool]:
    """Makes a job, unless this key or given id did so before: its id, and whether it is new."""
    here = services()
    sha256 = body_sha256() if is_given or key is not None else None
    with here.database.writing() as session:
        if sha256 is not None:
            made = control.find(session, request_sha256=sha256, owner="", key=key, job_id=job_id)
            if made is not None:
                return made, False
        served = here.registry.get(wanted["model"], wanted.get("version"))
        model, options = served.declaration, wanted.get("options")
        if wanted["kind"] is JobKind.TRAIN:
            options = options or {}
            require_trainable(served, options)
        elif served.state == "untrained":
            raise Conflict(served.untrained)
        output_url = wanted["output_url"]
        if output_url is not None:
            output_url = str(here.storage.folder(output_url, "/output_url"))
        input_id = wanted.get("input_id")
        if input_id is None:
            input_id = receive_items(session, wanted["data"], limits(here.settings))
        control.enqueue(
            session,
            job_id=job_id,
            model=model.name,
            version=model.version,
            input_id=input_id,
            kind=wanted["kind"],
            options=options,
            window=here.settings.job_window,
            priority=wanted["priority"],
            run_at=wanted["run_at"],
            max_errors=wanted["max_errors"],
            expires_at=wanted["expires_at"],
            idempotency_key=key,
            request_sha256=sha256,
            output_url=output_url,
        )
    bind_contextvars(job_id=job_id)
    return job_id, True


def _headers(job_id: str) -> dict[str, str]:
    return {"Location": url_for("jobs.get_job", job_id=job_id), "Retry-After": str(POLL_SECONDS)}


def _read(job_id: str) -> dict[str, Any]:
    with services().database.reading() as session:
        (described,) = _describe(session, [history.get_job(session, job_id)])
    return described


def _describe(session: Session, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """What `JobSchema` writes of each."""
    now = history.database_time(session)
    trained = [job.id for job in jobs if job.kind == JobKind.TRAIN and job.status == JobState.SUCCEEDED]
    training = [job.id for job in jobs if job.kind == JobKind.TRAIN and job.status == JobState.RUNNING]
    versions = versions_of_jobs(session, trained) if trained else {}
    shares = history.training_progress(session, training) if training else {}
    return [_described(job, now, shares.get(job.id, 0.0)) | {"trained": versions.get(job.id)} for job in jobs]


def _described(job: Job, now: datetime, share: float) -> dict[str, Any]:
    """The row, and what follows from it at `now`, the database's time; of a training, its own word on its `share`."""
    progress = (job.n_succeeded + job.n_errored + job.n_canceled) / job.n_items or share
    eta_seconds = None
    if job.status == JobState.RUNNING and job.started_at is not None and progress:
        elapsed = (now - job.started_at).total_seconds()
        eta_seconds = round(elapsed / progress * (1 - progress), 1)
    described = {column.key: getattr(job, column.key) for column in Job.__table__.columns}
    return {
        **described,
        "manifest_url": manifest_url(job),
        "counts": job,
        "done": job.status in TERMINAL_JOB_STATES,
        "progress": round(progress, 4),
        "eta_seconds": eta_seconds,
    }
