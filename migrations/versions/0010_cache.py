"""The result cache, and how many items of a job it answered.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from app.columns import UtcDateTime

revision = "0010"
down_revision = "0009"

COUNTED = ("jobs", "chunks")
COMMENT = "of those that succeeded, how many cost no call of the model"
CHECK = "CHECK (n_cached BETWEEN 0 AND n_succeeded)"


def upgrade() -> None:
    op.create_table(
        "cached_predictions",
        sa.Column(
            "key",
            sa.String(32).with_variant(postgresql.UUID(as_uuid=False), "postgresql"),
            nullable=False,
            comment="digest of the item and of what its model version is declared to be",
        ),
        sa.Column("model", sa.Text(), nullable=False, comment="the model's name"),
        sa.Column("version", sa.Text(), nullable=False, comment="the model's version"),
        sa.Column("prediction", sa.Text(), nullable=False, comment="what predict gave, a JSON object"),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="when it was predicted"),
        sa.PrimaryKeyConstraint("key", name=op.f("cached_predictions_pkey")),
        comment="The result cache: what model versions with `cache = true` predicted, for equal items to come.",
    )
    op.create_index(
        "cached_predictions_age",
        "cached_predictions",
        ["model", "version", "created_at", "key"],
        unique=False,
    )
    for table in COUNTED:
        if op.get_bind().dialect.name == "sqlite":
            # With the CHECK in the column: SQLite adds none to a table, and drops it with the column.
            op.execute(
                f"ALTER TABLE {table} ADD COLUMN n_cached INTEGER DEFAULT '0' NOT NULL"
                f" CONSTRAINT {table}_cached_succeeded {CHECK}"
            )
        else:
            op.add_column(
                table,
                sa.Column("n_cached", sa.Integer(), server_default="0", nullable=False, comment=COMMENT),
            )
            op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {table}_cached_succeeded {CHECK}")


def downgrade() -> None:
    for table in COUNTED:
        op.drop_column(table, "n_cached")
    op.drop_index("cached_predictions_age", table_name="cached_predictions")
    op.drop_table("cached_predictions")
