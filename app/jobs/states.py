"""The decisions of a job's life, apart from the statements that carry them out."""

from typing import Any

from sqlalchemy import ColumnElement, Text, case, cast

from app.columns import utc_now
from app.tables import Job, JobKind, JobState

PRIORITY_STEP_SECONDS = 600.0
"""What one step of priority is worth. A job of priority +1 goes after the jobs of the next ten minutes, and
then before all later ones: priority ages, so nothing starves."""

BACKLOG_STEP_SECONDS = 1.0
"""How much later a chunk comes for each chunk that its owner has waiting already."""


def queue_of(model: str, version: str, kind: JobKind = JobKind.PREDICT) -> str:
    """The queue of a model version: a runner claims from the queues of the models it has.

    Trainings have one of their own, so that predictions of the same model do not wait behind them.
    """
    return f"{model}@{version}" if kind is JobKind.PREDICT else f"{kind}:{model}@{version}"


def version_of(queue: str) -> tuple[str, str]:
    """The name and version of the model that a queue is of."""
    model, _, version = queue.partition("@")
    return model, version


def counted(
    succeeded: ColumnElement[int],
    errored: ColumnElement[int],
    canceled: ColumnElement[int],
    otherwise: Any,
    reason: ColumnElement[Any] | None = None,
) -> dict[str, Any]:
    """The columns of a job to set when so many more of its items have ended.

    When with these every item has ended, so has the job: then its status tells how, else it is `otherwise`. A job that
    has more item errors than it allows gets an `error` that says so, unless it was canceled before; `reason`, if it
    is not null, is the `error` of a job that failed as a whole.
    """
    job = Job.__table__.c
    n_succeeded = job.n_succeeded + succeeded
    n_errored = job.n_errored + errored
    n_canceled = job.n_canceled + canceled
    has_ended = n_succeeded + n_errored + n_canceled == job.n_items
    error = case(
        (job.error.is_not(None) | (n_canceled > 0), job.error),
        *([] if reason is None else [(reason.is_not(None), reason)]),
        (
            n_errored > job.max_errors,
            cast(n_errored, Text) + " items failed, and max_errors is " + cast(job.max_errors, Text),
        ),
    )
    outcome = case(
        (error.is_not(None), JobState.FAILED.value),
        ((n_canceled > 0) & (job.expires_at <= utc_now()), JobState.EXPIRED.value),
        (n_canceled > 0, JobState.CANCELED.value),
        (n_errored == 0, JobState.SUCCEEDED.value),
        (n_succeeded == 0, JobState.FAILED.value),
        else_=JobState.PARTIAL.value,
    )
    return {
        "n_succeeded": n_succeeded,
        "n_errored": n_errored,
        "n_canceled": n_canceled,
        "status": case((has_ended, outcome), else_=otherwise),
        "finished_at": case((has_ended, utc_now()), else_=None),
        "error": error,
    }


def patience_seconds(priority: int, backlog: int) -> float:
    """How much later than it is ready a chunk stands in its queue, by its job's priority and its owner's backlog."""
    return priority * PRIORITY_STEP_SECONDS + backlog * BACKLOG_STEP_SECONDS
