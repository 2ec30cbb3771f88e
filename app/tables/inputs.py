"""Uploaded items: inputs and their chunks."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.columns import Id, Payload, UtcDateTime
from app.tables.rows import Row


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
    pruned_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="when its items went, but for those that outputs are read beside"
    )


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
