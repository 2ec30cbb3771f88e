"""Model versions: what was told of them, what training made, and what they have predicted before."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.columns import BigSerial, Digest, Id, Payload, UtcDateTime
from app.tables.rows import Row


class ModelEvent(Row):
    __tablename__ = "model_events"
    __table_args__ = (
        CheckConstraint("kind IN ('reloaded', 'promoted')", name="kind_known"),
        CheckConstraint(
            "(kind = 'promoted') = (model IS NOT NULL AND version IS NOT NULL)",
            name="promoted_names_a_version",
        ),
        # AUTOINCREMENT: an id that comes back would be an event that nobody notices.
        {
            "comment": "What every process is told about the models, in order; the last promotion of a model holds.",
            "sqlite_autoincrement": True,
        },
    )

    id: Mapped[int] = mapped_column(BigSerial, primary_key=True, comment="counts up")
    at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when, by the database's clock")
    kind: Mapped[str] = mapped_column(Text, comment="reloaded: read models.toml again; or promoted")
    model: Mapped[str | None] = mapped_column(Text, comment="whose default moved, if it is a promotion")
    version: Mapped[str | None] = mapped_column(Text, comment="the new default, if it is a promotion")


class ModelVersion(Row):
    __tablename__ = "model_versions"
    __table_args__ = (
        UniqueConstraint("job_id"),
        CheckConstraint("form IN ('file', 'folder')", name="form_known"),
        {
            "comment": "Versions of models that train jobs made, and where each came from. Rows are never deleted."
        },
    )

    model: Mapped[str] = mapped_column(Text, primary_key=True, comment="the model's name")
    version: Mapped[str] = mapped_column(Text, primary_key=True, comment="t1, t2, t3 … of the model")
    parent: Mapped[str] = mapped_column(Text, comment="the version whose class trained it")
    entry: Mapped[str] = mapped_column(
        Text, comment="the version in models.toml whose class and settings it has"
    )
    job_id: Mapped[str] = mapped_column(Id, comment="the job that trained it")
    input_id: Mapped[str] = mapped_column(Id, comment="the input it was trained on")
    n_items: Mapped[int] = mapped_column(Integer, comment="items of that input")
    options: Mapped[dict[str, Any]] = mapped_column(JSON, comment="what train was given besides them")
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON, comment="what train returned")
    sha256: Mapped[str] = mapped_column(
        String(64), comment="hex digest of its artifact, as models.toml has it"
    )
    form: Mapped[str] = mapped_column(Text, comment="file; or folder, whose parts make a tar")
    n_bytes: Mapped[int] = mapped_column(BigInteger, comment="bytes of its parts")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when its training ended")
    promoted_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="when it was first promoted: from then on it is served"
    )
    removed_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="when it was removed, and its parts deleted"
    )


class ArtifactPart(Row):
    __tablename__ = "artifact_parts"
    __table_args__ = (
        ForeignKeyConstraint(
            ["model", "version"], [ModelVersion.model, ModelVersion.version], ondelete="CASCADE"
        ),
        {"comment": "The artifacts of trained versions, a megabyte a row."},
    )

    model: Mapped[str] = mapped_column(Text, primary_key=True, comment="the model's name")
    version: Mapped[str] = mapped_column(Text, primary_key=True, comment="its version")
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, comment="0, 1, 2 … within the artifact")
    content: Mapped[bytes] = mapped_column(LargeBinary, comment="the next bytes of it")


class CachedPrediction(Row):
    __tablename__ = "cached_predictions"
    __table_args__ = (
        Index("cached_predictions_age", "model", "version", "created_at", "key"),
        {
            "comment": "The result cache: what model versions with `cache = true` predicted, for equal items to come."
        },
    )

    key: Mapped[str] = mapped_column(
        Digest, primary_key=True, comment="digest of the item and of what its model version is declared to be"
    )
    model: Mapped[str] = mapped_column(Text, comment="the model's name")
    version: Mapped[str] = mapped_column(Text, comment="the model's version")
    prediction: Mapped[bytes] = mapped_column(Payload, comment="what predict gave, a JSON object")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, comment="when it was predicted")
