"""Schedules: jobs made at set times over what a collection has gathered."""

from collections.abc import Mapping
from typing import Any

from flask import Response, url_for
from sqlalchemy.orm import Session

from app.api.blueprints import Blueprint
from app.api.paging import page_of
from app.api.requests import checked_id
from app.api.schemas import Page, ScheduleDetail, ScheduleList, ScheduleRequest
from app.api.services import services
from app.jobs import schedules
from app.jobs.ids import new_id
from app.tables import Schedule

blueprint = Blueprint("schedules", __name__, description="Jobs at set times, over what was uploaded since")


@blueprint.post("/v1/schedules")
@blueprint.arguments(ScheduleRequest)
@blueprint.response(201, ScheduleDetail)
@blueprint.problems(400, 404, 413, 415, 422, 503)
def create_schedule(wanted: Mapping[str, Any]) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Makes a job at set times, over all inputs of a collection that no job of this schedule has taken yet.

    `cron` has five fields and is read in `time_zone`. Where nothing is new, no job is made. Instants that pass while
    no runner lives fire once, when one does.
    """
    here = services()
    here.registry.get(wanted["model"], wanted.get("version"))
    schedule_id = new_id()
    with here.database.writing() as session:
        schedules.create(
            session,
            schedule_id=schedule_id,
            cron=wanted["cron"],
            time_zone=wanted["time_zone"],
            model=wanted["model"],
            version=wanted.get("version"),
            collection=wanted["collection"],
        )
        described = _describe(session, schedule_id)
    return described, 201, {"Location": url_for("schedules.get_schedule", schedule_id=schedule_id)}


@blueprint.get("/v1/schedules")
@blueprint.arguments(Page, location="query")
@blueprint.response(200, ScheduleList)
@blueprint.problems(422)
def list_schedules(page: Mapping[str, Any]) -> Any:
    """Schedules, newest first."""
    with services().database.reading() as session:
        rows = schedules.list_schedules(session, limit=page["limit"] + 1, before=page.get("cursor"))
        listed, headers = page_of(rows, page["limit"])
        return {"data": [_columns(schedule) for schedule in listed]}, 200, headers


@blueprint.get("/v1/schedules/<schedule_id>")
@blueprint.response(200, ScheduleDetail)
@blueprint.problems(404)
def get_schedule(schedule_id: str) -> dict[str, Any]:
    """One schedule, with its last ten fires and the jobs that they made."""
    with services().database.reading() as session:
        return _describe(session, checked_id(schedule_id, "schedule"))


@blueprint.post("/v1/schedules/<schedule_id>/pause")
@blueprint.response(200, ScheduleDetail)
@blueprint.problems(404)
def pause_schedule(schedule_id: str) -> dict[str, Any]:
    """Stops it until it is resumed; uploads of that time are for its next job."""
    with services().database.writing() as session:
        schedules.pause(session, checked_id(schedule_id, "schedule"))
        return _describe(session, schedule_id)


@blueprint.post("/v1/schedules/<schedule_id>/resume")
@blueprint.response(200, ScheduleDetail)
@blueprint.problems(404)
def resume_schedule(schedule_id: str) -> dict[str, Any]:
    """Lets it fire again, from the next instant on."""
    with services().database.writing() as session:
        schedules.resume(session, checked_id(schedule_id, "schedule"))
        return _describe(session, schedule_id)


@blueprint.delete("/v1/schedules/<schedule_id>")
@blueprint.response(204)
@blueprint.problems(404)
def delete_schedule(schedule_id: str) -> Response:
    """Deletes a schedule; the jobs it made stay."""
    with services().database.writing() as session:
        schedules.remove(session, checked_id(schedule_id, "schedule"))
    return Response(status=204)


def _columns(schedule: Schedule) -> dict[str, Any]:
    columns = {column.key: getattr(schedule, column.key) for column in Schedule.__table__.columns}
    return columns | {"paused": schedule.next_fire_at is None}


def _describe(session: Session, schedule_id: str) -> dict[str, Any]:
    """What `ScheduleDetail` writes."""
    session.expire_all()  # a verb wrote past the session's objects
    described = _columns(schedules.get_schedule(session, schedule_id))
    fires = [
        {"fire_at": fire.fire_at, "fired_at": fire.fired_at, "job_id": fire.job_id}
        for fire in schedules.last_fires(session, schedule_id)
    ]
    return described | {"fires": fires}
