"""Inputs may have been uploaded as Parquet: say so where an admin looks.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

BEFORE = "json, ndjson or csv: how it was uploaded"
AFTER = "json, ndjson, csv or parquet: how it was uploaded"


def upgrade() -> None:
    _comment(BEFORE, AFTER)


def downgrade() -> None:
    _comment(AFTER, BEFORE)


def _comment(before: str, after: str) -> None:
    if op.get_bind().dialect.supports_comments:
        op.alter_column(
            "inputs",
            "format",
            existing_type=sa.Text(),
            existing_nullable=False,
            existing_comment=before,
            comment=after,
        )
