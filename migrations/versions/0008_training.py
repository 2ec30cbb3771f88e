"""Training: the versions that train jobs make, with their artifacts, and the options of such a job.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

from app.columns import Id, UtcDateTime

revision = "0008"
down_revision = "0007"

BEFORE = "model@version: which runners can take it"
AFTER = "model@version, to train train:model@version: which runners can take it"


def upgrade() -> None:
    _comment(BEFORE, AFTER)
    op.add_column(
        "jobs",
        sa.Column(
            "options",
            sa.JSON(),
            nullable=True,
            comment="of a train job: what train is given besides the items",
        ),
    )
    op.create_table(
        "model_versions",
        sa.Column("model", sa.Text(), nullable=False, comment="the model's name"),
        sa.Column("version", sa.Text(), nullable=False, comment="t1, t2, t3 … of the model"),
        sa.Column("parent", sa.Text(), nullable=False, comment="the version whose class trained it"),
        sa.Column(
            "entry",
            sa.Text(),
            nullable=False,
            comment="the version in models.toml whose class and settings it has",
        ),
        sa.Column("job_id", Id(), nullable=False, comment="the job that trained it"),
        sa.Column("input_id", Id(), nullable=False, comment="the input it was trained on"),
        sa.Column("n_items", sa.Integer(), nullable=False, comment="items of that input"),
        sa.Column("options", sa.JSON(), nullable=False, comment="what train was given besides them"),
        sa.Column("metrics", sa.JSON(), nullable=False, comment="what train returned"),
        sa.Column(
            "sha256",
            sa.String(length=64),
            nullable=False,
            comment="hex digest of its artifact, as models.toml has it",
        ),
        sa.Column("form", sa.Text(), nullable=False, comment="file; or folder, whose parts make a tar"),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False, comment="bytes of its parts"),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="when its training ended"),
        sa.Column(
            "promoted_at",
            UtcDateTime(),
            nullable=True,
            comment="when it was first promoted: from then on it is served",
        ),
        sa.Column(
            "removed_at", UtcDateTime(), nullable=True, comment="when it was removed, and its parts deleted"
        ),
        sa.CheckConstraint("form IN ('file', 'folder')", name=op.f("model_versions_form_known")),
        sa.PrimaryKeyConstraint("model", "version", name=op.f("model_versions_pkey")),
        sa.UniqueConstraint("job_id", name=op.f("model_versions_job_id_key")),
        comment="Versions of models that train jobs made, and where each came from. Rows are never deleted.",
    )
    op.create_table(
        "artifact_parts",
        sa.Column("model", sa.Text(), nullable=False, comment="the model's name"),
        sa.Column("version", sa.Text(), nullable=False, comment="its version"),
        sa.Column("seq", sa.Integer(), nullable=False, comment="0, 1, 2 … within the artifact"),
        sa.Column("content", sa.LargeBinary(), nullable=False, comment="the next bytes of it"),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["model_versions.model", "model_versions.version"],
            name=op.f("artifact_parts_model_version_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("model", "version", "seq", name=op.f("artifact_parts_pkey")),
        comment="The artifacts of trained versions, a megabyte a row.",
    )
    if op.get_bind().dialect.name == "postgresql":  # weights do not compress, and trying costs seconds
        op.execute("ALTER TABLE artifact_parts ALTER COLUMN content SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.drop_table("artifact_parts")
    op.drop_table("model_versions")
    op.drop_column("jobs", "options")
    _comment(AFTER, BEFORE)


def _comment(before: str, after: str) -> None:
    if op.get_bind().dialect.supports_comments:
        op.alter_column(
            "chunks",
            "queue",
            existing_type=sa.Text(),
            existing_nullable=False,
            existing_comment=before,
            comment=after,
        )
