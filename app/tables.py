"""The tables, as typed rows. What each column means stands in its comment, which Postgres keeps too.

Payloads (`input_chunks.items`, `outputs.items`) stay out of the rows that the queue updates all day.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.columns import BigSerial, Digest, Id, Payload, UtcDateTime


class JobKind(StrEnum):
    """What a job is: predictions for the items of its input, or a new version of the model made from them."""

    PREDICT = "predict"
    TRAIN = "train"


class JobState(StrEnum):
    """The life of a job; `docs/architecture.md` draws it."""

    RECEIVING = "receiving"
    QUEUED = "queued"
    RUNNING = "running"
    CANCELING = "canceling"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"


class ChunkState(StrEnum):
    """The life of a chunk: `pending` waits behind its job's window, `queued` may be claimed."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELED = "canceled"


TERMINAL_JOB_STATES = (
    JobState.SUCCEEDED,
    JobState.PARTIAL,
    JobState.FAILED,
    JobState.CANCELED,
    JobState.EXPIRED,
)
TERMINAL_CHUNK_STATES = (ChunkState.DONE, ChunkState.FAILED, ChunkState.CANCELED)


def _one_of(column: str, states: type[StrEnum] | tuple[StrEnum, ...]) -> str:
    return f"{column} IN ({', '.join(repr(state.value) for state in states)})"


class Row(DeclarativeBase):
    """What all rows share: constraint names that both databases and every migration agree on."""

    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ck": "%(table_name)s_%(constraint_name)s",
        }
    )


class Input(Row):
    __tablename__ = "inputs"
    __table_args__ = (
        CheckConstraint("status IN ('receiving', 'sealed')", name="status_known"),
        CheckConstraint("(status = 'sealed') = (sealed_at IS NOT NULL)", name="sealed_at_when_sealed"),
        CheckConstraint("status <> 'sealed' OR n_items > 0", name="sealed_has_items"),
        Index(
            "inputs_collection_id",
            "collection",
            "id",
            sqlite_where=text("collection IS NOT NULL"),
            postgresql_where=text("collection IS NOT NULL"),
        ),
        Index(
            "inputs_expiring",
            "expires_at",
            sqlite_where=text("expires_at IS NOT NULL AND pruned_at IS NULL"),
            postgresql_where=text("expires_at IS NOT NULL AND pruned_at IS NULL"),
        ),
        Index(
            "inputs_kept",
            "sealed_at",
            sqlite_where=text("pruned_at IS NULL"),
            postgresql_where=text("pruned_at IS NULL"),
        ),
        {"comment": "Uploaded, ordered sets of items. Sealed once whole; never changed afterwards."},
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True, comment="UUIDv7, so ids sort by age")
    status: Mapped[str] = mapped_column(Text, comment="receiving while the upload runs, then sealed")
    format: Mapped[str] = mapped_column(Text, comment="json, ndjson, csv or parquet: how it was uploaded")
    n_items: Mapped[int] = mapped_column(Integer, server_default="0", comment="items received")
    n_chunks: Mapped[int] = mapped_column(Integer, server_default="0", comment="rows in input_chunks")
    n_bytes: Mapped[int] = mapped_column(BigInteger, server_default="0", comment="bytes of the decoded body")
    sha256: Mapped[str | None] = mapped_column(String(64), comment="hex digest of the decoded body")
    url: Mapped[str | None] = mapped_column(
        Text, comment="the object in which its items stay; null: uploaded"
    )
    owner: Mapped[str] = mapped_column(Text, server_default="", comment="whose it is; empty without keys")
    collection: Mapped[str | None] = mapped_column(Text, comment="where schedules look for it")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when the upload began")
    sealed_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="when the upload was whole")
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="its items go after this time")
    pruned_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="when its items went")


