"""The statements that are repeated all day, by runners and by who makes jobs, built once.

Built anew each time, a statement costs SQLAlchemy several times what the database spends on it, and a model in
the same process waits meanwhile. They are of tables rather than mapped classes, which spares the ORM's share, and
run on a session's connection; those that change many rows take a list of parameters, for `executemany`.

A parameter is called `the_…` where SQLAlchemy keeps the column's own name for itself.
"""

import typing

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    exists,
    func,
    insert,
    literal,
    literal_column,
    select,
    update,
)
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine

from app.columns import Id, UtcDateTime, each_of, utc_now
from app.jobs.states import counted
from app.tables import Chunk, ChunkState, Input, InputChunk, ItemError, Job, JobEvent, JobState, Output

_chunks, _jobs, _inputs, _stored, _outputs, _item_errors, _events = (
    typing.cast(Table, row.__table__) for row in (Chunk, Job, Input, InputChunk, Output, ItemError, JobEvent)
)
# Written into the statements, where a planner that has not seen the parameters can match them to partial indexes.
_PENDING, _QUEUED, _RUNNING = (
    literal_column(f"'{state}'", Text)
    for state in (ChunkState.PENDING, ChunkState.QUEUED, ChunkState.RUNNING)
)


def _listed(parameter: str) -> TableValuedAlias:
    """The members of a list that is a parameter, a row each."""
    return each_of(bindparam(parameter, type_=JSON)).table_valued("value")


def _ids(parameter: str, of_type: type[TypeEngine[typing.Any]]) -> Select[typing.Any]:
    """The ids of a list that is a parameter, to be among or not."""
    return select(cast(_listed(parameter).c.value, of_type))


_chunk_ids, _job_ids = _ids("chunk_ids", BigInteger), _ids("job_ids", Id)


def _due(queue: ColumnElement[str]) -> Select[int]:
    """The ids of the chunks of a queue that are due, in their turn."""
    return (
        select(_chunks.c.id)
        .where(_chunks.c.status == _QUEUED, _chunks.c.queue == queue, _chunks.c.ready_at <= utc_now())
        .order_by(_chunks.c.sched_key, _chunks.c.id)
    )


def _was_rescued(chunks: FromClause) -> ColumnElement[bool]:
    """Whether a chunk broke off, and chunks of its job were rescued, so that it may be for a runner that died."""
    is_rescue = (_events.c.job_id == chunks.c.job_id) & (_events.c.event == "rescued")
    return and_(chunks.c.crashes > 0, exists().where(is_rescue)).label("was_rescued")


_queues, _heads = _listed("queues"), _chunks.alias("heads")
_head = _due(_queues.c.value).limit(1).correlate(_queues).scalar_subquery()
HEADS = (
    select(_heads.c.queue, _heads.c.crashes, _heads.c.n_items, _was_rescued(_heads))
    .select_from(_queues.join(_heads, _heads.c.id == _head))
    .order_by(_heads.c.sched_key, _heads.c.id)
)

N_DUE = select(func.count()).select_from(
    _due(bindparam("the_queue", type_=Text)).limit(bindparam("at_most", type_=Integer)).subquery()
)

