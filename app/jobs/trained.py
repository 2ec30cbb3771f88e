"""Trained versions, as train jobs make them. What becomes of them then: `app.versions.trained`."""

from collections.abc import Collection

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from app.columns import utc_now
from app.db import take_turns
from app.jobs.claims import Trained
from app.jobs.ledger import tell
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
    # By models, so that locks are taken in one order.
    for result in sorted(results, key=lambda each: jobs[each.claim.job_id].model):
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


def _next_version(session: Session, model: str) -> str:
    """The name of the model's next version. Two trainings of it that end at once wait here for each other."""
    take_turns(session, f"model_versions {model}")
    n_versions = session.scalars(select(func.count()).where(ModelVersion.model == model)).one()
    return f"t{n_versions + 1}"
