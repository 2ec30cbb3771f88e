"""Retention: payloads whose time is over go, a few rows at a time. Jobs, inputs and events stay, as history.

First a job or input is marked as pruned, so that nobody reads half of it; its rows then follow in transactions
so short that no claim waits for them, and what a crash leaves undone stands in `leftovers`.
Each verb takes a session of a writing transaction and leaves the commit to its caller.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, exists, insert, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.columns import utc_now
from app.config import DAY_SECONDS
from app.db import UNSYNCHRONIZED
from app.jobs.ledger import tell
from app.tables import Input, InputChunk, ItemError, Job, JobKind, Leftover, Output

UPLOAD_SECONDS = DAY_SECONDS
"""An upload that has not been sealed after a day is taken for abandoned."""
MANIFEST_SECONDS = DAY_SECONDS
"""How long an ended job is kept, though its time is over, for its manifest to be written."""
PAYLOADS_AT_ONCE = 20
"""Payloads per transaction, each about a megabyte: SQLite frees them in some 30 ms, while every writer waits."""
ERRORS_AT_ONCE = 1000


def prune_jobs(session: Session, *, retention_days: float | None, limit: int) -> int:
    """Marks jobs that have ended and whose time is over; returns how many. Their outputs and errors are left over.

    One that writes to an object store is kept until its manifest is written, but no longer than `MANIFEST_SECONDS`: its
    folder may be one that nobody can write to.
    """
    awaits_manifest = and_(
        Job.output_url.is_not(None),
        Job.manifest_at.is_(None),
        Job.finished_at > utc_now(-MANIFEST_SECONDS),
    )
    over = session.scalars(
        select(Job.id)
        .where(
            Job.pruned_at.is_(None),
            Job.finished_at.is_not(None),
            _is_over(Job.expires_at, Job.finished_at, retention_days),
            ~awaits_manifest,
        )
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    ).all()
    if over:
        session.execute(
            update(Job).where(Job.id.in_(over)).values(pruned_at=utc_now()), execution_options=UNSYNCHRONIZED
        )
        tell(session, over, "pruned")
        _leave_over(session, over)
    return len(over)


def prune_inputs(session: Session, *, retention_days: float | None, limit: int) -> int:
    """Marks sealed inputs whose time is over and that no unfinished job needs; returns how many."""
    is_unused = ~exists().where(Job.input_id == Input.id, Job.finished_at.is_(None))
    over = session.scalars(
        select(Input.id)
        .where(
            Input.pruned_at.is_(None),
            Input.sealed_at.is_not(None),
            _is_over(Input.expires_at, Input.sealed_at, retention_days),
            is_unused,
        )
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if not over:
        return 0
    # Asked again now that they are locked: a job that was made meanwhile was not in the first statement's snapshot.
    pruned = session.scalars(
        update(Input).where(Input.id.in_(over), is_unused).values(pruned_at=utc_now()).returning(Input.id),
        execution_options=UNSYNCHRONIZED,
    ).all()
    _leave_over(session, pruned)
    return len(pruned)


def drop_abandoned_uploads(session: Session, *, limit: int) -> int:
    """Marks inputs that began to be received a day ago and never became whole; returns how many."""
    abandoned = session.scalars(
        select(Input.id)
        .where(
            Input.pruned_at.is_(None),
            Input.sealed_at.is_(None),
            Input.created_at < utc_now(-UPLOAD_SECONDS),
        )
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if abandoned:
        session.execute(
            update(Input).where(Input.id.in_(abandoned)).values(pruned_at=utc_now()),
            execution_options=UNSYNCHRONIZED,
        )
        _leave_over(session, abandoned)
    return len(abandoned)


def clear(session: Session) -> bool:
    """Deletes a few rows of one pruned job or input; whether there was anything to do.

    The items of an input stay for as long as outputs of its jobs are kept, which are read beside them. An id may be
    that of a job and of an input, or be given to a new job after the old one: rows go of what is pruned alone.
    """
    is_read = exists().where(
        Job.input_id == Leftover.id,
        Job.pruned_at.is_(None),
        Job.output_url.is_(None),
        Job.kind == JobKind.PREDICT,
        Job.n_succeeded > 0,
    )
    pruned_id = session.scalar(
        select(Leftover.id).where(~is_read).order_by(Leftover.id).limit(1).with_for_update(skip_locked=True)
    )
    if pruned_id is None:
        return False
    job_is_pruned = exists().where(Job.id == pruned_id, Job.pruned_at.is_not(None))
    input_is_pruned = exists().where(Input.id == pruned_id, Input.pruned_at.is_not(None))
    outputs = select(Output.chunk_id).where(Output.job_id == pruned_id, job_is_pruned).limit(PAYLOADS_AT_ONCE)
    errors = (
        select(ItemError.item_index).where(ItemError.job_id == pruned_id, job_is_pruned).limit(ERRORS_AT_ONCE)
    )
    items = (
        select(InputChunk.seq)
        .where(InputChunk.input_id == pruned_id, input_is_pruned)
        .limit(PAYLOADS_AT_ONCE)
    )
    deletions = (
        delete(Output).where(Output.chunk_id.in_(outputs)).returning(Output.chunk_id),
        delete(ItemError)
        .where(ItemError.job_id == pruned_id, ItemError.item_index.in_(errors))
        .returning(ItemError.item_index),
        delete(InputChunk)
        .where(InputChunk.input_id == pruned_id, InputChunk.seq.in_(items))
        .returning(InputChunk.seq),
    )
    n_rows = [len(session.scalars(each, execution_options=UNSYNCHRONIZED).all()) for each in deletions]
    if not any(n_rows):
        session.execute(delete(Leftover).where(Leftover.id == pruned_id), execution_options=UNSYNCHRONIZED)
        session.execute(  # an abandoned upload leaves no history
            delete(Input).where(
                Input.id == pruned_id, Input.status == "receiving", Input.pruned_at.is_not(None)
            ),
            execution_options=UNSYNCHRONIZED,
        )
    return True


def _is_over(
    expires_at: InstrumentedAttribute[datetime | None],
    since: InstrumentedAttribute[datetime | None],
    retention_days: float | None,
) -> ColumnElement[bool]:
    """Whether its own time is over, or that which everything has, counted from `since`."""
    if retention_days is None:
        return expires_at < utc_now()
    return or_(expires_at < utc_now(), since < utc_now(-retention_days * DAY_SECONDS))


def _leave_over(session: Session, ids: Sequence[str]) -> None:
    present = set(session.scalars(select(Leftover.id).where(Leftover.id.in_(ids)))) if ids else set()
    if new := [{"id": each} for each in ids if each not in present]:
        session.execute(insert(Leftover), new)
