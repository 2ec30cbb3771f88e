"""The books of a job: its counters, its end and its story, always in step with its chunks."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

from sqlalchemy.orm import Session

from app.jobs import statements
from app.jobs.claims import Done, Failed, Trained
from app.jobs.states import PRIORITY_STEP_SECONDS
from app.tables import TERMINAL_JOB_STATES, JobKind, JobState

PROGRESS = "progress"
"""The event of a training that tells how far it is."""


def count(session: Session, results: Iterable[Done | Trained | Failed]) -> list[tuple[str, str]]:
    """Counts ended chunks into their jobs: a job that is through ends, another gets as many of its next chunks.

    Those are queued behind all that is queued already: so small jobs pass big ones. Returns the jobs to give up,
    with why: those that have more item errors than they allow.
    """
    tallies: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: dict[str, str] = {}
    for result in results:
        claim = result.claim
        n_succeeded = claim.n_items - result.n_errored
        tallies[claim.job_id].update(
            chunks=1, succeeded=n_succeeded, errored=result.n_errored, cached=result.n_cached
        )
        if isinstance(result, Failed) and claim.kind is JobKind.TRAIN:
            reasons[claim.job_id] = result.reason  # it has this one chunk
    if not tallies:
        return []
    connection = session.connection()
    # One after the other, by id: two runners that end chunks of the same jobs must lock them in one order.
    connection.execute(
        statements.COUNT_ENDED_ITEMS,
        [
            {
                "job_id": job_id,
                **{name: tally[name] for name in ("succeeded", "errored", "cached")},
                "reason": reasons.get(job_id),
            }
            for job_id, tally in sorted(tallies.items())
        ],
    )
    jobs = connection.execute(statements.JOBS, {"job_ids": list(tallies)}).all()
    tell_finished(session, [(job.id, job.status) for job in jobs])
    going_on = [job for job in jobs if job.status == JobState.RUNNING]
    queue_pending(
        session,
        [(job.id, job.priority, tallies[job.id]["chunks"]) for job in going_on if job.error is None],
    )
    return [(job.id, job.error) for job in going_on if job.error is not None]


def queue_pending(session: Session, jobs: Collection[tuple[str, int, int]]) -> None:
    """Queues the next pending chunks of jobs, given as (id, priority, how many chunks)."""
    if jobs:
        session.connection().execute(
            statements.QUEUE_PENDING_CHUNKS,
            [
                {
                    "the_job_id": job_id,
                    "n_chunks": n_chunks,
                    "seconds_later": priority * PRIORITY_STEP_SECONDS,
                }
                for job_id, priority, n_chunks in jobs
            ],
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
    rows = [
        {
            "job_id": job_id,
            "event": event,
            "first_item": first_item,
            "runner_id": runner_id,
            "detail": detail,
        }
        for job_id in job_ids
    ]
    session.connection().execute(statements.ADD_EVENT, rows)
