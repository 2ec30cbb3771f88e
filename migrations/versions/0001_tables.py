"""The tables of the main job: inputs, jobs, chunks, outputs, events and runners.

Revision ID: 0001
Revises: nothing
"""

import sqlalchemy as sa
from alembic import op

from app.columns import BigSerial, Id, Payload, UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "inputs",
        sa.Column("id", Id(), nullable=False, comment="UUIDv7, so ids sort by age"),
        sa.Column(
            "status", sa.Text(), nullable=False, comment="receiving while the upload runs, then sealed"
        ),
        sa.Column("format", sa.Text(), nullable=False, comment="json, ndjson or csv: how it was uploaded"),
        sa.Column("n_items", sa.Integer(), server_default="0", nullable=False, comment="items received"),
        sa.Column(
            "n_chunks", sa.Integer(), server_default="0", nullable=False, comment="rows in input_chunks"
        ),
        sa.Column(
            "n_bytes",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="bytes of the decoded body",
        ),
        sa.Column("sha256", sa.String(length=64), nullable=True, comment="hex digest of the decoded body"),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="when the upload began"),
        sa.Column("sealed_at", UtcDateTime(), nullable=True, comment="when the upload was whole"),
        sa.CheckConstraint(
            "(status = 'sealed') = (sealed_at IS NOT NULL)", name=op.f("inputs_sealed_at_when_sealed")
        ),
        sa.CheckConstraint("status <> 'sealed' OR n_items > 0", name=op.f("inputs_sealed_has_items")),
        sa.CheckConstraint("status IN ('receiving', 'sealed')", name=op.f("inputs_status_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("inputs_pkey")),
        comment="Uploaded, ordered sets of items. Sealed once whole; never changed afterwards.",
    )
    op.create_table(
        "runners",
        sa.Column("id", Id(), nullable=False, comment="UUIDv7, made anew at each start"),
        sa.Column("host", sa.Text(), nullable=False, comment="the machine's name"),
        sa.Column("pid", sa.Integer(), nullable=False, comment="the process id on that machine"),
        sa.Column("threads", sa.Integer(), nullable=False, comment="chunks it runs at once"),
        sa.Column("started_at", UtcDateTime(), nullable=False, comment="when it registered"),
        sa.Column("seen_at", UtcDateTime(), nullable=False, comment="when it last told that it lives"),
        sa.Column("stopped_at", UtcDateTime(), nullable=True, comment="when it drained and left"),
        sa.PrimaryKeyConstraint("id", name=op.f("runners_pkey")),
        comment="Processes that claim chunks, live and gone.",
    )
    op.create_table(
        "input_chunks",
        sa.Column("input_id", Id(), nullable=False, comment="the input"),
        sa.Column("seq", sa.Integer(), nullable=False, comment="0, 1, 2 … within the input"),
        sa.Column(
            "first_item", sa.Integer(), nullable=False, comment="index of its first item within the input"
        ),
        sa.Column("n_items", sa.Integer(), nullable=False, comment="how many items it holds"),
        sa.Column("items", Payload(), nullable=False, comment="a JSON array of items, one item per line"),
        sa.CheckConstraint("n_items > 0", name=op.f("input_chunks_has_items")),
        sa.ForeignKeyConstraint(
            ["input_id"], ["inputs.id"], name=op.f("input_chunks_input_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("input_id", "seq", name=op.f("input_chunks_pkey")),
        comment="The items of an input, about a thousand a row.",
    )
    op.create_table(
        "jobs",
        sa.Column("id", Id(), nullable=False, comment="UUIDv7, so ids sort by age"),
        sa.Column("kind", sa.Text(), nullable=False, comment="predict or train"),
        sa.Column("model", sa.Text(), nullable=False, comment="the model's name"),
        sa.Column(
            "version", sa.Text(), nullable=False, comment="the model's version, fixed when the job was made"
        ),
        sa.Column("input_id", Id(), nullable=False, comment="the input it runs over"),
        sa.Column(
            "status",
            sa.Text(),
            nullable=False,
            comment="queued, running, succeeded, partial, failed, canceled …",
        ),
        sa.Column(
            "priority",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="10 minutes of patience a step; lower is sooner",
        ),
        sa.Column("run_at", UtcDateTime(), nullable=True, comment="not before this time"),
        sa.Column("n_items", sa.Integer(), nullable=False, comment="items of the input"),
        sa.Column(
            "n_succeeded", sa.Integer(), server_default="0", nullable=False, comment="items with a prediction"
        ),
        sa.Column(
            "n_errored", sa.Integer(), server_default="0", nullable=False, comment="items with an error"
        ),
        sa.Column(
            "n_canceled", sa.Integer(), server_default="0", nullable=False, comment="items never tried"
        ),
        sa.Column("error", sa.Text(), nullable=True, comment="why the job as a whole failed"),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="when it was accepted"),
        sa.Column("started_at", UtcDateTime(), nullable=True, comment="when its first chunk was claimed"),
        sa.Column("finished_at", UtcDateTime(), nullable=True, comment="when its last chunk ended"),
        sa.CheckConstraint(
            "(status IN ('succeeded', 'partial', 'failed', 'canceled', 'expired')) = (finished_at IS NOT NULL)",
            name=op.f("jobs_finished_at_when_terminal"),
        ),
        sa.CheckConstraint("kind IN ('predict', 'train')", name=op.f("jobs_kind_known")),
        sa.CheckConstraint(
            "status IN ('receiving', 'queued', 'running', 'canceling', 'succeeded', 'partial', 'failed', 'canceled', 'expired')",
            name=op.f("jobs_status_known"),
        ),
        sa.CheckConstraint(
            "finished_at IS NULL OR n_succeeded + n_errored + n_canceled = n_items",
            name=op.f("jobs_all_counted_at_end"),
        ),
        sa.CheckConstraint(
            "n_succeeded + n_errored + n_canceled <= n_items", name=op.f("jobs_counts_within_items")
        ),
        sa.CheckConstraint("priority BETWEEN -100 AND 100", name=op.f("jobs_priority_in_range")),
        sa.ForeignKeyConstraint(["input_id"], ["inputs.id"], name=op.f("jobs_input_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("jobs_pkey")),
        comment="One run of one model version over one input.",
    )
    op.create_index("jobs_input_id", "jobs", ["input_id"], unique=False)
    op.create_index("jobs_status_id", "jobs", ["status", "id"], unique=False)
    op.create_table(
        "chunks",
        sa.Column("id", BigSerial, nullable=False, comment="counts up"),
        sa.Column("job_id", Id(), nullable=False, comment="the job"),
        sa.Column("seq", sa.Integer(), nullable=False, comment="which input chunk holds its items"),
        sa.Column(
            "first_item", sa.Integer(), nullable=False, comment="index of its first item within the input"
        ),
        sa.Column("n_items", sa.Integer(), nullable=False, comment="how many items"),
        sa.Column(
            "status", sa.Text(), nullable=False, comment="pending, queued, running, done, failed or canceled"
        ),
        sa.Column("queue", sa.Text(), nullable=False, comment="model@version: which runners can take it"),
        sa.Column("ready_at", UtcDateTime(), nullable=False, comment="not to be claimed before"),
        sa.Column(
            "sched_key",
            UtcDateTime(),
            nullable=False,
            comment="claimed in this order: ready_at + priority × 10 minutes",
        ),
        sa.Column(
            "epoch",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="rises with every claim and release; fences a stale claimant out",
        ),
        sa.Column(
            "attempts",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="claims that were not released",
        ),
        sa.Column("runner_id", Id(), nullable=True, comment="who runs it or ran it last (runners.id)"),
        sa.Column("lease_until", UtcDateTime(), nullable=True, comment="when its claim ends by itself"),
        sa.Column("started_at", UtcDateTime(), nullable=True, comment="when it was last claimed"),
        sa.Column("finished_at", UtcDateTime(), nullable=True, comment="when it ended"),
        sa.Column(
            "n_succeeded", sa.Integer(), server_default="0", nullable=False, comment="items with a prediction"
        ),
        sa.Column(
            "n_errored", sa.Integer(), server_default="0", nullable=False, comment="items with an error"
        ),
        sa.Column("error", sa.Text(), nullable=True, comment="why the whole chunk failed"),
        sa.CheckConstraint(
            "(status = 'failed') = (error IS NOT NULL)", name=op.f("chunks_error_when_failed")
        ),
        sa.CheckConstraint(
            "(status = 'running') = (lease_until IS NOT NULL AND runner_id IS NOT NULL)",
            name=op.f("chunks_leased_when_running"),
        ),
        sa.CheckConstraint(
            "(status IN ('done', 'failed', 'canceled')) = (finished_at IS NOT NULL)",
            name=op.f("chunks_finished_at_when_terminal"),
        ),
        sa.CheckConstraint(
            "status <> 'done' OR n_succeeded + n_errored = n_items", name=op.f("chunks_all_counted_when_done")
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'queued', 'running', 'done', 'failed', 'canceled')",
            name=op.f("chunks_status_known"),
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("chunks_job_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("chunks_pkey")),
        sa.UniqueConstraint("job_id", "first_item", name=op.f("chunks_job_id_first_item_key")),
        comment="Consecutive items of a job: the unit of claim, retry and commit.",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "chunks_leased",
        "chunks",
        ["lease_until"],
        unique=False,
        sqlite_where=sa.text("status = 'running'"),
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_index(
        "chunks_pending",
        "chunks",
        ["job_id", "first_item"],
        unique=False,
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "chunks_queued",
        "chunks",
        ["queue", "sched_key", "id"],
        unique=False,
        sqlite_where=sa.text("status = 'queued'"),
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_table(
        "item_errors",
        sa.Column("job_id", Id(), nullable=False, comment="the job"),
        sa.Column(
            "item_index",
            sa.Integer(),
            autoincrement=False,
            nullable=False,
            comment="the item's place within the input, from 0",
        ),
        sa.Column("code", sa.Text(), nullable=False, comment="invalid_item, model_failed …"),
        sa.Column("message", sa.Text(), nullable=False, comment="what was wrong, and where in the item"),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("item_errors_job_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "item_index", name=op.f("item_errors_pkey")),
        comment="Items that the model or its schema refused, one row each.",
    )
    op.create_table(
        "job_events",
        sa.Column("id", BigSerial, nullable=False, comment="counts up"),
        sa.Column("job_id", Id(), nullable=False, comment="the job"),
        sa.Column("at", UtcDateTime(), nullable=False, comment="when, by the database's clock"),
        sa.Column(
            "event", sa.Text(), nullable=False, comment="created, started, cancel_requested, finished …"
        ),
        sa.Column(
            "first_item", sa.Integer(), nullable=True, comment="the chunk it concerns, if it concerns one"
        ),
        sa.Column("runner_id", Id(), nullable=True, comment="the runner that did it (runners.id)"),
        sa.Column("detail", sa.Text(), nullable=True, comment="a sentence for the reader"),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("job_events_job_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("job_events_pkey")),
        comment="The story of a job, in order.",
    )
    op.create_index("job_events_job_id_id", "job_events", ["job_id", "id"], unique=False)
    op.create_table(
        "outputs",
        sa.Column("chunk_id", BigSerial, autoincrement=False, nullable=False, comment="the chunk"),
        sa.Column("job_id", Id(), nullable=False, comment="the job"),
        sa.Column(
            "first_item", sa.Integer(), nullable=False, comment="index of its first item within the input"
        ),
        sa.Column(
            "n_items",
            sa.Integer(),
            nullable=False,
            comment="places in `items`, those of failed items included",
        ),
        sa.Column(
            "n_errored", sa.Integer(), nullable=False, comment="places that hold null: their items failed"
        ),
        sa.Column(
            "columns", sa.JSON(), nullable=False, comment="the fields that occur, for the header of a CSV"
        ),
        sa.Column(
            "items",
            Payload(),
            nullable=False,
            comment="a JSON array of item + prediction, one per line; null where the item failed",
        ),
        sa.ForeignKeyConstraint(
            ["chunk_id"], ["chunks.id"], name=op.f("outputs_chunk_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("outputs_job_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("chunk_id", name=op.f("outputs_pkey")),
        sa.UniqueConstraint("job_id", "first_item", name=op.f("outputs_job_id_first_item_key")),
        comment="What the model gave for a chunk, written in the transaction that ended it.",
    )


def downgrade() -> None:
    op.drop_table("outputs")
    op.drop_index("job_events_job_id_id", table_name="job_events")
    op.drop_table("job_events")
    op.drop_table("item_errors")
    op.drop_index(
        "chunks_queued",
        table_name="chunks",
        sqlite_where=sa.text("status = 'queued'"),
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.drop_index(
        "chunks_pending",
        table_name="chunks",
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.drop_index(
        "chunks_leased",
        table_name="chunks",
        sqlite_where=sa.text("status = 'running'"),
        postgresql_where=sa.text("status = 'running'"),
    )
    op.drop_table("chunks")
    op.drop_index("jobs_status_id", table_name="jobs")
    op.drop_index("jobs_input_id", table_name="jobs")
    op.drop_table("jobs")
    op.drop_table("input_chunks")
    op.drop_table("runners")
    op.drop_table("inputs")
