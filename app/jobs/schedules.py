"""Schedules: at set times, one job over everything that a collection has gathered since the last.

Each verb takes a session of a writing transaction and leaves the commit to its caller. `now` is the database's
clock, unless a test gives another.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from sqlalchemy import Integer, Text, cast, delete, exists, func, insert, literal, select, update
from sqlalchemy.orm import Session

from app.columns import Id, utc_now
from app.db import UNSYNCHRONIZED
from app.errors import Invalid, NotFound, refused
from app.jobs import control
from app.jobs.history import database_time, page
from app.jobs.ids import new_id
from app.jobs.ledger import tell
from app.tables import Input, InputChunk, Schedule, ScheduleFire, ScheduleInput

CRON_FIELDS = 5
CONTENT = ("n_items", "items", "url", "byte_offset", "n_bytes", "header_bytes", "sha256")
"""What an input's chunk has in it, or where that is."""


def create(
    session: Session,
    *,
    schedule_id: str,
    cron: str,
    time_zone: str,
    model: str,
    version: str | None,
    collection: str,
    owner: str = "",
    now: datetime | None = None,
) -> None:
    """Makes a schedule that fires from now on; `Invalid`, with pointers, if cron or zone cannot be read."""
    following = next_fire(cron, time_zone, now or database_time(session))
    session.execute(
        insert(Schedule).values(
            id=schedule_id,
            cron=" ".join(cron.split()),
            time_zone=time_zone,
            model=model,
            version=version,
            collection=collection,
            owner=owner,
            created_at=utc_now(),
            next_fire_at=following,
        )
    )


def pause(session: Session, schedule_id: str) -> None:
    """Stops a schedule until `resume`; what its collection gathers meanwhile is for its next job."""
    get_schedule(session, schedule_id)
    _set_next(session, schedule_id, None)


def resume(session: Session, schedule_id: str, *, now: datetime | None = None) -> None:
    """Lets a paused schedule fire again, from the next instant on; one that is not paused goes on as it does."""
    schedule = get_schedule(session, schedule_id)
    if schedule.next_fire_at is None:
        following = next_fire(schedule.cron, schedule.time_zone, now or database_time(session))
        _set_next(session, schedule_id, following)


def remove(session: Session, schedule_id: str) -> None:
    """Deletes a schedule; the jobs it made stay."""
    get_schedule(session, schedule_id)
    session.execute(delete(Schedule).where(Schedule.id == schedule_id), execution_options=UNSYNCHRONIZED)


def due(
    session: Session, models: Collection[str], *, now: datetime | None = None
) -> list[tuple[str, datetime]]:
    """The schedules of these models that are due, each with its instant. Reads only."""
    rows = session.execute(
        select(Schedule.id, Schedule.next_fire_at)
        .where(Schedule.next_fire_at <= (now or utc_now()), Schedule.model.in_(models))
        .order_by(Schedule.next_fire_at)
    )
    return [(row.id, row.next_fire_at) for row in rows]


def next_due(session: Session) -> datetime | None:
    """When any schedule fires next. Reads only, and one row of an index."""
    return session.scalar(select(func.min(Schedule.next_fire_at)))


def fire(
    session: Session,
    schedule_id: str,
    fire_at: datetime,
    *,
    versions: Mapping[str, str],
    window: int,
    now: datetime | None = None,
) -> str | None:
    """Fires a schedule for the instant `fire_at`, unless that was done: the id of the job, if there was anything new.

    `versions` has the default version of each model, for schedules that name none.

    However many runners try, one of them moves `next_fire_at` on, and the job is made in that same transaction.
    The next instant is the first one after now, so all that passed while no runner lived fire as one.
    """
    schedule = session.scalars(
        select(Schedule).where(Schedule.id == schedule_id, Schedule.next_fire_at == fire_at)
    ).one_or_none()
    if schedule is None:
        return None
    following = next_fire(schedule.cron, schedule.time_zone, now or database_time(session))
    moved = session.scalars(
        update(Schedule)
        .where(Schedule.id == schedule_id, Schedule.next_fire_at == fire_at)
        .values(next_fire_at=following)
        .returning(Schedule.id),
        execution_options=UNSYNCHRONIZED,
    ).one_or_none()
    if moved is None:
        return None
    job_id, input_id = new_id(), new_id()
    has_new = _take(session, schedule, job_id)
    if has_new:
        _gather(session, schedule, job_id, input_id)
        control.enqueue(
            session,
            job_id=job_id,
            model=schedule.model,
            version=schedule.version or versions[schedule.model],
            input_id=input_id,
            window=window,
            owner=schedule.owner,
        )
        tell(
            session, [job_id], "scheduled", detail=f"by schedule {schedule_id}, for {fire_at:%Y-%m-%dT%H:%MZ}"
        )
    session.execute(
        insert(ScheduleFire).values(
            schedule_id=schedule_id,
            fire_at=fire_at,
            fired_at=now or utc_now(),
            job_id=job_id if has_new else None,
        )
    )
    return job_id if has_new else None


