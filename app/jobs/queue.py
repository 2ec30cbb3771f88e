"""The queue, as runners use it: find what is due, claim, renew, finish, release.

Each verb takes a session of a writing transaction and leaves the commit to its caller. A claimant's write
names `(id, epoch, status = 'running')`, and what it writes beside that row follows only if that matched.

Locks on Postgres are always taken in one order, chunks before jobs and jobs by id; a verb that must take
chunks while it holds a job (cancel) skips those that a claim has locked: they are about to run.
"""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Integer,
    Text,
    column,
    insert,
    literal,
    select,
    union_all,
    update,
    values,
)
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate, Update

from app.columns import utc_now
from app.data.chunks import part
from app.jobs.claims import Claim, Done, Failed
from app.jobs.control import abandon, cancel_leftovers
from app.jobs.ledger import UNSYNCHRONIZED, count, tell
from app.tables import Chunk, ChunkState, InputChunk, ItemError, Job, JobState, Output


def oldest(session: Session, queues: Collection[str]) -> str | None:
    """Which of these queues has the chunk that is due first; None if nothing is due. Reads only, and one row of each.

    A runner asks this before it claims: on SQLite a claim takes the write lock, which nothing should be
    stopped by when there is nothing to do.
    """
    heads = [
        select(literal(queue, Text).label("queue"), Chunk.sched_key)
        .where(Chunk.status == ChunkState.QUEUED, Chunk.queue == queue, Chunk.ready_at <= utc_now())
        .order_by(Chunk.sched_key, Chunk.id)
        .limit(1)
        .subquery()
        for queue in queues
    ]
    if not heads:
        return None
    first = union_all(*(select(head) for head in heads)).subquery()
    return session.scalar(select(first.c.queue).order_by(first.c.sched_key).limit(1))


