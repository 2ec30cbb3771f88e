"""Jobs: their chunks, outputs, item errors and stories."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    text,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.columns import BigSerial, Id, Payload, UtcDateTime
from app.tables.inputs import Input
from app.tables.rows import Row
from app.tables.states import (
    TERMINAL_CHUNK_STATES,
    TERMINAL_JOB_STATES,
    ChunkState,
    JobKind,
    JobState,
    one_of,
)


class Job(Row):
    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(one_of("kind", JobKind), name="kind_known"),
        CheckConstraint(one_of("status", JobState), name="status_known"),
        CheckConstraint(
            f"({one_of('status', TERMINAL_JOB_STATES)}) = (finished_at IS NOT NULL)",
            name="finished_at_when_terminal",
        ),
        CheckConstraint("n_succeeded + n_errored + n_canceled <= n_items", name="counts_within_items"),
        CheckConstraint(
            "finished_at IS NULL OR n_succeeded + n_errored + n_canceled = n_items", name="all_counted_at_end"
        ),
        CheckConstraint("priority BETWEEN -100 AND 100", name="priority_in_range"),
        CheckConstraint("n_cached BETWEEN 0 AND n_succeeded", name="cached_succeeded"),
        Index("jobs_status_id", "status", "id"),
        Index("jobs_input_id", "input_id"),
        Index(
            "jobs_idempotency_key",
            "owner",
            "idempotency_key",
            unique=True,
            sqlite_where=text("idempotency_key IS NOT NULL"),
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        Index(
            "jobs_output_url",
            "output_url",
            unique=True,
            sqlite_where=text("output_url IS NOT NULL"),
            postgresql_where=text("output_url IS NOT NULL"),
        ),
        Index(
            "jobs_unlisted",
            "finished_at",
            sqlite_where=text("output_url IS NOT NULL AND manifest_at IS NULL"),
            postgresql_where=text("output_url IS NOT NULL AND manifest_at IS NULL"),
        ),
        Index(
            "jobs_expiring",
            "expires_at",
            sqlite_where=text("expires_at IS NOT NULL AND pruned_at IS NULL"),
            postgresql_where=text("expires_at IS NOT NULL AND pruned_at IS NULL"),
        ),
        Index(
            "jobs_kept",
            "finished_at",
            sqlite_where=text("pruned_at IS NULL"),
            postgresql_where=text("pruned_at IS NULL"),
        ),
        {"comment": "One run of one model version over one input."},
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True, comment="UUIDv7, so ids sort by age")
    kind: Mapped[str] = mapped_column(Text, comment="predict or train")
    model: Mapped[str] = mapped_column(Text, comment="the model's name")
    version: Mapped[str] = mapped_column(Text, comment="the model's version, fixed when the job was made")
    input_id: Mapped[str] = mapped_column(Id, ForeignKey(Input.id), comment="the input it runs over")
    status: Mapped[str] = mapped_column(
        Text, comment="queued, running, succeeded, partial, failed, canceled …"
    )
    priority: Mapped[int] = mapped_column(
        SmallInteger, server_default="0", comment="10 minutes of patience a step; lower is sooner"
    )
    run_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="not before this time")
    n_items: Mapped[int] = mapped_column(Integer, comment="items of the input")
    n_succeeded: Mapped[int] = mapped_column(Integer, server_default="0", comment="items with a prediction")
    n_errored: Mapped[int] = mapped_column(Integer, server_default="0", comment="items with an error")
    n_canceled: Mapped[int] = mapped_column(Integer, server_default="0", comment="items never tried")
    n_cached: Mapped[int] = mapped_column(
        Integer, server_default="0", comment="of those that succeeded, how many cost no call of the model"
    )
    error: Mapped[str | None] = mapped_column(Text, comment="why the job as a whole failed")
    owner: Mapped[str] = mapped_column(Text, server_default="", comment="whose it is; empty without keys")
    max_errors: Mapped[int | None] = mapped_column(Integer, comment="it fails early with more item errors")
    options: Mapped[dict[str, Any] | None] = mapped_column(
        JSON(none_as_null=True), comment="of a train job: what train is given besides the items"
    )
    idempotency_key: Mapped[str | None] = mapped_column(
        Text, comment="the client's, of the request that made it"
    )
    request_sha256: Mapped[str | None] = mapped_column(
        String(64), comment="hex digest of that request's body"
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when it was accepted")
    started_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="when its first chunk was claimed"
    )
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="when its last chunk ended")
    expires_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="after this time it is not started, and its outputs go"
    )
    pruned_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="when its outputs and errors went"
    )
    output_url: Mapped[str | None] = mapped_column(
        Text, comment="the folder of objects that its outputs go to; null: to outputs"
    )
    manifest_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="when the manifest of that folder was written"
    )


class Chunk(Row):
    __tablename__ = "chunks"
    __table_args__ = (
        UniqueConstraint("job_id", "first_item"),
        CheckConstraint(one_of("status", ChunkState), name="status_known"),
        CheckConstraint(
            "(status = 'running') = (lease_until IS NOT NULL AND runner_id IS NOT NULL)",
            name="leased_when_running",
        ),
        CheckConstraint(
            f"({one_of('status', TERMINAL_CHUNK_STATES)}) = (finished_at IS NOT NULL)",
            name="finished_at_when_terminal",
        ),
        CheckConstraint(
            "status <> 'done' OR n_succeeded + n_errored = n_items", name="all_counted_when_done"
        ),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error_when_failed"),
        CheckConstraint("n_cached BETWEEN 0 AND n_succeeded", name="cached_succeeded"),
        Index(
            "chunks_queued",
            "queue",
            "sched_key",
            "id",
            sqlite_where=text("status = 'queued'"),
            postgresql_where=text("status = 'queued'"),
        ),
        Index(
            "chunks_pending",
            "job_id",
            "first_item",
            sqlite_where=text("status = 'pending'"),
            postgresql_where=text("status = 'pending'"),
        ),
        Index(
            "chunks_active",
            "queue",
            "owner",
            sqlite_where=text("status IN ('queued', 'running')"),
            postgresql_where=text("status IN ('queued', 'running')"),
        ),
        Index(
            "chunks_leased",
            "lease_until",
            sqlite_where=text("status = 'running'"),
            postgresql_where=text("status = 'running'"),
        ),
        # AUTOINCREMENT: SQLite would give a deleted chunk's id to a new one, and a stale claim of the old
        # chunk could then finish the new one.
        {
            "comment": "Consecutive items of a job: the unit of claim, retry and commit.",
            "sqlite_autoincrement": True,
        },
    )

    id: Mapped[int] = mapped_column(BigSerial, primary_key=True, comment="counts up")
    job_id: Mapped[str] = mapped_column(Id, ForeignKey(Job.id, ondelete="CASCADE"), comment="the job")
    seq: Mapped[int] = mapped_column(Integer, comment="which input chunk holds its items")
    first_item: Mapped[int] = mapped_column(Integer, comment="index of its first item within the input")
    n_items: Mapped[int] = mapped_column(Integer, comment="how many items")
    status: Mapped[str] = mapped_column(Text, comment="pending, queued, running, done, failed or canceled")
    queue: Mapped[str] = mapped_column(
        Text, comment="model@version, to train train:model@version: which runners can take it"
    )
    owner: Mapped[str] = mapped_column(
        Text, server_default="", comment="its job's owner, who has a window of chunks"
    )
    ready_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="not to be claimed before")
    sched_key: Mapped[datetime] = mapped_column(
        UtcDateTime, comment="claimed in this order: ready_at + priority × 10 minutes"
    )
    epoch: Mapped[int] = mapped_column(
        Integer, server_default="0", comment="rises with every claim and release; fences a stale claimant out"
    )
    attempts: Mapped[int] = mapped_column(
        Integer, server_default="0", comment="claims that were not released"
    )
    crashes: Mapped[int] = mapped_column(
        Integer, server_default="0", comment="of these, how many ended with their process or ran out of time"
    )
    runner_id: Mapped[str | None] = mapped_column(Id, comment="who runs it or ran it last (runners.id)")
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="when its claim ends by itself")
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="when it was last claimed")
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="when it ended")
    n_succeeded: Mapped[int] = mapped_column(Integer, server_default="0", comment="items with a prediction")
    n_errored: Mapped[int] = mapped_column(Integer, server_default="0", comment="items with an error")
    n_cached: Mapped[int] = mapped_column(
        Integer, server_default="0", comment="of those that succeeded, how many cost no call of the model"
    )
    error: Mapped[str | None] = mapped_column(Text, comment="why the whole chunk failed")


class Output(Row):
    __tablename__ = "outputs"
    __table_args__ = (
        UniqueConstraint("job_id", "first_item"),
        CheckConstraint(
            "(items IS NULL) = (object IS NOT NULL AND n_bytes IS NOT NULL AND sha256 IS NOT NULL)",
            name="items_or_object",
        ),
        {"comment": "What the model gave for a chunk, written in the transaction that ended it."},
    )

    chunk_id: Mapped[int] = mapped_column(
        BigSerial,
        ForeignKey(Chunk.id, ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="the chunk",
    )
    job_id: Mapped[str] = mapped_column(Id, ForeignKey(Job.id, ondelete="CASCADE"), comment="the job")
    first_item: Mapped[int] = mapped_column(Integer, comment="index of its first item within the input")
    n_items: Mapped[int] = mapped_column(Integer, comment="places in `items`, those of failed items included")
    n_errored: Mapped[int] = mapped_column(Integer, comment="places that hold null: their items failed")
    columns: Mapped[list[str]] = mapped_column(JSON, comment="the fields that occur, for the header of a CSV")
    items: Mapped[bytes | None] = mapped_column(
        Payload,
        comment="a JSON array of predictions, one per line; null where the item failed, or all in an object",
    )
    is_whole: Mapped[bool] = mapped_column(
        Boolean,
        server_default=true(),
        comment="whether `items` holds item + prediction, else the items are in input_chunks alone",
    )
    object: Mapped[str | None] = mapped_column(
        Text, comment="its name in the job's output_url: item + prediction, one per line"
    )
    n_bytes: Mapped[int | None] = mapped_column(BigInteger, comment="bytes of the object")
    sha256: Mapped[str | None] = mapped_column(String(64), comment="hex digest of the object")


class ItemError(Row):
    __tablename__ = "item_errors"
    __table_args__ = ({"comment": "Items that the model or its schema refused, one row each."},)

    job_id: Mapped[str] = mapped_column(
        Id, ForeignKey(Job.id, ondelete="CASCADE"), primary_key=True, comment="the job"
    )
    item_index: Mapped[int] = mapped_column(
        Integer, primary_key=True, autoincrement=False, comment="the item's place within the input, from 0"
    )
    code: Mapped[str] = mapped_column(Text, comment="invalid_item, model_failed …")
    message: Mapped[str] = mapped_column(Text, comment="what was wrong, and where in the item")


class JobEvent(Row):
    __tablename__ = "job_events"
    __table_args__ = (
        Index("job_events_job_id_id", "job_id", "id"),
        {"comment": "The story of a job, in order."},
    )

    id: Mapped[int] = mapped_column(BigSerial, primary_key=True, comment="counts up")
    job_id: Mapped[str] = mapped_column(Id, ForeignKey(Job.id, ondelete="CASCADE"), comment="the job")
    at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when, by the database's clock")
    event: Mapped[str] = mapped_column(Text, comment="created, started, cancel_requested, finished …")
    first_item: Mapped[int | None] = mapped_column(
        Integer, comment="the chunk it concerns, if it concerns one"
    )
    runner_id: Mapped[str | None] = mapped_column(Id, comment="the runner that did it (runners.id)")
    detail: Mapped[str | None] = mapped_column(Text, comment="a sentence for the reader")