_next = (
    _due(bindparam("the_queue", type_=Text))
    .limit(bindparam("limit", type_=Integer))
    .with_for_update(skip_locked=True)
    .cte("due")
    # As a plain subquery, Postgres may run it again for each row, and take more than its LIMIT.
    .prefix_with("MATERIALIZED", dialect="postgresql")
)
TAKE_NEXT_CHUNKS = (
    update(_chunks)
    .where(_chunks.c.id.in_(select(_next.c.id)))
    .values(
        status=_RUNNING,
        epoch=_chunks.c.epoch + 1,
        attempts=_chunks.c.attempts + 1,
        runner_id=bindparam("the_runner_id"),
        lease_until=utc_now(bindparam("lease_seconds")),
        started_at=utc_now(),
    )
    .returning(_chunks.c.id, _chunks.c.sched_key)
)
# Not sorted: SQLite would copy every payload into what it sorts by, and from 2 MB on write that to a file.
TAKEN_CHUNKS = (
    select(
        _chunks.c.id,
        _chunks.c.epoch,
        _chunks.c.job_id,
        _chunks.c.queue,
        _chunks.c.first_item,
        _chunks.c.n_items,
        _chunks.c.attempts,
        _chunks.c.crashes,
        _was_rescued(_chunks),
        _jobs.c.kind,
        _jobs.c.status.label("job_status"),
        _jobs.c.options,
        _jobs.c.input_id,
        _stored.c.first_item.label("stored_first"),
        _stored.c.n_items.label("n_stored"),
        _stored.c["items"].label("payload"),
        _stored.c.url,
        _stored.c.byte_offset,
        _stored.c.n_bytes,
        _stored.c.header_bytes,
        _stored.c.sha256,
        _jobs.c.output_url,
    )
    .join(_jobs, _jobs.c.id == _chunks.c.job_id)
    .join(_stored, (_stored.c.input_id == _jobs.c.input_id) & (_stored.c.seq == _chunks.c.seq))
    .where(_chunks.c.id.in_(_chunk_ids))
)
ITEMS_OF_INPUT = (
    select(_stored.c["items"]).where(_stored.c.input_id == bindparam("the_input_id")).order_by(_stored.c.seq)
)
LOCK_JOBS_NOT_BEGUN = (
    select(_jobs.c.id)
    .where(_jobs.c.id.in_(_job_ids), _jobs.c.status == JobState.QUEUED)
    .order_by(_jobs.c.id)
    .with_for_update(key_share=True)
)
BEGIN_JOBS = (
    update(_jobs)
    .where(_jobs.c.id.in_(_job_ids), _jobs.c.status == JobState.QUEUED)
    .values(status=JobState.RUNNING, started_at=utc_now())
)

LOCK_JOBS_WITH_PENDING = (
    select(_jobs.c.id, _jobs.c.priority)
    .where(
        _jobs.c.id.in_(_job_ids),
        _jobs.c.status.in_((JobState.QUEUED, JobState.RUNNING)),
        exists().where(_chunks.c.job_id == _jobs.c.id, _chunks.c.status == _PENDING),
    )
    .order_by(_jobs.c.id)
    .with_for_update(key_share=True, skip_locked=True)
)

_held = (
    select(_chunks.c.id)
    .where(
        _chunks.c.runner_id == bindparam("the_runner_id"),
        _chunks.c.status == _RUNNING,
        _chunks.c.id.not_in(_ids("hung", BigInteger)),
    )
    # As the loop locks them, which ends chunks at the same time.
    .suffix_with("ORDER BY chunks.id FOR NO KEY UPDATE", dialect="postgresql")
    .cte("held")
    .prefix_with("MATERIALIZED", dialect="postgresql")
)
RENEW = (
    update(_chunks)
    .where(_chunks.c.id.in_(select(_held.c.id)), _chunks.c.status == _RUNNING)
    .values(lease_until=utc_now(bindparam("lease_seconds")))
    .returning(_chunks.c.id, _chunks.c.epoch)
)

LOCK_RUNNING_CHUNKS = (
    select(_chunks.c.id, _chunks.c.epoch)
    .where(_chunks.c.id.in_(_chunk_ids), _chunks.c.status == _RUNNING)
    .order_by(_chunks.c.id)
    .with_for_update(key_share=True)
)
END_CHUNKS = (
    update(_chunks)
    .where(
        _chunks.c.id.in_(_chunk_ids),
        _chunks.c.epoch == bindparam("held_epoch"),
        _chunks.c.status == _RUNNING,
    )
    .values(
        status=bindparam("the_status"),
        n_succeeded=_chunks.c.n_items - bindparam("the_n_errored", type_=Integer),
        n_errored=bindparam("the_n_errored", type_=Integer),
        n_cached=bindparam("the_n_cached"),
        error=bindparam("the_error"),
        lease_until=None,
        finished_at=utc_now(),
    )
)
ADD_OUTPUT, ADD_ITEM_ERROR = insert(_outputs), insert(_item_errors)

