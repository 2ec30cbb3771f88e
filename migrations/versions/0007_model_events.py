"""Reloads and promotions of models, as every process is told of them.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

from app.columns import BigSerial, UtcDateTime

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "model_events",
        sa.Column("id", BigSerial, nullable=False, comment="counts up"),
        sa.Column("at", UtcDateTime(), nullable=False, comment="when, by the database's clock"),
        sa.Column("kind", sa.Text(), nullable=False, comment="reloaded: read models.toml again; or promoted"),
        sa.Column("model", sa.Text(), nullable=True, comment="whose default moved, if it is a promotion"),
        sa.Column("version", sa.Text(), nullable=True, comment="the new default, if it is a promotion"),
        sa.CheckConstraint("kind IN ('reloaded', 'promoted')", name=op.f("model_events_kind_known")),
        sa.CheckConstraint(
            "(kind = 'promoted') = (model IS NOT NULL AND version IS NOT NULL)",
            name=op.f("model_events_promoted_names_a_version"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("model_events_pkey")),
        comment="What every process is told about the models, in order; the last promotion of a model holds.",
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("model_events")
