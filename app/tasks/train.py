"""The task of a `train` job: new weights, made of all items of an input at once."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.data import exact
from app.errors import Invalid, ModelFailed
from app.models import JsonObject, training
from app.models.packing import PackedArtifact, pack
from app.models.schemas import Refusals
from app.models.served import ServedModel
from app.tasks.predict import Stopwatch, raise_if_transient, sentence

SHOWN_REFUSALS = 5


@dataclass(frozen=True, slots=True)
class TrainingAnswer:
    """What a training made: the artifact, and its metrics as JSON has them."""

    artifact: PackedArtifact
    metrics: JsonObject


def train_chunk(
    served: ServedModel,
    payload: bytes,
    options: Mapping[str, Any],
    max_artifact_bytes: int,
    stopwatch: Stopwatch | None = None,
) -> TrainingAnswer:
    """Trains the model's class on all items.

    `Invalid` if its schema refuses any of them: a model that was trained on the rest would be wrong, and nobody would
    see it. Raises what `predict_chunk` raises if the class does; `ArtifactError` if it wrote none that can be kept.
    """
    report = None if stopwatch is None else stopwatch.report
    loaded, refused = training.validate(served, exact.loads(payload))
    if refused:
        raise Invalid(_told(served, refused, len(loaded) + len(refused)))
    with tempfile.TemporaryDirectory(prefix="twofold-train-") as folder:
        artifact = Path(folder) / "artifact"
        try:
            metrics = training.train(served, loaded, artifact, options, report)
        except ModelFailed as error:
            raise_if_transient(error)
            raise
        return TrainingAnswer(pack(artifact, max_artifact_bytes), _as_json(served, metrics))


def _told(served: ServedModel, refused: Refusals, n_items: int) -> str:
    first = [f"item {place} {sentence(refused[place])}" for place in sorted(refused)[:SHOWN_REFUSALS]]
    more = "; …" if len(refused) > SHOWN_REFUSALS else ""
    return f"{len(refused)} of {n_items} items do not fit {served}, so it was not trained: {'; '.join(first)}{more}"


def _as_json(served: ServedModel, metrics: JsonObject) -> JsonObject:
    try:
        written: JsonObject = exact.loads(exact.dumps(metrics))
    except (TypeError, ValueError) as error:
        raise ModelFailed(f"{served}: train returned metrics that are not JSON: {error}") from error
    return written
