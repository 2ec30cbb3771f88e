"""What became of a chunk: the task boundary, where any exception of a task ends as the chunk's own story."""

from concurrent.futures import Future
from dataclasses import replace

import structlog

from app.errors import ServingError, named
from app.jobs.claims import TRANSIENT, Broken, Claim, Done, Failed, Trained
from app.models.contract import ContractError
from app.tasks.kinds import TaskAnswer
from app.tasks.predict import TransientFailure
from app.tasks.train import TrainingAnswer

log = structlog.get_logger(__name__)


class WorkerLost(Exception):
    """The process that ran a chunk died, wherever it was."""


def result_of(future: Future[TaskAnswer], claim: Claim) -> Done | Trained | Failed | Broken:
    """The result of a chunk, or why there is none."""
    error = future.exception()
    match error:
        case None:
            answer = future.result()
            if isinstance(answer, TrainingAnswer):
                return Trained(claim, answer.artifact, answer.metrics)
            failures = [replace(failure, message=storable(failure.message)) for failure in answer.failures]
            return Done(
                claim,
                answer.items,
                answer.columns,
                failures,
                is_whole=answer.is_whole,
                written=answer.written,
                n_cached=answer.n_cached,
                new=answer.new,
            )
        case TransientFailure():
            return Broken(claim, TRANSIENT, storable(error.reason))
        case TimeoutError():
            return Broken(claim, "timed_out", "predict took longer than chunk_timeout_seconds")
        case WorkerLost():
            return Broken(claim, "runner_crashed", storable(str(error)))
        case MemoryError():
            return Broken(claim, "runner_crashed", "out of memory")
        case ServingError():
            log.error("chunk_failed", job_id=claim.job_id, first_item=claim.first_item, error=error.detail)
            return Failed(claim, storable(error.detail))
        case _:
            log.error("chunk_failed", job_id=claim.job_id, first_item=claim.first_item, exc_info=error)
            reason = str(error) if isinstance(error, ContractError) else named(error)
            return Failed(claim, storable(reason))


def storable(message: str) -> str:
    """What user code said, with escapes for what is no UTF-8 and for NUL, which Postgres keeps in no text."""
    return message.replace("\0", "\\x00").encode(errors="backslashreplace").decode()
