"""The queue, as its clients use it: enqueue, cancel, abandon and remove jobs.

Each verb takes a session of a writing transaction and leaves the commit to its caller.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, delete, func, literal, select, update
from sqlalchemy.orm import Session

from app.columns import utc_now
from app.config import MAX_ITEMS
from app.db import UNSYNCHRONIZED, take_turns
from app.errors import Conflict, Gone, Invalid, NotFound
from app.jobs import statements
from app.jobs.ledger import tell, tell_finished
from app.jobs.states import counted, patience_seconds, queue_of
from app.models.declarations import TRAINED
from app.tables import (
    TERMINAL_JOB_STATES,
    Chunk,
    ChunkState,
    InputChunk,
    Job,
    JobKind,
    JobState,
    ModelVersion,
)

WAITING = (ChunkState.PENDING, ChunkState.QUEUED)
WAKE_CHANNEL = "twofold_jobs"
"""Postgres notifies this channel of new jobs and widened windows; it only hints, runners poll all the same."""


def enqueue(
    session: Session,
    *,
    job_id: str,
    model: str,
    version: str,
    input_id: str,
    window: int,
    kind: JobKind = JobKind.PREDICT,
    options: dict[str, Any] | None = None,
    priority: int = 0,
    run_at: datetime | None = None,
    owner: str = "",
    max_errors: int | None = None,
    expires_at: datetime | None = None,
    idempotency_key: str | None = None,
    request_sha256: str | None = None,
    output_url: str | None = None,
) -> None:
    """Makes a job over a sealed input; its first `window` chunks may be claimed, the others wait for those to end.

    A job of kind `train` has a single chunk, with all items of the input; `options` are what it gives to `train`.
    The more chunks an owner has waiting in a queue, the later it comes in it: a second for each, so that who
    makes thousands of jobs does not stand before who makes one.

    `NotFound` if there is no such input, `Conflict` while it is still being uploaded, `Gone` once it was pruned, or
    once the version was removed.
    `Conflict`, too, if another job writes to this `output_url`, or for a training whose items are in an object store.
    """
    connection = session.connection()
    sealed = connection.execute(statements.INPUT_OF_JOB, {"input_id": input_id}).one_or_none()
    if sealed is None:
        raise NotFound(f"there is no input {input_id}")
    if sealed.status != "sealed":
        raise Conflict(
            f"input {input_id} is still being uploaded: create the job when its upload has answered"
        )
    if sealed.pruned_at is not None:
        raise Gone(f"the items of input {input_id} have expired: upload it again")
    require_version(session, model, version)
    if kind is JobKind.TRAIN:
        _require_items(session, input_id)
    if output_url is not None:
        _require_unused(session, output_url)
    name = queue_of(model, version, kind)
    connection.execute(
        statements.ADD_JOB,
        {
            "id": job_id,
            "kind": kind,
            "options": options,
            "model": model,
            "version": version,
            "input_id": input_id,
            "priority": priority,
            "run_at": run_at,
            "n_items": sealed.n_items,
            "owner": owner,
            "max_errors": max_errors,
            "expires_at": expires_at,
            "idempotency_key": idempotency_key,
            "request_sha256": request_sha256,
            "output_url": output_url,
        },
    )
    is_training = kind is JobKind.TRAIN
    seconds_later = patience_seconds(priority, _backlog(session, name, owner))
    connection.execute(
        statements.ADD_CHUNKS,
        {
            "the_job_id": job_id,
            "input_id": input_id,
            "last_seq": 0 if is_training else MAX_ITEMS,
            "n_items_of_all": sealed.n_items if is_training else None,
            "the_queue": name,
            "the_owner": owner,
            "window": window,
            "run_at": run_at,
            "in_turn_at": run_at and run_at + timedelta(seconds=seconds_later),
            "seconds_later": seconds_later,
        },
    )
    purpose = "to train" if is_training else "for"
    tell(session, [job_id], "created", detail=f"{sealed.n_items} items {purpose} {model} {version}")
    wake(session, name)


def require_version(session: Session, model: str, version: str) -> None:
    """`Gone` for a trained version that was removed: nobody could run its jobs. Any other stays until the commit."""
    if not TRAINED.fullmatch(version):
        return
    removed_at = session.scalar(
        select(ModelVersion.removed_at)
        .where(ModelVersion.model == model, ModelVersion.version == version)
        .with_for_update(read=True)
    )
    if removed_at is not None:
        raise Gone(f"version {version} of {model} was removed")


def wake(session: Session, name: str) -> None:
    """Has runners look at a queue once this is committed; on SQLite they see the commit itself."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_notify(WAKE_CHANNEL, name)))


def find(
    session: Session, *, request_sha256: str, owner: str, key: str | None = None, job_id: str | None = None
) -> str | None:
    """The id of the job that an earlier request made with this idempotency key, or under this id; None if none did.

    Concurrent requests with one key wait here for each other, so that one of them makes the job. `Invalid` if the
    earlier request was another one.
    """
    take_turns(session, f"{owner} {key or job_id}")
    same = Job.id == job_id if key is None else (Job.owner == owner) & (Job.idempotency_key == key)
    made = session.execute(select(Job.id, Job.owner, Job.request_sha256).where(same)).one_or_none()
    if made is None:
        return None
    if made.owner != owner or made.request_sha256 != request_sha256:
        given = f"Idempotency-Key {key!r}" if key is not None else f"job id {job_id}"
        raise Invalid(f"{given} was used before, for another request: use a new one for a new job")
    return str(made.id)


