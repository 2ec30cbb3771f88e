"""Inputs may stay where they are, in an object store, and outputs may go there.

Going back deletes what only an object has: such inputs lose their chunks, such jobs their outputs.

Revision ID: 0009
Revises: 0008
"""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op
from alembic.operations import BatchOperations

from app.columns import Payload, UtcDateTime

revision = "0009"
down_revision = "0008"

HAS_OUTPUT_URL = sa.text("output_url IS NOT NULL")
IS_UNLISTED = sa.text("output_url IS NOT NULL AND manifest_at IS NULL")
# The comments of `items`, before and after.
INPUT_ITEMS = (
    "a JSON array of items, one item per line",
    "a JSON array of items, one item per line; null: they are in an object",
)
OUTPUT_ITEMS = (
    "a JSON array of item + prediction, one per line; null where the item failed",
    "a JSON array of item + prediction, one per line; null where the item failed, or all in an object",
)


def upgrade() -> None:
    op.add_column(
        "inputs",
        sa.Column(
            "url", sa.Text(), nullable=True, comment="the object in which its items stay; null: uploaded"
        ),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "output_url",
            sa.Text(),
            nullable=True,
            comment="the folder of objects that its outputs go to; null: to outputs",
        ),
    )
    op.add_column(
        "jobs",
        sa.Column(
            "manifest_at",
            UtcDateTime(),
            nullable=True,
            comment="when the manifest of that folder was written",
        ),
    )
    op.create_index(
        "jobs_output_url",
        "jobs",
        ["output_url"],
        unique=True,
        sqlite_where=HAS_OUTPUT_URL,
        postgresql_where=HAS_OUTPUT_URL,
    )
    op.create_index(
        "jobs_unlisted", "jobs", ["finished_at"], sqlite_where=IS_UNLISTED, postgresql_where=IS_UNLISTED
    )
    with _views_away():
        with op.batch_alter_table("input_chunks") as table:
            _let_be_null(table, INPUT_ITEMS)
            table.add_column(
                sa.Column("url", sa.Text(), nullable=True, comment="the object that they are in")
            )
            table.add_column(
                sa.Column("byte_offset", sa.BigInteger(), nullable=True, comment="where in it they begin")
            )
            table.add_column(
                sa.Column("n_bytes", sa.BigInteger(), nullable=True, comment="how many bytes from there on")
            )
            table.add_column(
                sa.Column(
                    "header_bytes",
                    sa.Integer(),
                    nullable=True,
                    comment="a CSV's header, from its start; null: NDJSON",
                )
            )
            table.add_column(
                sa.Column(
                    "sha256", sa.String(64), nullable=True, comment="hex digest of header and items there"
                )
            )
            table.create_check_constraint(
                op.f("input_chunks_items_or_place"),
                "(items IS NULL) = "
                "(url IS NOT NULL AND byte_offset IS NOT NULL AND n_bytes IS NOT NULL AND sha256 IS NOT NULL)",
            )
        with op.batch_alter_table("outputs") as table:
            _let_be_null(table, OUTPUT_ITEMS)
            table.add_column(
                sa.Column(
                    "object",
                    sa.Text(),
                    nullable=True,
                    comment="its name in the job's output_url: item + prediction, one per line",
                )
            )
            table.add_column(
                sa.Column("n_bytes", sa.BigInteger(), nullable=True, comment="bytes of the object")
            )
            table.add_column(
                sa.Column("sha256", sa.String(64), nullable=True, comment="hex digest of the object")
            )
            table.create_check_constraint(
                op.f("outputs_items_or_object"),
                "(items IS NULL) = (object IS NOT NULL AND n_bytes IS NOT NULL AND sha256 IS NOT NULL)",
            )


def downgrade() -> None:
    op.execute("DELETE FROM outputs WHERE items IS NULL")
    op.execute("DELETE FROM input_chunks WHERE items IS NULL")
    with _views_away():
        with op.batch_alter_table("outputs") as table:
            table.drop_constraint(op.f("outputs_items_or_object"), type_="check")
            for column in ("sha256", "n_bytes", "object"):
                table.drop_column(column)
            _forbid_null(table, OUTPUT_ITEMS)
        with op.batch_alter_table("input_chunks") as table:
            table.drop_constraint(op.f("input_chunks_items_or_place"), type_="check")
            for column in ("sha256", "header_bytes", "n_bytes", "byte_offset", "url"):
                table.drop_column(column)
            _forbid_null(table, INPUT_ITEMS)
    op.drop_index("jobs_unlisted", "jobs", sqlite_where=IS_UNLISTED, postgresql_where=IS_UNLISTED)
    op.drop_index("jobs_output_url", "jobs", sqlite_where=HAS_OUTPUT_URL, postgresql_where=HAS_OUTPUT_URL)
    op.drop_column("jobs", "manifest_at")
    op.drop_column("jobs", "output_url")
    op.drop_column("inputs", "url")


def _let_be_null(table: BatchOperations, comments: tuple[str, str]) -> None:
    before, after = comments
    table.alter_column(
        "items",
        existing_type=Payload(),
        existing_nullable=False,
        nullable=True,
        existing_comment=before,
        comment=after,
    )


def _forbid_null(table: BatchOperations, comments: tuple[str, str]) -> None:
    before, after = comments
    table.alter_column(
        "items",
        existing_type=Payload(),
        existing_nullable=True,
        nullable=False,
        existing_comment=after,
        comment=before,
    )


@contextmanager
def _views_away() -> Iterator[None]:
    """SQLite changes such tables by building them anew, and would miss them in the views meanwhile."""
    database = op.get_bind()
    if database.dialect.name != "sqlite":
        yield
        return
    views = database.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'view'")).all()
    for view in views:
        op.execute(f"DROP VIEW {view.name}")
    yield
    for view in views:
        op.execute(view.sql)
