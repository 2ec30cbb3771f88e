"""Trained versions: what train jobs made of models, kept with their artifacts.

Verbs take a session of a writing transaction and leave the commit to its caller; the others take a reading one.
"""

from collections.abc import Collection, Iterator, Sequence

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from app.columns import utc_now
from app.db import Database
from app.errors import Conflict, Gone, NotFound
from app.jobs.claims import Trained
from app.jobs.ledger import UNSYNCHRONIZED, tell
from app.tables import ArtifactPart, Job, ModelVersion


def keep(session: Session, results: Collection[Trained]) -> None:
    """Makes a version of each training that has just ended, in the transaction that ends its chunk."""
    jobs = {
        job.id: job
        for job in session.execute(
            select(Job.id, Job.model, Job.version, Job.input_id, Job.n_items, Job.options).where(
                Job.id.in_([result.claim.job_id for result in results])
            )
        )
    }
    for result in sorted(
        results, key=lambda each: jobs[each.claim.job_id].model
    ):  # locks are taken in one order
        job = jobs[result.claim.job_id]
        version = _next_version(session, job.model)
        parent = session.get(ModelVersion, (job.model, job.version))
        session.execute(
            insert(ModelVersion).values(
                model=job.model,
                version=version,
                parent=job.version,
                entry=parent.entry if parent else job.version,
                job_id=job.id,
                input_id=job.input_id,
                n_items=job.n_items,
                options=job.options or {},
                metrics=result.metrics,
                sha256=result.artifact.sha256,
                form=result.artifact.form,
                n_bytes=result.artifact.n_bytes,
                created_at=utc_now(),
            )
        )
        parts = [
            {"model": job.model, "version": version, "seq": seq, "content": content}
            for seq, content in enumerate(result.artifact.parts)
        ]
        if parts:
            session.execute(insert(ArtifactPart), parts)
        tell(session, [job.id], "trained", detail=f"{job.model} {version}")


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
    """Deletes a version's artifact. What is known of it stays, so that its name never comes again."""
    _kept(session, model, version)
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


def _next_version(session: Session, model: str) -> str:
    """The name of the model's next version. Two trainings of it that end at once wait here for each other."""
    if session.get_bind().dialect.name == "postgresql":  # on SQLite, writers wait for each other anyway
        session.execute(
            select(func.pg_advisory_xact_lock(func.hashtextextended(f"model_versions {model}", 0)))
        )
    n_versions = session.scalars(select(func.count()).where(ModelVersion.model == model)).one()
    return f"t{n_versions + 1}"


def _kept(session: Session, model: str, version: str) -> ModelVersion:
    row = session.get(ModelVersion, (model, version))
    if row is None:
        raise NotFound(f"no training made a version {version!r} of model {model!r}")
    if row.removed_at is not None:
        raise Gone(f"version {version} of model {model} was removed")
    return row