class InputChunk(Row):
    __tablename__ = "input_chunks"
    __table_args__ = (
        CheckConstraint("n_items > 0", name="has_items"),
        CheckConstraint(
            "(items IS NULL) = "
            "(url IS NOT NULL AND byte_offset IS NOT NULL AND n_bytes IS NOT NULL AND sha256 IS NOT NULL)",
            name="items_or_place",
        ),
        {"comment": "The items of an input, about a thousand a row."},
    )

    input_id: Mapped[str] = mapped_column(
        Id, ForeignKey(Input.id, ondelete="CASCADE"), primary_key=True, comment="the input"
    )
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, comment="0, 1, 2 … within the input")
    first_item: Mapped[int] = mapped_column(Integer, comment="index of its first item within the input")
    n_items: Mapped[int] = mapped_column(Integer, comment="how many items it holds")
    items: Mapped[bytes | None] = mapped_column(
        Payload, comment="a JSON array of items, one item per line; null: they are in an object"
    )
    url: Mapped[str | None] = mapped_column(Text, comment="the object that they are in")
    byte_offset: Mapped[int | None] = mapped_column(BigInteger, comment="where in it they begin")
    n_bytes: Mapped[int | None] = mapped_column(BigInteger, comment="how many bytes from there on")
    header_bytes: Mapped[int | None] = mapped_column(
        Integer, comment="a CSV's header, from its start; null: NDJSON"
    )
    sha256: Mapped[str | None] = mapped_column(String(64), comment="hex digest of header and items there")


class Job(Row):
    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(_one_of("kind", JobKind), name="kind_known"),
        CheckConstraint(_one_of("status", JobState), name="status_known"),
        CheckConstraint(
            f"({_one_of('status', TERMINAL_JOB_STATES)}) = (finished_at IS NOT NULL)",
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
        CheckConstraint(_one_of("status", ChunkState), name="status_known"),
        CheckConstraint(
            "(status = 'running') = (lease_until IS NOT NULL AND runner_id IS NOT NULL)",
            name="leased_when_running",
        ),
        CheckConstraint(
            f"({_one_of('status', TERMINAL_CHUNK_STATES)}) = (finished_at IS NOT NULL)",
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
        comment="a JSON array of item + prediction, one per line; null where the item failed, or all in an object",
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


class Runner(Row):
    __tablename__ = "runners"
    __table_args__ = ({"comment": "Processes that claim chunks, live and gone."},)

    id: Mapped[str] = mapped_column(Id, primary_key=True, comment="UUIDv7, made anew at each start")
    host: Mapped[str] = mapped_column(Text, comment="the machine's name")
    pid: Mapped[int] = mapped_column(Integer, comment="the process id on that machine")
    threads: Mapped[int] = mapped_column(Integer, comment="chunks it runs at once")
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when it registered")
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when it last told that it lives")
    stopped_at: Mapped[datetime | None] = mapped_column(UtcDateTime, comment="when it drained and left")
    trouble: Mapped[str | None] = mapped_column(
        Text, comment="why it claims no more: a model that hangs, say"
    )


class Schedule(Row):
    __tablename__ = "schedules"
    __table_args__ = (
        Index("schedules_next_fire_at", "next_fire_at"),
        {"comment": "Jobs to make at set times, over what a collection has gathered until then."},
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True, comment="UUIDv7, so ids sort by age")
    cron: Mapped[str] = mapped_column(Text, comment="minute, hour, day of month, month, day of week")
    time_zone: Mapped[str] = mapped_column(Text, comment="the IANA zone that cron is read in")
    model: Mapped[str] = mapped_column(Text, comment="the model's name")
    version: Mapped[str | None] = mapped_column(
        Text, comment="the model's version; null: the default when it fires"
    )
    collection: Mapped[str] = mapped_column(Text, comment="the collection of inputs it runs over")
    owner: Mapped[str] = mapped_column(Text, server_default="", comment="whose it is; empty without keys")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when it was made")
    next_fire_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="when it fires next; null: paused"
    )


class ScheduleFire(Row):
    __tablename__ = "schedule_fires"
    __table_args__ = ({"comment": "When schedules fired, and the jobs they made."},)

    schedule_id: Mapped[str] = mapped_column(
        Id, ForeignKey(Schedule.id, ondelete="CASCADE"), primary_key=True, comment="the schedule"
    )
    fire_at: Mapped[datetime] = mapped_column(
        UtcDateTime, primary_key=True, comment="the instant that was due"
    )
    fired_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when it really fired")
    job_id: Mapped[str | None] = mapped_column(
        Id, comment="the job it made; null: the collection had nothing new"
    )


class ScheduleInput(Row):
    __tablename__ = "schedule_inputs"
    __table_args__ = ({"comment": "Which inputs a schedule has already taken into one of its jobs."},)

    schedule_id: Mapped[str] = mapped_column(
        Id, ForeignKey(Schedule.id, ondelete="CASCADE"), primary_key=True, comment="the schedule"
    )
    input_id: Mapped[str] = mapped_column(
        Id, ForeignKey(Input.id, ondelete="CASCADE"), primary_key=True, comment="the input it took"
    )
    job_id: Mapped[str] = mapped_column(Id, comment="the job that ran over it")


class Leftover(Row):
    __tablename__ = "leftovers"
    __table_args__ = (
        {"comment": "Pruned jobs and inputs whose payloads are still being deleted, a few rows at a time."},
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True, comment="a job's or an input's id")


class ModelEvent(Row):
    __tablename__ = "model_events"
    __table_args__ = (
        CheckConstraint("kind IN ('reloaded', 'promoted')", name="kind_known"),
        CheckConstraint(
            "(kind = 'promoted') = (model IS NOT NULL AND version IS NOT NULL)",
            name="promoted_names_a_version",
        ),
        # AUTOINCREMENT: an id that comes back would be an event that nobody notices.
        {
            "comment": "What every process is told about the models, in order; the last promotion of a model holds.",
            "sqlite_autoincrement": True,
        },
    )

    id: Mapped[int] = mapped_column(BigSerial, primary_key=True, comment="counts up")
    at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when, by the database's clock")
    kind: Mapped[str] = mapped_column(Text, comment="reloaded: read models.toml again; or promoted")
    model: Mapped[str | None] = mapped_column(Text, comment="whose default moved, if it is a promotion")
    version: Mapped[str | None] = mapped_column(Text, comment="the new default, if it is a promotion")


class ModelVersion(Row):
    __tablename__ = "model_versions"
    __table_args__ = (
        UniqueConstraint("job_id"),
        CheckConstraint("form IN ('file', 'folder')", name="form_known"),
        {
            "comment": "Versions of models that train jobs made, and where each came from. Rows are never deleted."
        },
    )

    model: Mapped[str] = mapped_column(Text, primary_key=True, comment="the model's name")
    version: Mapped[str] = mapped_column(Text, primary_key=True, comment="t1, t2, t3 … of the model")
    parent: Mapped[str] = mapped_column(Text, comment="the version whose class trained it")
    entry: Mapped[str] = mapped_column(
        Text, comment="the version in models.toml whose class and settings it has"
    )
    job_id: Mapped[str] = mapped_column(Id, comment="the job that trained it")
    input_id: Mapped[str] = mapped_column(Id, comment="the input it was trained on")
    n_items: Mapped[int] = mapped_column(Integer, comment="items of that input")
    options: Mapped[dict[str, Any]] = mapped_column(JSON, comment="what train was given besides them")
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON, comment="what train returned")
    sha256: Mapped[str] = mapped_column(
        String(64), comment="hex digest of its artifact, as models.toml has it"
    )
    form: Mapped[str] = mapped_column(Text, comment="file; or folder, whose parts make a tar")
    n_bytes: Mapped[int] = mapped_column(BigInteger, comment="bytes of its parts")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when its training ended")
    promoted_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="when it was first promoted: from then on it is served"
    )
    removed_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="when it was removed, and its parts deleted"
    )