def get_schedule(session: Session, schedule_id: str) -> Schedule:
    """The schedule; `NotFound` if there is none."""
    row = session.get(Schedule, schedule_id)
    if row is None:
        raise NotFound(f"there is no schedule {schedule_id}")
    return row


def list_schedules(session: Session, *, limit: int, before: str | None = None) -> Sequence[Schedule]:
    """Schedules, newest first; those older than `before` if that is given."""
    return page(session, select(Schedule), Schedule, limit, before)


def last_fires(session: Session, schedule_id: str, limit: int = 10) -> Sequence[ScheduleFire]:
    """When a schedule fired, and the jobs it made, newest first."""
    return session.scalars(
        select(ScheduleFire)
        .where(ScheduleFire.schedule_id == schedule_id)
        .order_by(ScheduleFire.fire_at.desc())
        .limit(limit)
    ).all()


def next_fire(cron: str, time_zone: str, after: datetime) -> datetime:
    """The first instant after `after`, in UTC; `Invalid` if cron or zone cannot be read or there is no such instant.

    By Debian's rules where clocks change: what was due in a skipped hour fires right after it, a time of day that
    comes twice fires once, and what fires every hour or oftener simply goes on.
    """
    try:
        zone = ZoneInfo(time_zone)
    except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        raise _wrong_zone(time_zone) from None
    if len(cron.split()) != CRON_FIELDS:
        raise _wrong_cron("needs five fields: minute, hour, day of month, month, day of week")
    try:
        following = next(CronSim(cron, after.astimezone(zone)), None)
    except (CronSimError, ValueError) as error:
        raise _wrong_cron(str(error)) from None
    if following is None:
        raise _wrong_cron("names no instant in the next 50 years")
    return following.astimezone(UTC)


def _wrong_zone(time_zone: str) -> Invalid:
    detail = f"there is no time zone {time_zone!r}: use an IANA name such as Europe/Berlin, or UTC"
    return refused(Invalid, "/time_zone", detail)


def _wrong_cron(detail: str) -> Invalid:
    return refused(Invalid, "/cron", detail)


def _set_next(session: Session, schedule_id: str, following: datetime | None) -> None:
    session.execute(
        update(Schedule).where(Schedule.id == schedule_id).values(next_fire_at=following),
        execution_options=UNSYNCHRONIZED,
    )


def _take(session: Session, schedule: Schedule, job_id: str) -> bool:
    """Notes which inputs a job takes: all of the collection that no job of the schedule took before. Any at all?"""
    is_taken = exists().where(ScheduleInput.schedule_id == schedule.id, ScheduleInput.input_id == Input.id)
    untaken = (
        select(literal(schedule.id, Id), Input.id, literal(job_id, Id))
        .where(
            Input.collection == schedule.collection,
            Input.owner == schedule.owner,
            Input.status == "sealed",
            Input.pruned_at.is_(None),
            ~is_taken,
        )
        .with_for_update(read=True, of=Input)  # so that they are not pruned until their items are copied
    )
    taken = session.scalars(
        insert(ScheduleInput)
        .from_select(["schedule_id", "input_id", "job_id"], untaken)
        .returning(ScheduleInput.input_id)
    ).all()
    return bool(taken)


def _gather(session: Session, schedule: Schedule, job_id: str, input_id: str) -> None:
    """Makes a sealed input of the items of all inputs that a job takes, in the order of their ids.

    It expires with the first of them that does.
    """
    taken = (ScheduleInput.schedule_id == schedule.id) & (ScheduleInput.job_id == job_id)
    of_inputs = ScheduleInput.input_id == Input.id
    totals = (
        select(
            literal(input_id, Id),
            literal("sealed", Text),
            func.min(Input.format),
            cast(func.sum(Input.n_items), Integer),
            cast(func.sum(Input.n_chunks), Integer),
            func.sum(Input.n_bytes),
            literal(schedule.owner, Text),
            func.min(Input.expires_at),
            utc_now(),
            utc_now(),
        )
        .select_from(Input)
        .join(ScheduleInput, of_inputs)
        .where(taken)
    )
    columns = ["id", "status", "format", "n_items", "n_chunks", "n_bytes"]
    columns += ["owner", "expires_at", "created_at", "sealed_at"]
    session.execute(insert(Input).from_select(columns, totals))
    place = (InputChunk.input_id, InputChunk.seq)
    before = func.sum(InputChunk.n_items).over(order_by=place, rows=(None, -1))
    chunks = (
        select(
            literal(input_id, Id),
            cast(func.row_number().over(order_by=place) - 1, Integer),
            cast(func.coalesce(before, 0), Integer),
            *(getattr(InputChunk, column) for column in CONTENT),
        )
        .join(ScheduleInput, ScheduleInput.input_id == InputChunk.input_id)
        .where(taken)
    )
    session.execute(insert(InputChunk).from_select(["input_id", "seq", "first_item", *CONTENT], chunks))
