"""What there is to read about inputs and jobs. Nothing here writes; each function takes a reading session."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from heapq import merge
from operator import itemgetter
from typing import Any, TypeVar, cast

import orjson
from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.orm import Session

from app.columns import utc_now
from app.config import MAX_ITEMS
from app.data.chunks import MISSING, answers, part, unpack
from app.db import Database
from app.errors import Conflict, Gone, NotFound
from app.jobs import presence
from app.jobs.ledger import PROGRESS
from app.tables import (
    Chunk,
    ChunkState,
    Input,
    InputChunk,
    ItemError,
    Job,
    JobEvent,
    JobKind,
    Output,
    Schedule,
)

ListedRow = TypeVar("ListedRow", Input, Job, Schedule)

CHUNKS_PER_READ = 4
"""Chunks that a download holds in memory at once, about a megabyte each."""
ERRORS_PER_READ = 1000
# The output that holds a place begins at or before it: found by the index, so that no payload before it is read.
_NEXT_OUTPUTS = (
    select(
        Output.first_item,
        Output.n_items,
        Output.n_errored,
        Output.items.label("answers"),
        Output.is_whole,
        InputChunk.items.label("stored"),
        InputChunk.first_item.label("stored_first"),
        InputChunk.n_items.label("n_stored"),
    )
    .join(Chunk, Chunk.id == Output.chunk_id)
    .join(Job, Job.id == Output.job_id)
    .outerjoin(
        InputChunk,
        (InputChunk.input_id == Job.input_id) & (InputChunk.seq == Chunk.seq) & Output.is_whole.is_(False),
    )
    .where(
        Output.job_id == bindparam("job_id"),
        Output.first_item
        >= func.coalesce(
            select(func.max(Output.first_item))
            .where(Output.job_id == bindparam("job_id"), Output.first_item <= bindparam("n_read"))
            .scalar_subquery(),
            0,
        ),
        Output.first_item + Output.n_items > bindparam("n_read"),
        Output.first_item < bindparam("stop"),
    )
    .order_by(Output.first_item)
    .limit(CHUNKS_PER_READ)
)


def get_input(session: Session, input_id: str) -> Input:
    """The input; `NotFound` if there is none, or if it is still being uploaded."""
    row = session.get(Input, input_id)
    if row is None or row.status != "sealed":
        raise NotFound(f"there is no input {input_id}")
    return row


def get_job(session: Session, job_id: str) -> Job:
    """The job; `NotFound` if there is none."""
    row = session.get(Job, job_id)
    if row is None:
        raise NotFound(f"there is no job {job_id}")
    return row


def list_inputs(
    session: Session, *, limit: int, before: str | None = None, collection: str | None = None
) -> Sequence[Input]:
    """Sealed inputs, newest first; only those older than `before` and those of a collection, if given."""
    wanted = select(Input).where(Input.status == "sealed")
    if collection is not None:
        wanted = wanted.where(Input.collection == collection)
    return page(session, wanted, Input, limit, before)


def list_jobs(
    session: Session,
    *,
    limit: int,
    before: str | None = None,
    status: str | None = None,
    model: str | None = None,
    input_id: str | None = None,
) -> Sequence[Job]:
    """Jobs, newest first; only those of a status, a model or an input, if given."""
    wanted = select(Job)
    for column, value in ((Job.status, status), (Job.model, model), (Job.input_id, input_id)):
        if value is not None:
            wanted = wanted.where(column == value)
    return page(session, wanted, Job, limit, before)


def latest_job_of_input(session: Session, input_id: str) -> Job | None:
    """The newest job over an input."""
    return session.scalar(select(Job).where(Job.input_id == input_id).order_by(Job.id.desc()).limit(1))


def story(session: Session, job_id: str) -> list[dict[str, Any]]:
    """The story of a job, from its beginning: each event with `runner`, host:pid of the one that did it."""
    told = session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.id)).all()
    names = presence.names(session, (event.runner_id for event in told if event.runner_id is not None))
    return [
        {
            "at": event.at,
            "event": event.event,
            "first_item": event.first_item,
            "runner_id": event.runner_id,
            "runner": names.get(event.runner_id or ""),
            "detail": event.detail,
        }
        for event in told
    ]


def training_progress(session: Session, job_ids: Sequence[str]) -> dict[str, float]:
    """How far the trainings among these jobs said last that they are; nothing of those that have not said."""
    last = (
        select(func.max(JobEvent.id))
        .where(JobEvent.job_id.in_(job_ids), JobEvent.event == PROGRESS)
        .group_by(JobEvent.job_id)
    )
    told = session.execute(select(JobEvent.job_id, JobEvent.detail).where(JobEvent.id.in_(last)))
    return {job_id: float(detail or 0) for job_id, detail in told}


def require_kept(job: Job) -> None:
    """`Gone` if the outputs and errors of a job were pruned."""
    if job.pruned_at is not None:
        raise Gone(f"the outputs and errors of job {job.id} have expired; what it counted is kept")


def require_predictions(job: Job) -> None:
    """`Conflict` if the job is a training, which has neither outputs nor item errors."""
    if job.kind == JobKind.TRAIN:
        raise Conflict(
            f"job {job.id} is a training, which makes no predictions: the job itself names the version that it made "
            "(trained), or why there is none (error)"
        )


def require_in_database(job: Job) -> None:
    """`Conflict` if the outputs of a job are objects in a store, which are read there."""
    if job.output_url is not None:
        raise Conflict(
            f"the outputs of job {job.id} are in {job.output_url}: when it has ended, manifest.json there lists them"
        )


def database_time(session: Session) -> datetime:
    """The database's clock, which all times of jobs are by."""
    return session.scalars(select(utc_now())).one()


