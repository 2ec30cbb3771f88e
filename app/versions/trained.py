"""Trained versions: what train jobs made of models, listed, served once promoted, and removed.

Verbs take a session of a writing transaction and leave the commit to its caller; what only reads takes a reading one.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import cast

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.columns import utc_now
from app.db import UNSYNCHRONIZED, Database
from app.errors import Conflict, Gone, NotFound
from app.models import packing
from app.models.artifact_cache import bring
from app.tables import ArtifactPart, Job, ModelVersion, Schedule


def list_versions(session: Session, model: str) -> Sequence[ModelVersion]:
    """The trained versions of a model that have not been removed, the first first."""
    return session.scalars(
        select(ModelVersion)
        .where(ModelVersion.model == model, ModelVersion.removed_at.is_(None))
        .order_by(ModelVersion.created_at, ModelVersion.version)
    ).all()


def served_versions(session: Session) -> Sequence[ModelVersion]:
    """Those of all models that were promoted, now or once: they are served until they are removed."""
    return session.scalars(
        select(ModelVersion)
        .where(ModelVersion.promoted_at.is_not(None), ModelVersion.removed_at.is_(None))
        .order_by(ModelVersion.model, ModelVersion.created_at, ModelVersion.version)
    ).all()


def versions_of_jobs(session: Session, job_ids: Collection[str]) -> dict[str, ModelVersion]:
    """The versions that jobs made, by the ids of the jobs."""
    rows = session.scalars(select(ModelVersion).where(ModelVersion.job_id.in_(job_ids)))
    return {row.job_id: row for row in rows}


def find(session: Session, model: str, version: str) -> ModelVersion | None:
    """The trained version, which stays until the commit; None if there is none, `Gone` if it was removed."""
    row = session.get(ModelVersion, (model, version), with_for_update=True)
    return None if row is None else _require_kept(row)


def serve(session: Session, model: str, version: str) -> None:
    """Notes that a version is served from now on; `NotFound` if there is none, `Gone` if it was removed."""
    _kept(session, model, version)
    session.execute(
        update(ModelVersion)
        .where(
            ModelVersion.model == model, ModelVersion.version == version, ModelVersion.promoted_at.is_(None)
        )
        .values(promoted_at=utc_now()),
        execution_options=UNSYNCHRONIZED,
    )


def remove(session: Session, model: str, version: str) -> None:
    """Deletes a version's artifact. What is known of it stays, so that its name never comes again.

    `Conflict` while a job or a schedule needs it.
    """
    # Locked, so that whoever needs it waits, and then sees it gone.
    session.get(ModelVersion, (model, version), with_for_update=True)
    _kept(session, model, version)
    named_by = select(Schedule.id).where(Schedule.model == model, Schedule.version == version).limit(1)
    if (schedule_id := session.scalar(named_by)) is not None:
        raise Conflict(f"version {version} of {model} is named by schedule {schedule_id}: delete that first")
    unfinished = (
        select(Job.id)
        .where(Job.model == model, Job.version == version, Job.finished_at.is_(None))
        .order_by(Job.id)
        .limit(1)
    )
    if (job_id := session.scalar(unfinished)) is not None:
        raise Conflict(
            f"version {version} of {model} is needed by job {job_id}: cancel it, or wait for its end"
        )
    session.execute(
        delete(ArtifactPart).where(ArtifactPart.model == model, ArtifactPart.version == version),
        execution_options=UNSYNCHRONIZED,
    )
    session.execute(
        update(ModelVersion)
        .where(ModelVersion.model == model, ModelVersion.version == version)
        .values(removed_at=utc_now()),
        execution_options=UNSYNCHRONIZED,
    )


def bring_artifact(database: Database, version: ModelVersion, cache: Path) -> Path:
    """The version's artifact on this host, out of the database if need be; `Gone` if it was removed meanwhile."""
    form = cast(packing.Form, version.form)
    parts = iterate_parts(database, version.model, version.version)
    return bring(version.sha256, lambda target: packing.unpack(form, parts, target), cache)


def iterate_parts(database: Database, model: str, version: str) -> Iterator[bytes]:
    """The artifact of a version, part by part, each read in a transaction of its own; `Gone` once it was removed."""
    seq = 0
    while True:
        with database.reading() as session:
            content = session.scalar(
                select(ArtifactPart.content).where(
                    ArtifactPart.model == model, ArtifactPart.version == version, ArtifactPart.seq == seq
                )
            )
            if content is None:
                _kept(session, model, version)
                return
        yield content
        seq += 1


def _kept(session: Session, model: str, version: str) -> ModelVersion:
    row = session.get(ModelVersion, (model, version))
    if row is None:
        raise NotFound(f"no training made a version {version!r} of model {model!r}")
    return _require_kept(row)


def _require_kept(row: ModelVersion) -> ModelVersion:
    if row.removed_at is not None:
        raise Gone(f"version {row.version} of model {row.model} was removed")
    return row
