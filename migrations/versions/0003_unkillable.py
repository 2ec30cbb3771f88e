"""Retries, fairness between owners, idempotency, schedules and retention.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

from app.columns import Id, UtcDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("id", Id(), nullable=False, comment="UUIDv7, so ids sort by age"),
        sa.Column(
            "cron", sa.Text(), nullable=False, comment="minute, hour, day of month, month, day of week"
        ),
        sa.Column("time_zone", sa.Text(), nullable=False, comment="the IANA zone that cron is read in"),
        sa.Column("model", sa.Text(), nullable=False, comment="the model's name"),
        sa.Column(
            "version",
            sa.Text(),
            nullable=True,
            comment="the model's version; null: the default when it fires",
        ),
        sa.Column("collection", sa.Text(), nullable=False, comment="the collection of inputs it runs over"),
        sa.Column(
            "owner", sa.Text(), server_default="", nullable=False, comment="whose it is; empty without keys"
        ),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="when it was made"),
        sa.Column(
            "next_fire_at",
            UtcDateTime(),
            nullable=True,
            comment="when it fires next; null: paused",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("schedules_pkey")),
        comment="Jobs to make at set times, over what a collection has gathered until then.",
    )
    op.create_index("schedules_next_fire_at", "schedules", ["next_fire_at"], unique=False)
    op.create_table(
        "schedule_fires",
        sa.Column("schedule_id", Id(), nullable=False, comment="the schedule"),
        sa.Column("fire_at", UtcDateTime(), nullable=False, comment="the instant that was due"),
        sa.Column("fired_at", UtcDateTime(), nullable=False, comment="when it really fired"),
        sa.Column(
            "job_id",
            Id(),
            nullable=True,
            comment="the job it made; null: the collection had nothing new",
        ),
        sa.ForeignKeyConstraint(
            ["schedule_id"],
            ["schedules.id"],
            name=op.f("schedule_fires_schedule_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("schedule_id", "fire_at", name=op.f("schedule_fires_pkey")),
        comment="When schedules fired, and the jobs they made.",
    )
    op.create_table(
        "schedule_inputs",
        sa.Column("schedule_id", Id(), nullable=False, comment="the schedule"),
        sa.Column("input_id", Id(), nullable=False, comment="the input it took"),
        sa.Column("job_id", Id(), nullable=False, comment="the job that ran over it"),
        sa.ForeignKeyConstraint(
            ["input_id"], ["inputs.id"], name=op.f("schedule_inputs_input_id_fkey"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["schedule_id"],
            ["schedules.id"],
            name=op.f("schedule_inputs_schedule_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("schedule_id", "input_id", name=op.f("schedule_inputs_pkey")),
        comment="Which inputs a schedule has already taken into one of its jobs.",
    )
    op.add_column(
        "chunks",
        sa.Column(
            "owner",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="its job's owner, who has a window of chunks",
        ),
    )
    op.create_index(
        "chunks_active",
        "chunks",
        ["queue", "owner"],
        unique=False,
        sqlite_where=sa.text("status IN ('queued', 'running')"),
        postgresql_where=sa.text("status IN ('queued', 'running')"),
    )
    op.add_column(
        "inputs",
        sa.Column(
            "owner", sa.Text(), server_default="", nullable=False, comment="whose it is; empty without keys"
        ),
    )
    op.add_column(
        "inputs", sa.Column("collection", sa.Text(), nullable=True, comment="where schedules look for it")
    )
    op.add_column(
        "inputs",
        sa.Column(
            "expires_at",
            UtcDateTime(),
            nullable=True,
            comment="its items go after this time",
        ),
    )
    op.add_column(
        "inputs",
        sa.Column("pruned_at", UtcDateTime(), nullable=True, comment="when its items went"),
    )
    op.create_index(
        "inputs_collection_id",
        "inputs",
        ["collection", "id"],
        unique=False,
        sqlite_where=sa.text("collection IS NOT NULL"),
        postgresql_where=sa.text("collection IS NOT NULL"),
    )
    op.create_index(
        "inputs_expiring",
        "inputs",
        ["expires_at"],
        unique=False,
        sqlite_where=sa.text("expires_at IS NOT NULL AND pruned_at IS NULL"),
        postgresql_where=sa.text("expires_at IS NOT NULL AND pruned_at IS NULL"),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "owner", sa.Text(), server_default="", nullable=False, comment="whose it is; empty without keys"
        ),
    )
    op.add_column(
        "jobs",
        sa.Column("max_errors", sa.Integer(), nullable=True, comment="it fails early with more item errors"),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "idempotency_key", sa.Text(), nullable=True, comment="the client's, of the request that made it"
        ),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "request_sha256", sa.String(length=64), nullable=True, comment="hex digest of that request's body"
        ),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "expires_at",
            UtcDateTime(),
            nullable=True,
            comment="after this time it is not started, and its outputs go",
        ),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "pruned_at",
            UtcDateTime(),
            nullable=True,
            comment="when its outputs and errors went",
        ),
    )
    op.create_index(
        "jobs_expiring",
        "jobs",
        ["expires_at"],
        unique=False,
        sqlite_where=sa.text("expires_at IS NOT NULL AND pruned_at IS NULL"),
        postgresql_where=sa.text("expires_at IS NOT NULL AND pruned_at IS NULL"),
    )
    op.create_index(
        "jobs_idempotency_key",
        "jobs",
        ["owner", "idempotency_key"],
        unique=True,
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.add_column(
        "runners",
        sa.Column(
            "trouble", sa.Text(), nullable=True, comment="why it claims no more: a model that hangs, say"
        ),
    )


def downgrade() -> None:
    op.drop_column("runners", "trouble")
    op.drop_index(
        "jobs_idempotency_key",
        table_name="jobs",
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.drop_index(
        "jobs_expiring",
        table_name="jobs",
        sqlite_where=sa.text("expires_at IS NOT NULL AND pruned_at IS NULL"),
        postgresql_where=sa.text("expires_at IS NOT NULL AND pruned_at IS NULL"),
    )
    op.drop_column("jobs", "pruned_at")
    op.drop_column("jobs", "expires_at")
    op.drop_column("jobs", "request_sha256")
    op.drop_column("jobs", "idempotency_key")
    op.drop_column("jobs", "max_errors")
    op.drop_column("jobs", "owner")
    op.drop_index(
        "inputs_expiring",
        table_name="inputs",
        sqlite_where=sa.text("expires_at IS NOT NULL AND pruned_at IS NULL"),
        postgresql_where=sa.text("expires_at IS NOT NULL AND pruned_at IS NULL"),
    )
    op.drop_index(
        "inputs_collection_id",
        table_name="inputs",
        sqlite_where=sa.text("collection IS NOT NULL"),
        postgresql_where=sa.text("collection IS NOT NULL"),
    )
    op.drop_column("inputs", "pruned_at")
    op.drop_column("inputs", "expires_at")
    op.drop_column("inputs", "collection")
    op.drop_column("inputs", "owner")
    op.drop_index(
        "chunks_active",
        table_name="chunks",
        sqlite_where=sa.text("status IN ('queued', 'running')"),
        postgresql_where=sa.text("status IN ('queued', 'running')"),
    )
    op.drop_column("chunks", "owner")
    op.drop_table("schedule_inputs")
    op.drop_table("schedule_fires")
    op.drop_index("schedules_next_fire_at", table_name="schedules")
    op.drop_table("schedules")
