"""Postgres keeps items and answers as they are, as SQLite does: to compress them took longer than to write them.

What is there already stays compressed.

Revision ID: 0011
Revises: 0010
"""

from alembic import op

revision = "0011"
down_revision = "0010"

TABLES = ("input_chunks", "outputs")


def upgrade() -> None:
    _store("EXTERNAL")


def downgrade() -> None:
    _store("EXTENDED")


def _store(storage: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table in TABLES:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN items SET STORAGE {storage}")