class ArtifactPart(Row):
    __tablename__ = "artifact_parts"
    __table_args__ = (
        ForeignKeyConstraint(
            ["model", "version"], [ModelVersion.model, ModelVersion.version], ondelete="CASCADE"
        ),
        {"comment": "The artifacts of trained versions, a megabyte a row."},
    )

    model: Mapped[str] = mapped_column(Text, primary_key=True, comment="the model's name")
    version: Mapped[str] = mapped_column(Text, primary_key=True, comment="its version")
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, comment="0, 1, 2 … within the artifact")
    content: Mapped[bytes] = mapped_column(LargeBinary, comment="the next bytes of it")


class CachedPrediction(Row):
    __tablename__ = "cached_predictions"
    __table_args__ = (
        Index("cached_predictions_age", "model", "version", "created_at", "key"),
        {
            "comment": "The result cache: what model versions with `cache = true` predicted, for equal items to come."
        },
    )

    key: Mapped[str] = mapped_column(
        Digest, primary_key=True, comment="digest of the item and of what its model version is declared to be"
    )
    model: Mapped[str] = mapped_column(Text, comment="the model's name")
    version: Mapped[str] = mapped_column(Text, comment="the model's version")
    prediction: Mapped[bytes] = mapped_column(Payload, comment="what predict gave, a JSON object")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when it was predicted")
