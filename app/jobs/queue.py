"""The queue, as runners use it: find what is due, claim, renew, finish, release.

Each verb takes a session of a writing transaction and leaves the commit to its caller. A claimant's write
names `(id, epoch, status = 'running')`, and what it writes beside that row follows only if that matched.

Locks on Postgres are always taken in one order, chunks before jobs and jobs by id; a verb that must take
chunks while it holds a job (cancel) skips those that a claim has locked: they are about to run.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import Update

from app.cache.rows import store
from app.data.chunks import part, together
from app.data.extents import Extent
from app.db import UNSYNCHRONIZED
from app.jobs import statements, trained
from app.jobs.claims import Claim, Done, Failed, Source, Trained
from app.jobs.control import cancel_leftovers, give_up
from app.jobs.ledger import PROGRESS, count, queue_pending, tell
from app.jobs.states import version_of
from app.tables import Chunk, ChunkState, JobKind, JobState


@dataclass(frozen=True, slots=True)
class Head:
    """The chunk that is next in a queue, as one sees it without a claim."""

    queue: str
    crashes: int
    n_items: int
    was_rescued: bool


def heads(session: Session, queues: Collection[str]) -> list[Head]:
    """The heads of those of these queues that have one, oldest first. Reads only, and one row of each.

    A runner asks this before it claims: on SQLite a claim takes the write lock, which nothing should be
    stopped by when there is nothing to do.
    """
    if not queues:
        return []
    rows = session.connection().execute(statements.HEADS, {"queues": list(queues)})
    return [Head(row.queue, row.crashes, row.n_items, row.was_rescued) for row in rows]


def n_due(session: Session, queue: str, at_most: int) -> int:
    """How many chunks of a queue are due, counted up to so many. Reads only."""
    values = {"the_queue": queue, "at_most": at_most}
    return session.connection().execute(statements.N_DUE, values).scalar_one()


def claim(session: Session, *, queue: str, runner_id: str, limit: int, lease_seconds: float) -> list[Claim]:
    """Takes up to `limit` chunks that are due, oldest `sched_key` first, for `lease_seconds`."""
    rows = session.connection().execute(
        statements.TAKE_NEXT_CHUNKS,
        {"the_queue": queue, "the_runner_id": runner_id, "limit": limit, "lease_seconds": lease_seconds},
    )
    taken = [row.id for row in sorted(rows, key=attrgetter("sched_key", "id"))]
    return claims_of(session, taken) if taken else []


def begin(session: Session, claims: Collection[Claim], *, runner_id: str) -> None:
    """Begins the jobs whose first chunks these are; once a transaction, after all its claims, for the locks' order."""
    job_ids = sorted({claim.job_id for claim in claims if claim.is_first})
    if not job_ids:
        return
    connection = session.connection()
    if fresh := connection.scalars(statements.LOCK_JOBS_NOT_BEGUN, {"job_ids": job_ids}).all():
        connection.execute(statements.BEGIN_JOBS, {"job_ids": fresh})
        tell(session, fresh, "started", runner_id=runner_id)


