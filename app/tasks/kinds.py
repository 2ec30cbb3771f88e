"""Kinds: which task the chunks of a kind of job are given to, wherever they run."""

from app.jobs.claims import Claim
from app.models.served import ServedModel
from app.tables import JobKind
from app.tasks.predict import ChunkAnswer, Stopwatch, predict_chunk
from app.tasks.train import TrainingAnswer, train_chunk

TaskAnswer = ChunkAnswer | TrainingAnswer


def perform(
    served: ServedModel, claim: Claim, max_artifact_bytes: int, stopwatch: Stopwatch | None = None
) -> TaskAnswer:
    """Runs a claimed chunk; raises what its task raises."""
    if claim.kind is JobKind.TRAIN:
        return train_chunk(served, claim.payload, claim.options, max_artifact_bytes)
    return predict_chunk(served, claim.payload, stopwatch)
