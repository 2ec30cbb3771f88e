"""Again: a job that has ended is reopened for what failed in it, and for nothing else."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import cast

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from app.data.chunks import MISSING, part, unpack
from app.db import UNSYNCHRONIZED
from app.errors import Conflict, Gone, NotFound
from app.jobs.control import require_version, wake
from app.jobs.ledger import queue_pending, tell
from app.jobs.states import queue_of
from app.tables import (
    TERMINAL_JOB_STATES,
    Chunk,
    ChunkState,
    Input,
    ItemError,
    Job,
    JobKind,
    JobState,
    Output,
)

REOPENED = (ChunkState.FAILED, ChunkState.CANCELED)


def retry(session: Session, job_id: str, *, window: int) -> None:
    """Queues the items of an ended job that have no prediction: failed, canceled, and refused ones.

    The only way out of a terminal state, and only at a client's word. Outputs stay; a chunk of which only some
    items failed is cut into runs of items, so that the others are not predicted again. An object in a store is not
    cut: its chunk runs again as a whole, and the new object takes its place in the manifest. `Conflict` if the job has
    not ended or has nothing to run again, `Gone` if its outputs or its input's items were pruned, or its version was
    removed.
    """
    job = session.execute(
        select(
            Job.status,
            Job.kind,
            Job.model,
            Job.version,
            Job.priority,
            Job.pruned_at,
            Job.n_items,
            Job.n_succeeded,
            Job.input_id,
            Job.output_url,
        )
        .where(Job.id == job_id)
        .with_for_update(key_share=True)
    ).one_or_none()
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    if job.status not in TERMINAL_JOB_STATES:
        raise Conflict(f"job {job_id} is {job.status}: retry it when it has ended")
    if job.pruned_at is not None:
        raise Gone(f"the outputs of job {job_id} have expired: make a new job")
    # Locked as `enqueue` locks it: the items must not be pruned while the job is reopened.
    if session.scalars(
        select(Input.pruned_at).where(Input.id == job.input_id).with_for_update(read=True)
    ).one():
        raise Gone(f"the items of input {job.input_id} have expired: upload them again and make a new job")
    require_version(session, job.model, job.version)
    if job.n_succeeded == job.n_items:
        raise Conflict(f"job {job_id} has a prediction for every item: there is nothing to retry")
    n_again, n_cached_again = (0, 0) if job.output_url is None else _reopen_objects(session, job_id)
    session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(
            n_succeeded=Job.n_succeeded - n_again,
            n_cached=Job.n_cached - n_cached_again,
            manifest_at=None,
            status=JobState.QUEUED,
            finished_at=None,
            started_at=None,
            n_errored=0,
            n_canceled=0,
            error=None,
            expires_at=None,
        ),
        execution_options=UNSYNCHRONIZED,
    )
    session.execute(delete(ItemError).where(ItemError.job_id == job_id), execution_options=UNSYNCHRONIZED)
    session.execute(
        update(Chunk)
        .where(Chunk.job_id == job_id, Chunk.status.in_(REOPENED))
        .values(status=ChunkState.PENDING, finished_at=None, error=None, n_errored=0, attempts=0, crashes=0),
        execution_options=UNSYNCHRONIZED,
    )
    for chunk_id in _with_errors(session, job_id):
        _cut(session, chunk_id)
    queue_pending(session, [(job_id, job.priority, window)])
    tell(
        session,
        [job_id],
        "reopened",
        detail=f"for {job.n_items - job.n_succeeded} items without a prediction"
        + (f", and {n_again} in objects with them" if n_again else ""),
    )
    wake(session, queue_of(job.model, job.version, JobKind(job.kind)))


def _reopen_objects(session: Session, job_id: str) -> tuple[int, int]:
    """Makes chunks pending again that are done, in objects, and not without errors.

    Returns how many predictions they had, and how many of those were from the cache.
    """
    has_errors = (Output.job_id == job_id) & Output.object.is_not(None) & (Output.n_errored > 0)
    counts = session.execute(
        select(func.coalesce(func.sum(Chunk.n_succeeded), 0), func.coalesce(func.sum(Chunk.n_cached), 0))
        .join(Output, Output.chunk_id == Chunk.id)
        .where(has_errors)
    ).one()
    session.execute(
        update(Chunk)
        .where(Chunk.id.in_(select(Output.chunk_id).where(has_errors)))
        .values(
            status=ChunkState.PENDING,
            finished_at=None,
            n_succeeded=0,
            n_errored=0,
            n_cached=0,
            attempts=0,
            crashes=0,
        ),
        execution_options=UNSYNCHRONIZED,
    )
    session.execute(delete(Output).where(has_errors), execution_options=UNSYNCHRONIZED)
    n_succeeded, n_cached = counts
    return n_succeeded, n_cached


def _with_errors(session: Session, job_id: str) -> Sequence[int]:
    return session.scalars(
        select(Chunk.id).where(Chunk.job_id == job_id, Chunk.status == ChunkState.DONE, Chunk.n_errored > 0)
    ).all()


def _cut(session: Session, chunk_id: int) -> None:
    """Cuts a chunk that is done into runs of items with a prediction, done, and runs of items without, pending."""
    chunk = session.get_one(Chunk, chunk_id)
    output = session.get_one(Output, chunk_id)
    kept = {
        column.key: getattr(chunk, column.key)
        for column in (Chunk.job_id, Chunk.seq, Chunk.queue, Chunk.owner, Chunk.ready_at, Chunk.sched_key)
    }
    history = {"runner_id": chunk.runner_id, "started_at": chunk.started_at, "finished_at": chunk.finished_at}
    items, columns, is_whole = cast(bytes, output.items), output.columns, output.is_whole
    first_item, n_cached = chunk.first_item, chunk.n_cached
    session.expunge_all()
    session.execute(delete(Chunk).where(Chunk.id == chunk_id), execution_options=UNSYNCHRONIZED)
    for has_prediction, run in _runs(items):
        place = {"first_item": first_item + run.start, "n_items": len(run)}
        if not has_prediction:
            session.execute(insert(Chunk).values(**kept, **place, status=ChunkState.PENDING))
            continue
        n_cached_here = min(n_cached, len(run))  # nothing tells which they were: the sum is what counts
        n_cached -= n_cached_here
        counts = {"n_succeeded": len(run), "n_cached": n_cached_here}
        new_id = session.scalars(
            insert(Chunk)
            .values(**kept, **place, **history, **counts, status=ChunkState.DONE)
            .returning(Chunk.id)
        ).one()
        session.execute(
            insert(Output).values(
                chunk_id=new_id,
                job_id=kept["job_id"],
                n_errored=0,
                columns=columns,
                is_whole=is_whole,
                items=part(items, run.start, len(run)),
                **place,
            )
        )


def _runs(items: bytes) -> Iterator[tuple[bool, range]]:
    """Runs of places that hold a prediction or do not, in order."""
    places = enumerate(unpack(items))
    for has_prediction, run in groupby(places, key=lambda placed: placed[1] != MISSING):
        members = [place for place, _ in run]
        yield has_prediction, range(members[0], members[-1] + 1)