def widen(session: Session, job_ids: Collection[str], n_chunks: int) -> bool:
    """Queues so many chunks more of those of these jobs that have any pending; whether there was one.

    It waits for no lock, but takes those of jobs out of their order: after it, its transaction takes no more of chunks
    or jobs. A job that someone else is writing to is left out.
    """
    jobs = session.connection().execute(statements.LOCK_JOBS_WITH_PENDING, {"job_ids": list(job_ids)}).all()
    queue_pending(session, [(job.id, job.priority, -(-n_chunks // len(jobs))) for job in jobs])
    return bool(jobs)


def finish(session: Session, results: Sequence[Done | Trained | Failed]) -> set[tuple[int, int]]:
    """Ends chunks: their outputs, item errors, new versions, counters, the next chunks of their jobs, and jobs' ends.

    Returns the keys of the claims that are no longer held: of these nothing is written.
    """
    connection = session.connection()
    by_key = {result.claim.key: result for result in results}
    held = [by_key[key] for key in hold(session, [result.claim for result in results])]
    done = [result for result in held if isinstance(result, Done)]
    for statement, rows in (
        (statements.END_CHUNKS, _endings(held)),
        (statements.ADD_OUTPUT, [_output_row(result) for result in done]),
        (statements.ADD_ITEM_ERROR, [row for result in done for row in _error_rows(result)]),
    ):
        if rows:
            connection.execute(statement, rows)
    if new_versions := [result for result in held if isinstance(result, Trained)]:
        trained.keep(session, new_versions)
    for job_id, reason in count(session, held):
        give_up(session, job_id, reason)
    return by_key.keys() - {result.claim.key for result in held}


def remember(session: Session, results: Iterable[Done | Trained | Failed]) -> None:
    """Gives the cache what these chunks predicted anew; last in their transaction, as `store` asks for."""
    news: dict[tuple[str, str], dict[str, bytes]] = defaultdict(dict)
    for result in results:
        if isinstance(result, Done) and result.new:
            news[version_of(result.claim.queue)] |= result.new
    for version, predictions in sorted(news.items()):
        store(session, *version, predictions)


def tell_progress(session: Session, claim: Claim, share: float, *, runner_id: str) -> None:
    """Adds how far a training is to its job's story, if the claim still holds."""
    if hold(session, [claim]):
        tell(session, [claim.job_id], PROGRESS, runner_id=runner_id, detail=f"{share:.2f}")


def hold(session: Session, claims: Collection[Claim]) -> list[tuple[int, int]]:
    """Locks chunks until the commit; the keys of those that are still held by these claims.

    By ascending ids, as a renewal locks them: whoever writes to several chunks calls this first.
    """
    chunk_ids = [claim.chunk_id for claim in claims]
    rows = session.connection().execute(statements.LOCK_RUNNING_CHUNKS, {"chunk_ids": chunk_ids}).all()
    keys = {claim.key for claim in claims}
    return [key for row in rows if (key := (row.id, row.epoch)) in keys]


def release(session: Session, claims: Collection[Claim]) -> None:
    """Gives chunks back unrun, at their old place in the queue; a claim given back is no attempt."""
    hold(session, claims)
    for claim in claims:
        put_back(session, claim, attempts=Chunk.attempts - 1, runner_id=None)
    cancel_leftovers(session, {claim.job_id for claim in claims})


def being_stopped(session: Session, job_ids: Collection[str]) -> set[str]:
    """Those of these jobs of which nothing more shall run: they are canceled, expired or given up. Reads only."""
    rows = session.connection().execute(statements.JOBS, {"job_ids": list(job_ids)})
    return {row.id for row in rows if row.status == JobState.CANCELING}


def renew(
    session: Session, *, runner_id: str, lease_seconds: float, hung: Collection[int] = ()
) -> set[tuple[int, int]]:
    """Prolongs what a runner holds, in one statement, but for the chunks with the ids `hung`.

    Returns the keys of the claims that are still held: the others are lost, and their results are to be dropped.
    """
    rows = session.connection().execute(
        statements.RENEW,
        {"the_runner_id": runner_id, "hung": list(hung), "lease_seconds": lease_seconds},
    )
    return {(row.id, row.epoch) for row in rows}


def claims_of(session: Session, chunk_ids: Sequence[int]) -> list[Claim]:
    """The claims of chunks that were just taken, in the order of these ids."""
    # Row by row, for fetched all at once the payloads are there twice: as the driver's text and as bytes.
    claims = {
        row.id: Claim(
            row.id,
            row.epoch,
            row.job_id,
            row.queue,
            row.first_item,
            row.n_items,
            row.attempts,
            row.crashes,
            payload=_payload(session, row),
            kind=JobKind(row.kind),
            options=row.options or {},
            source=_source(row),
            output_url=row.output_url,
            is_first=row.job_status == JobState.QUEUED,
            was_rescued=row.was_rescued,
        )
        for row in session.connection().execute(statements.TAKEN_CHUNKS, {"chunk_ids": chunk_ids})
    }
    return [claims[chunk_id] for chunk_id in chunk_ids if chunk_id in claims]


def put_back(session: Session, claim: Claim, **columns: Any) -> bool:
    """Queues a held chunk again, with a new epoch; whether it was still held."""
    put_back = session.execute(
        _held(claim)
        .values(status=ChunkState.QUEUED, epoch=Chunk.epoch + 1, lease_until=None, **columns)
        .returning(Chunk.id),
        execution_options=UNSYNCHRONIZED,
    )
    return put_back.one_or_none() is not None


def _payload(session: Session, row: Any) -> bytes:
    """What a taken chunk is to run on: a stored chunk, a part of one, or, to train, all that is stored of an input.

    Nothing, if the database has not its items.
    """
    if row.payload is None:
        return b""
    payload: bytes = row.payload
    if row.n_items == row.n_stored:
        return payload
    if row.kind == JobKind.TRAIN:
        stored = session.connection().scalars(statements.ITEMS_OF_INPUT, {"the_input_id": row.input_id})
        return together(stored)
    return part(payload, row.first_item - row.stored_first, row.n_items)


def _source(row: Any) -> Source | None:
    """Where the items of a taken chunk are, if that is in an object."""
    if row.payload is not None:
        return None
    extent = Extent(
        row.stored_first, row.n_stored, row.byte_offset, row.n_bytes, row.header_bytes, row.sha256
    )
    return Source(row.url, extent, row.first_item - row.stored_first)


def _held(claim: Claim) -> Update:
    """An UPDATE of a claimed chunk, for as long as the claim holds."""
    return update(Chunk).where(
        Chunk.id == claim.chunk_id, Chunk.epoch == claim.epoch, Chunk.status == ChunkState.RUNNING
    )


def _endings(results: Iterable[Done | Trained | Failed]) -> list[dict[str, Any]]:
    """What becomes of the rows of these chunks; of those that end alike, which is most often all, in one piece."""
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for result in results:
        status, reason = (
            (ChunkState.FAILED, result.reason) if isinstance(result, Failed) else (ChunkState.DONE, None)
        )
        outcome = (result.claim.epoch, status, result.n_errored, result.n_cached, reason)
        alike[outcome].append(result.claim.chunk_id)
    names = ("held_epoch", "the_status", "the_n_errored", "the_n_cached", "the_error")
    return [
        dict(zip(names, outcome, strict=True)) | {"chunk_ids": chunk_ids}
        for outcome, chunk_ids in alike.items()
    ]


def _output_row(result: Done) -> dict[str, Any]:
    written = result.written
    return {
        "chunk_id": result.claim.chunk_id,
        "job_id": result.claim.job_id,
        "first_item": result.claim.first_item,
        "n_items": result.claim.n_items,
        "n_errored": result.n_errored,
        "columns": list(result.columns),
        "items": result.items if written is None else None,
        "is_whole": result.is_whole,
        "object": written and written.name,
        "n_bytes": written and written.n_bytes,
        "sha256": written and written.sha256,
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