def claim(session: Session, *, queue: str, runner_id: str, limit: int, lease_seconds: float) -> list[Claim]:
    """Takes up to `limit` chunks that are due, oldest `sched_key` first, for `lease_seconds`. Jobs begin with it."""
    due = (
        select(Chunk.id)
        .where(Chunk.status == ChunkState.QUEUED, Chunk.queue == queue, Chunk.ready_at <= utc_now())
        .order_by(Chunk.sched_key, Chunk.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    taken = session.scalars(
        update(Chunk)
        .where(Chunk.id.in_(select(due.c.id)))
        .values(
            status=ChunkState.RUNNING,
            epoch=Chunk.epoch + 1,
            attempts=Chunk.attempts + 1,
            runner_id=runner_id,
            lease_until=utc_now(lease_seconds),
            started_at=utc_now(),
        )
        .returning(Chunk.id),
        execution_options=UNSYNCHRONIZED,
    ).all()
    if not taken:
        return []
    claims = claims_of(session, taken)
    _begin_jobs(session, sorted({claim.job_id for claim in claims}), runner_id)
    return claims


def finish(session: Session, results: Sequence[Done | Failed]) -> set[tuple[int, int]]:
    """Ends chunks: their outputs, item errors, counters, the next chunks of their jobs, and jobs' ends, at once.

    Returns the keys of the claims that are no longer held: of these nothing is written.
    """
    by_key = {result.claim.key: result for result in results}
    rows = session.execute(_end_chunks(results), execution_options=UNSYNCHRONIZED)
    ended = [(row.id, row.epoch) for row in rows]
    done = [result for key in ended if isinstance(result := by_key[key], Done)]
    if done:
        session.execute(insert(Output), [_output_row(result) for result in done])
    if errors := [row for result in done for row in _error_rows(result)]:
        session.execute(insert(ItemError), errors)
    for job_id, reason in count(session, [by_key[key] for key in ended]):
        abandon(session, job_id, reason)
    return by_key.keys() - set(ended)


def release(session: Session, claims: Collection[Claim]) -> None:
    """Gives chunks back unrun, at their old place in the queue; a claim given back is no attempt."""
    for claim in claims:
        put_back(session, claim, attempts=Chunk.attempts - 1, runner_id=None)
    cancel_leftovers(session, {claim.job_id for claim in claims})


def renew(
    session: Session, *, runner_id: str, lease_seconds: float, hung: Collection[int] = ()
) -> set[tuple[int, int]]:
    """Prolongs what a runner holds, in one statement, but for the chunks with the ids `hung`.

    Returns the keys of the claims that are still held: the others are lost, and their results are to be dropped.
    """
    rows = session.execute(
        update(Chunk)
        .where(Chunk.runner_id == runner_id, Chunk.status == ChunkState.RUNNING, Chunk.id.not_in(hung))
        .values(lease_until=utc_now(lease_seconds))
        .returning(Chunk.id, Chunk.epoch),
        execution_options=UNSYNCHRONIZED,
    )
    return {(row.id, row.epoch) for row in rows}


def claims_of(session: Session, chunk_ids: Sequence[int]) -> list[Claim]:
    """The claims of chunks that were just taken, in the order of the queue."""
    rows = session.execute(
        select(
            Chunk.id,
            Chunk.epoch,
            Chunk.job_id,
            Chunk.queue,
            Chunk.first_item,
            Chunk.n_items,
            Chunk.attempts,
            InputChunk.first_item.label("stored_first"),
            InputChunk.n_items.label("n_stored"),
            InputChunk.items,
        )
        .join(Job, Job.id == Chunk.job_id)
        .join(InputChunk, (InputChunk.input_id == Job.input_id) & (InputChunk.seq == Chunk.seq))
        .where(Chunk.id.in_(chunk_ids))
        .order_by(Chunk.sched_key, Chunk.id)
    )
    return [
        Claim(
            row.id,
            row.epoch,
            row.job_id,
            row.queue,
            row.first_item,
            row.n_items,
            row.attempts,
            row.items
            if row.n_items == row.n_stored
            else part(row.items, row.first_item - row.stored_first, row.n_items),
        )
        for row in rows
    ]


def _begin_jobs(session: Session, job_ids: Sequence[str], runner_id: str) -> None:
    """Sets the jobs of a claim running, those that were not yet, and tells so."""
    fresh = session.scalars(
        select(Job.id)
        .where(Job.id.in_(job_ids), Job.status == JobState.QUEUED)
        .order_by(Job.id)
        .with_for_update(key_share=True)
    ).all()
    if fresh:
        session.execute(
            update(Job)
            .where(Job.id.in_(fresh), Job.status == JobState.QUEUED)
            .values(status=JobState.RUNNING, started_at=utc_now()),
            execution_options=UNSYNCHRONIZED,
        )
        tell(session, fresh, "started", runner_id=runner_id)


def put_back(session: Session, claim: Claim, **columns: Any) -> bool:
    """Queues a held chunk again, with a new epoch; whether it was still held."""
    put_back = session.execute(
        _held(claim)
        .values(status=ChunkState.QUEUED, epoch=Chunk.epoch + 1, lease_until=None, **columns)
        .returning(Chunk.id),
        execution_options=UNSYNCHRONIZED,
    )
    return put_back.one_or_none() is not None


def _held(claim: Claim) -> Update:
    """An UPDATE of a claimed chunk, for as long as the claim holds."""
    return update(Chunk).where(
        Chunk.id == claim.chunk_id, Chunk.epoch == claim.epoch, Chunk.status == ChunkState.RUNNING
    )


def _end_chunks(results: Sequence[Done | Failed]) -> ReturningUpdate[int, int]:
    """The guarded statement of `finish`: ends the chunks that are still held, and returns their ids."""
    ending = values(
        column("chunk_id", BigInteger),
        column("held_epoch", Integer),
        column("status", Text),
        column("n_succeeded", Integer),
        column("n_errored", Integer),
        column("reason", Text),
        name="ending",
    )
    ended = ending.data([_ending_row(result) for result in results]).cte("ending")
    return (
        update(Chunk)
        .where(
            Chunk.id == ended.c.chunk_id,
            Chunk.epoch == ended.c.held_epoch,
            Chunk.status == ChunkState.RUNNING,
        )
        .values(
            status=ended.c.status,
            n_succeeded=ended.c.n_succeeded,
            n_errored=ended.c.n_errored,
            error=ended.c.reason,
            lease_until=None,
            finished_at=utc_now(),
        )
        .returning(Chunk.id, Chunk.epoch)
    )


def _ending_row(result: Done | Failed) -> tuple[int, int, str, int, int, str | None]:
    claim = result.claim
    status, reason = (
        (ChunkState.FAILED, result.reason) if isinstance(result, Failed) else (ChunkState.DONE, None)
    )
    return claim.chunk_id, claim.epoch, status, claim.n_items - result.n_errored, result.n_errored, reason


def _output_row(result: Done) -> dict[str, Any]:
    return {
        "chunk_id": result.claim.chunk_id,
        "job_id": result.claim.job_id,
        "first_item": result.claim.first_item,
        "n_items": result.claim.n_items,
        "n_errored": result.n_errored,
        "columns": list(result.columns),
        "items": result.items,
    }


def _error_rows(result: Done) -> list[dict[str, Any]]:
    return [
        {
            "job_id": result.claim.job_id,
            "item_index": result.claim.first_item + failure.place,
            "code": failure.code,
            "message": failure.message,
        }
        for failure in result.failures
    ]