def cancel(session: Session, job_id: str) -> None:
    """Stops a job: what waits is canceled now, what runs finishes, and outputs so far are kept.

    Asking twice is the same as asking once. `Conflict` if the job had already ended.
    """
    job = _lock_job(session, job_id)
    if job.status in TERMINAL_JOB_STATES:
        raise Conflict(f"job {job_id} has already ended: it is {job.status}")
    if job.status != JobState.CANCELING:
        tell(session, [job_id], "cancel_requested")
        _cancel_waiting(session, job_id)


def abandon(session: Session, job_id: str, reason: str) -> None:
    """Gives a hopeless job up: like `cancel`, but it ends as failed, and `reason` says why. No-op once it ended."""
    job = _lock_job(session, job_id)
    if job.status not in TERMINAL_JOB_STATES and job.error is None:
        session.execute(
            update(Job).where(Job.id == job_id).values(error=reason), execution_options=UNSYNCHRONIZED
        )
        give_up(session, job_id, reason)


def give_up(session: Session, job_id: str, reason: str) -> None:
    """Stops a locked job whose `error` is `reason`."""
    tell(session, [job_id], "abandoned", detail=reason)
    _cancel_waiting(session, job_id)


def expire(session: Session, limit: int) -> int:
    """Stops jobs whose time is over before they have ended: what waits is canceled. Returns how many."""
    overdue = session.scalars(
        select(Job.id)
        .where(Job.expires_at < utc_now(), Job.finished_at.is_(None), Job.status != JobState.CANCELING)
        .order_by(Job.id)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    ).all()
    for job_id in overdue:
        tell(session, [job_id], "expired")
        _cancel_waiting(session, job_id)
    return len(overdue)


def cancel_leftovers(session: Session, job_ids: Collection[str]) -> None:
    """Cancels chunks that came back to jobs which are being canceled: nothing should run them again."""
    if not job_ids:
        return
    canceling = session.scalars(
        select(Job.id)
        .where(Job.id.in_(job_ids), Job.status == JobState.CANCELING)
        .order_by(Job.id)
        .with_for_update(key_share=True)
    ).all()
    for job_id in canceling:
        _cancel_waiting(session, job_id)


def remove(session: Session, job_id: str) -> None:
    """Deletes a job that has ended, with its outputs, errors and events; `Conflict` while it may still run."""
    job = _lock_job(session, job_id)
    if job.status not in TERMINAL_JOB_STATES:
        raise Conflict(f"job {job_id} is {job.status}: cancel it, and delete it when it has ended")
    session.execute(delete(Job).where(Job.id == job_id), execution_options=UNSYNCHRONIZED)


def _require_items(session: Session, input_id: str) -> None:
    """`Conflict` if items of an input are in an object store: a training is given all of them, from the database.

    Its chunks are asked, since what a schedule has gathered may have both and no address of its own.
    """
    url = session.scalar(
        select(InputChunk.url).where(InputChunk.input_id == input_id, InputChunk.url.is_not(None)).limit(1)
    )
    if url is not None:
        raise Conflict(f"items of input {input_id} are in {url}: to train on them, upload them")


def _require_unused(session: Session, output_url: str) -> None:
    """`Conflict` if a job writes to this folder already: their manifests would have one name."""
    take_turns(session, output_url)
    other = session.scalar(select(Job.id).where(Job.output_url == output_url))
    if other is not None:
        raise Conflict(f"job {other} has its outputs in {output_url}: give each job a folder of its own")


def _backlog(session: Session, name: str, owner: str) -> int:
    """How many chunks an owner has waiting in a queue; 0 for nobody, whose jobs are all alike."""
    if not owner:
        return 0
    waiting = select(func.count()).where(
        Chunk.queue == name, Chunk.owner == owner, Chunk.status == ChunkState.QUEUED
    )
    return session.scalars(waiting).one()


def _lock_job(session: Session, job_id: str) -> Row[str, str | None]:
    job = session.execute(
        select(Job.status, Job.error).where(Job.id == job_id).with_for_update(key_share=True)
    ).one_or_none()
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    return job


def _cancel_waiting(session: Session, job_id: str) -> None:
    """Cancels a locked job's chunks that no runner has; the job ends with them, or when its running ones end."""
    waiting = (
        select(Chunk.id)
        .where(Chunk.job_id == job_id, Chunk.status.in_(WAITING))
        .with_for_update(skip_locked=True)
    )
    n_canceled = session.scalars(
        update(Chunk)
        .where(Chunk.id.in_(waiting))
        .values(status=ChunkState.CANCELED, finished_at=utc_now())
        .returning(Chunk.n_items),
        execution_options=UNSYNCHRONIZED,
    )
    status = session.scalars(
        update(Job)
        .where(Job.id == job_id)
        .values(
            **counted(literal(0), literal(0), literal(sum(n_canceled)), otherwise=JobState.CANCELING.value)
        )
        .returning(Job.status),
        execution_options=UNSYNCHRONIZED,
    ).one()
    tell_finished(session, [(job_id, status)])
