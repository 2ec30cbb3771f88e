"""Kinds: which task the chunks of a kind of job are given to, wherever they run."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.data.objects import Storage
from app.jobs.claims import Claim
from app.models.declarations import Declaration
from app.models.served import ServedModel
from app.tables import JobKind
from app.tasks.answers import ChunkAnswer
from app.tasks.chunk import answer_chunk
from app.tasks.predict import Stopwatch, predict_chunks
from app.tasks.train import TrainingAnswer, train_chunk

TaskAnswer = ChunkAnswer | TrainingAnswer


@dataclass(frozen=True, slots=True)
class Means:
    """What tasks may use besides their model. Plain values, to be sent to other processes."""

    storage: Storage
    max_artifact_bytes: int


def limit_seconds(declaration: Declaration, kind: JobKind) -> float | None:
    """How long a chunk may take; None for any time, which a training has."""
    return declaration.chunk_timeout_seconds if kind is JobKind.PREDICT else None


def perform(
    served: ServedModel, claim: Claim, means: Means, stopwatch: Stopwatch | None = None
) -> TaskAnswer:
    """Runs a claimed chunk; raises what its task raises."""
    if claim.kind is JobKind.TRAIN:
        return train_chunk(served, claim.payload, claim.options, means.max_artifact_bytes, stopwatch)
    return answer_chunk(served, claim, means.storage, stopwatch)


def perform_together(
    served: ServedModel, claims: Sequence[Claim], means: Means, stopwatches: Sequence[Stopwatch] = ()
) -> list[TaskAnswer]:
    """Runs claimed chunks: any one, as `perform` does, or several whose items are here and whose answers come back, all
    of them in one call of their model.

    Of several it raises what `predict_chunks` does; `perform` then tells which of them is at fault.
    """
    if len(claims) == 1:
        return [perform(served, claims[0], means, *stopwatches)]
    return [*predict_chunks(served, [claim.payload for claim in claims], stopwatches)]