COUNT_ENDED_ITEMS = (
    update(_jobs)
    .where(_jobs.c.id == bindparam("job_id"))
    .values(
        n_cached=_jobs.c.n_cached + bindparam("cached", type_=Integer),
        **counted(
            bindparam("succeeded", type_=Integer),
            bindparam("errored", type_=Integer),
            literal(0),
            otherwise=_jobs.c.status,
            reason=bindparam("reason", type_=Text),
        ),
    )
)
JOBS = select(_jobs.c.id, _jobs.c.status, _jobs.c.priority, _jobs.c.error).where(_jobs.c.id.in_(_job_ids))
_pending = (
    select(_chunks.c.id)
    .where(_chunks.c.job_id == bindparam("the_job_id"), _chunks.c.status == _PENDING)
    .order_by(_chunks.c.first_item)
    .limit(bindparam("n_chunks", type_=Integer))
)
QUEUE_PENDING_CHUNKS = (
    update(_chunks)
    .where(_chunks.c.id.in_(_pending))
    .values(
        status=_QUEUED,
        ready_at=utc_now(),
        sched_key=utc_now(bindparam("seconds_later")),
    )
)
ADD_EVENT = insert(_events).values(at=utc_now())

_sealing = (
    _inputs.c.id == bindparam("input_id"),
    _inputs.c.status == "receiving",
    _inputs.c.pruned_at.is_(None),
)
ADD_INPUT = insert(_inputs).values(status="receiving", created_at=utc_now())
ADD_INPUT_CHUNK = insert(_stored)
RECEIVED = select(
    func.coalesce(func.sum(_stored.c.n_items), 0).label("n_items"), func.count().label("n_chunks")
).where(_stored.c.input_id == bindparam("input_id"))
SEAL_INPUT = (
    update(_inputs)
    .where(*_sealing)
    .values(
        status="sealed",
        n_items=bindparam("the_n_items"),
        n_chunks=bindparam("the_n_chunks"),
        n_bytes=bindparam("the_n_bytes"),
        sha256=bindparam("the_sha256"),
        sealed_at=utc_now(),
    )
    .returning(_inputs.c.id)
)

INPUT_OF_JOB = (
    select(_inputs.c.status, _inputs.c.n_items, _inputs.c.pruned_at)
    .where(_inputs.c.id == bindparam("input_id"))
    .with_for_update(read=True)
)
ADD_JOB = insert(_jobs).values(status=JobState.QUEUED, created_at=utc_now())
_is_in_window = _stored.c.seq < bindparam("window", type_=Integer)
ADD_CHUNKS = insert(_chunks).from_select(
    ["job_id", "seq", "first_item", "n_items", "queue", "owner", "status", "ready_at", "sched_key"],
    select(
        bindparam("the_job_id", type_=Id),
        _stored.c.seq,
        _stored.c.first_item,
        func.coalesce(bindparam("n_items_of_all", type_=Integer), _stored.c.n_items),
        bindparam("the_queue", type_=Text),
        bindparam("the_owner", type_=Text),
        case((_is_in_window, _QUEUED), else_=_PENDING),
        func.coalesce(bindparam("run_at", type_=UtcDateTime), utc_now()),
        func.coalesce(bindparam("in_turn_at", type_=UtcDateTime), utc_now(bindparam("seconds_later"))),
    )
    .where(_stored.c.input_id == bindparam("input_id"), _stored.c.seq <= bindparam("last_seq", type_=Integer))
    .order_by(_stored.c.seq),
)
