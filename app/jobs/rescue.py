"""Runs that broke off: rescued from runners that are gone, tried again, halved, or given up.

Each verb takes a session of a writing transaction and leaves the commit to its caller.
"""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import insert, literal, select, update
from sqlalchemy.orm import Session

from app.columns import utc_now
from app.db import UNSYNCHRONIZED
from app.jobs import presence
from app.jobs.claims import Broken, Claim, Done, Failed, ItemFailure
from app.jobs.control import cancel_leftovers
from app.jobs.ledger import tell
from app.jobs.queue import finish, put_back
from app.jobs.retry import GiveUp, Retry, Split, crashes_behind, decide
from app.tables import Chunk, ChunkState, Job, JobKind

RESCUED_AT_ONCE = 100


def rescue(session: Session, *, runner_id: str, max_attempts: int, lease_seconds: float) -> int:
    """Takes chunks from runners that let their leases run out, dead or stalled, and counts that as an attempt.

    Any runner may do this for any other; a chunk is taken once, by one guarded statement. Returns how many.
    """
    # As a plain subquery, Postgres may run it again for each row, and take more than its LIMIT.
    expired = (
        select(Chunk.id)
        .where(Chunk.status == ChunkState.RUNNING, Chunk.lease_until < utc_now())
        .order_by(Chunk.lease_until)
        .limit(RESCUED_AT_ONCE)
        .with_for_update(skip_locked=True)
        .cte("expired")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    taken = session.execute(
        update(Chunk)
        .where(
            Chunk.id.in_(select(expired.c.id)),
            Chunk.status == ChunkState.RUNNING,
            Chunk.lease_until < utc_now(),
        )
        .values(epoch=Chunk.epoch + 1, lease_until=utc_now(lease_seconds))
        .returning(
            Chunk.id,
            Chunk.epoch,
            Chunk.job_id,
            Chunk.queue,
            Chunk.first_item,
            Chunk.n_items,
            Chunk.attempts,
            Chunk.crashes,
            Chunk.runner_id,
        ),
        execution_options=UNSYNCHRONIZED,
    ).all()
    if not taken:
        return 0
    names = presence.names(session, (row.runner_id for row in taken))
    of_jobs = select(Job.id, Job.kind).where(Job.id.in_({row.job_id for row in taken}))
    kinds = {row.id: JobKind(row.kind) for row in session.execute(of_jobs)}
    broken = []
    for *claimed, loser_id in sorted(taken):
        claim, loser = Claim(*claimed), names.get(loser_id, loser_id)
        claim = replace(claim, kind=kinds[claim.job_id])
        detail = f"from {loser}, whose lease ran out"
        tell(session, [claim.job_id], "rescued", claim.first_item, runner_id, detail)
        broken.append(Broken(claim, "runner_crashed", f"runner {loser} died or stalled while it ran this"))
    break_off(session, broken, runner_id=runner_id, max_attempts=max_attempts)
    return len(taken)


def break_off(session: Session, broken: Sequence[Broken], *, runner_id: str, max_attempts: int) -> None:
    """Ends runs that gave no answer: each is tried again later, or halved, or given up (`app.jobs.retry`).

    What is no longer held is left alone.
    """
    for each in broken:
        claim = each.claim
        step = decide(each.n_failures, claim.n_items, max_attempts, blames_an_item=each.blames_an_item)
        match step:
            case Retry(delay_seconds):
                crashes = Chunk.crashes + int(each.is_crash)
                if put_back(session, claim, ready_at=utc_now(delay_seconds), crashes=crashes):
                    detail = f"failure {each.n_failures} of {max_attempts}: {each.reason}"
                    tell(session, [claim.job_id], "retried", claim.first_item, runner_id, detail)
            case Split():
                if _split(session, claim, max_attempts):
                    tell(session, [claim.job_id], "split", claim.first_item, runner_id, each.reason)
            case GiveUp() if each.blames_an_item:
                failure = ItemFailure(0, each.code, each.reason)
                finish(session, [Done(claim, b"[null]", [], [failure], is_whole=True)])
            case GiveUp():
                finish(session, [Failed(claim, each.reason)])
    cancel_leftovers(session, {each.claim.job_id for each in broken})


def _split(session: Session, claim: Claim, max_attempts: int) -> bool:
    """Makes two queued chunks of a held one, with few runs left to each; whether it was still held."""
    half = claim.n_items // 2
    behind = crashes_behind(half, max_attempts)
    if not put_back(session, claim, n_items=half, attempts=behind, crashes=behind):
        return False
    copied = (
        Chunk.job_id,
        Chunk.seq,
        Chunk.queue,
        Chunk.owner,
        Chunk.ready_at,
        Chunk.sched_key,
        Chunk.status,
    )
    rest = claim.n_items - half
    behind = crashes_behind(rest, max_attempts)
    second = select(*copied, Chunk.first_item + half, literal(rest), literal(behind), literal(behind)).where(
        Chunk.id == claim.chunk_id
    )
    names = [column.key for column in copied] + ["first_item", "n_items", "attempts", "crashes"]
    session.execute(insert(Chunk).from_select(names, second))
    return True
