"""The books of a job: its counters, its end and its story, always in step with its chunks."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

from sqlalchemy import Integer, column, insert, literal, select, update, values
from sqlalchemy.orm import Session

from app.columns import Id, utc_now
from app.jobs.claims import Done, Failed
from app.jobs.states import counted, sched_key
from app.tables import TERMINAL_JOB_STATES, Chunk, ChunkState, Job, JobEvent, JobState

UNSYNCHRONIZED = {"synchronize_session": False}
"""Sessions of the queue hold no objects that an UPDATE could make stale."""


def count(session: Session, results: Iterable[Done | Failed]) -> list[tuple[str, str]]:
    """Counts ended chunks into their jobs: a job that is through ends, another gets its next chunks.

    Returns the jobs to give up, with why: those that have more item errors than they allow.
    """
    tallies: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        n_succeeded = result.claim.n_items - result.n_errored
        tallies[result.claim.job_id].update(chunks=1, succeeded=n_succeeded, errored=result.n_errored)
    if not tallies:
        return []
    # Two runners that end chunks of the same jobs must lock them in one order.
    session.execute(
        select(Job.id).where(Job.id.in_(tallies)).order_by(Job.id).with_for_update(key_share=True)
    )
    tally = (
        values(column("job_id", Id), column("succeeded", Integer), column("errored", Integer), name="tally")
        .data([(job_id, tally["succeeded"], tally["errored"]) for job_id, tally in tallies.items()])
        .cte("tally")
    )
    jobs = session.execute(
        update(Job)
        .where(Job.id == tally.c.job_id)
        .values(**counted(tally.c.succeeded, tally.c.errored, literal(0), otherwise=Job.status))
        .returning(Job.id, Job.status, Job.priority, Job.n_errored, Job.max_errors),
        execution_options=UNSYNCHRONIZED,
    ).all()
    tell_finished(session, [(job.id, job.status) for job in jobs])
    hopeless = []
    for job in jobs:
        if job.status == JobState.RUNNING:
            if job.max_errors is not None and job.n_errored > job.max_errors:
                hopeless.append((job.id, f"{job.n_errored} items failed, and max_errors is {job.max_errors}"))
            else:
                _promote(session, job.id, job.priority, tallies[job.id]["chunks"])
    return hopeless


def _promote(session: Session, job_id: str, priority: int, n_chunks: int) -> None:
    """Queues a job's next pending chunks, behind all that is queued already: so small jobs pass big ones."""
    pending = (
        select(Chunk.id)
        .where(Chunk.job_id == job_id, Chunk.status == ChunkState.PENDING)
        .order_by(Chunk.first_item)
        .limit(n_chunks)
    )
    session.execute(
        update(Chunk)
        .where(Chunk.id.in_(pending))
        .values(status=ChunkState.QUEUED, ready_at=utc_now(), sched_key=sched_key(priority, None)),
        execution_options=UNSYNCHRONIZED,
    )


def tell_finished(session: Session, jobs: Collection[tuple[str, str]]) -> None:
    """Tells the end of those of the jobs that have ended."""
    for state in TERMINAL_JOB_STATES:
        if ended := [job_id for job_id, status in jobs if status == state]:
            tell(session, ended, "finished", detail=state)


def tell(
    session: Session,
    job_ids: Iterable[str],
    event: str,
    first_item: int | None = None,
    runner_id: str | None = None,
    detail: str | None = None,
) -> None:
    """Adds a line to the stories of jobs."""
    session.execute(
        insert(JobEvent).values(
            at=utc_now(), event=event, first_item=first_item, runner_id=runner_id, detail=detail
        ),
        [{"job_id": job_id} for job_id in job_ids],
    )
