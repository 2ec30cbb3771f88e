"""States: the lives of jobs and chunks, as their columns have them."""

from enum import StrEnum


class JobKind(StrEnum):
    """What a job is: predictions for the items of its input, or a new version of the model made from them."""

    PREDICT = "predict"
    TRAIN = "train"


class JobState(StrEnum):
    """The life of a job; `docs/architecture.md` draws it."""

    RECEIVING = "receiving"
    QUEUED = "queued"
    RUNNING = "running"
    CANCELING = "canceling"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"


class ChunkState(StrEnum):
    """The life of a chunk: `pending` waits behind its job's window, `queued` may be claimed."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELED = "canceled"


TERMINAL_JOB_STATES = (
    JobState.SUCCEEDED,
    JobState.PARTIAL,
    JobState.FAILED,
    JobState.CANCELED,
    JobState.EXPIRED,
)
TERMINAL_CHUNK_STATES = (ChunkState.DONE, ChunkState.FAILED, ChunkState.CANCELED)


def one_of(column: str, states: type[StrEnum] | tuple[StrEnum, ...]) -> str:
    """The condition of a CHECK: the column has one of these."""
    return f"{column} IN ({', '.join(repr(state.value) for state in states)})"