def output_columns(session: Session, job_id: str) -> list[str]:
    """The fields that occur in a job's outputs, in the order of their first appearance."""
    rows = session.scalars(select(Output.columns).where(Output.job_id == job_id).order_by(Output.first_item))
    return list(dict.fromkeys(column for columns in rows for column in columns))


def iterate_outputs(
    database: Database, job_id: str, items: range | None = None
) -> Iterator[tuple[bytes, int]]:
    """A job's answers in input order, items with their predictions, as (payload, places that hold null); only those
    of `items`, if given.

    None of them may be in an object (`require_in_database`).
    Read a few chunks at a time, each time in a transaction of its own: a client that downloads slowly must
    keep neither a snapshot nor a connection from others. Predictions never change, so the pieces fit together;
    a retry may cut an output in two, which is why the next one is that which begins where the last one ended.
    `Gone` if the job is pruned or deleted meanwhile: a body that ends early must not look whole.
    """
    items = range(MAX_ITEMS) if items is None else items
    n_read = items.start
    while n_read < items.stop:
        with database.reading() as session:
            rows = session.execute(
                _NEXT_OUTPUTS, {"job_id": job_id, "n_read": n_read, "stop": items.stop}
            ).all()
            _require_still_kept(session, job_id)
        if not rows:
            return
        for row in rows:
            payload, n_missing = _whole(row), row.n_errored
            start, stop = max(n_read - row.first_item, 0), min(items.stop - row.first_item, row.n_items)
            if stop - start < row.n_items:
                payload = part(payload, start, stop - start)
                n_missing = n_missing and unpack(payload).count(MISSING)
            yield payload, n_missing
            n_read = row.first_item + stop


def iterate_errors(database: Database, job_id: str) -> Iterator[tuple[int, str, str]]:
    """Every item of a job that has no prediction for a fault, as (index, code, message), by ascending index.

    Items of a chunk that could not run at all have no rows of their own: the chunk tells for all of them.
    `Gone` as in `iterate_outputs`.
    """
    return merge(
        _iterate_item_errors(database, job_id), _errors_of_chunks(database, job_id), key=itemgetter(0)
    )


def error_lines(database: Database, job_id: str) -> Iterator[bytes]:
    """The same as NDJSON, a line for each."""
    for index, code, message in iterate_errors(database, job_id):
        yield orjson.dumps({"index": index, "code": code, "message": message}) + b"\n"


def _whole(row: Any) -> bytes:
    """The answers of an output, each with its item."""
    if row.is_whole or row.n_errored == row.n_items:
        return cast(bytes, row.answers)
    items = row.stored
    if items is None:
        raise Gone(
            f"the items of outputs from {row.first_item} on are gone: a runner of an older version deleted them"
        )
    if row.n_items < row.n_stored:
        items = part(items, row.first_item - row.stored_first, row.n_items)
    return answers(items, row.answers, row.n_errored)


def _errors_of_chunks(database: Database, job_id: str) -> Iterator[tuple[int, str, str]]:
    with database.reading() as session:
        failed = session.execute(
            select(Chunk.first_item, Chunk.n_items, Chunk.error)
            .where(Chunk.job_id == job_id, Chunk.status == ChunkState.FAILED)
            .order_by(Chunk.first_item)
        ).all()
    for chunk in failed:
        for index in range(chunk.first_item, chunk.first_item + chunk.n_items):
            yield index, "chunk_failed", chunk.error


def _iterate_item_errors(database: Database, job_id: str) -> Iterator[tuple[int, str, str]]:
    last = -1
    while True:
        with database.reading() as session:
            rows = session.execute(
                select(ItemError.item_index, ItemError.code, ItemError.message)
                .where(ItemError.job_id == job_id, ItemError.item_index > last)
                .order_by(ItemError.item_index)
                .limit(ERRORS_PER_READ)
            ).all()
            _require_still_kept(session, job_id)
        if not rows:
            return
        yield from ((row.item_index, row.code, row.message) for row in rows)
        last = rows[-1].item_index


def _require_still_kept(session: Session, job_id: str) -> None:
    """`Gone` if a job was pruned or deleted. Asked after its rows were read: what was there then was all there."""
    if session.scalar(select(Job.id).where(Job.id == job_id, Job.pruned_at.is_(None))) is None:
        raise Gone(f"job {job_id} was pruned or deleted while this was read")


def page(
    session: Session, wanted: Select[ListedRow], row: type[ListedRow], limit: int, before: str | None
) -> Sequence[ListedRow]:
    """Ids sort by age, so the newest come first by the primary key, and a page costs the same however deep it is."""
    if before is not None:
        wanted = wanted.where(row.id < before)
    return session.scalars(wanted.order_by(row.id.desc()).limit(limit)).all()
