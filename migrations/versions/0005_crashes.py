"""A chunk's crashes, apart from its other attempts: only they put it on trial.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column(
        "chunks",
        sa.Column(
            "crashes",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="of these, how many ended with their process or ran out of time",
        ),
    )


def downgrade() -> None:
    op.drop_column("chunks", "crashes")
