"""Child processes of the runner, each with models of its own."""

import multiprocessing
from concurrent.futures import Future
from pathlib import Path

from pebble import ProcessPool

from app.cache.recall import Recall
from app.jobs.claims import Claim
from app.models.declarations import read_declarations
from app.models.registry import Registry
from app.models.served import ServedModel
from app.tasks.predict import ChunkAnswer, Stopwatch, predict_chunk


class ProcessExecutor:
    """Child processes, for models that hold the GIL or crash natively: a child that dies costs its chunk's attempt.

    Each child loads every model for itself. Spawned, not forked: the runner has threads, whose locks a fork copies.
    """

    ends_hung_chunks = True
    dies_alone = True

    def __init__(self, models_file: Path, artifact_cache: Path, processes: int) -> None:
        self._processes = processes
        self._pool = ProcessPool(
            max_workers=processes,
            initializer=_load_in_child,
            initargs=[models_file, artifact_cache],
            context=multiprocessing.get_context("spawn"),
        )

    def slots(self, served: ServedModel) -> int:
        return self._processes

    def submit(self, served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> Future[ChunkAnswer]:
        declared = served.declaration
        future: Future[ChunkAnswer] = self._pool.schedule(
            _in_child,
            args=[declared.name, declared.version, claim.payload, claim.recall],
            timeout=declared.chunk_timeout_seconds,
        )
        return future

    def shutdown(self) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]  # pebble types its public calls, and not this one


_models: Registry  # of a child process


def _load_in_child(models_file: Path, artifact_cache: Path) -> None:
    """Loads the models before the child takes its first chunk, so that a chunk's time is its own."""
    global _models
    _models = Registry(read_declarations(models_file), artifact_cache)
    for served in _models.models():
        served.wait_ready()


def _in_child(name: str, version: str, payload: bytes, recall: Recall | None) -> ChunkAnswer:
    return predict_chunk(_models.get(name, version), payload, recall=recall)
