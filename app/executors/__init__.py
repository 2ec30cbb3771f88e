"""Executors: where chunks run. All take a chunk's bytes and give its answer, and none of them touches SQL."""

import os
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Protocol

from app.config import Settings
from app.data.objects import Storage
from app.executors.processes import ProcessExecutor
from app.executors.threads import ThreadExecutor
from app.jobs.claims import Claim
from app.models.registry import Registry
from app.models.served import ServedModel
from app.tasks.kinds import Means, TaskAnswer
from app.tasks.predict import Stopwatch


class ChunkExecutor(Protocol):
    """What a runner asks of an executor."""

    ends_hung_chunks: bool
    """Whether a chunk that takes too long is ended here; if not, only the end of the process ends it."""
    dies_alone: bool
    """Whether a chunk that kills the process which runs it takes no other chunk with it."""

    def slots(self, served: ServedModel) -> int:
        """How many chunks of a model run at once."""
        ...

    def submit(self, served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> Future[TaskAnswer]:
        """Has a chunk run; `stopwatch` then tells for how long, unless `ends_hung_chunks` watches that itself."""
        ...

    def interlude(self) -> AbstractContextManager[None]:
        """A block for which no chunk runs in this process, if that can be had within a few hundredths of a second."""
        ...

    def shutdown(self) -> None:
        """Takes no more and waits for nothing."""
        ...


def make_executor(settings: Settings, registry: Registry) -> ChunkExecutor:
    """The executor that `TWOFOLD_EXECUTOR` names, for the models of a registry.

    `ConfigurationError` for `TWOFOLD_STORAGE_PREFIXES` that are none.
    """
    means = Means(Storage.of(settings.storage_prefixes), settings.max_artifact_bytes)
    if settings.executor == "process":
        processes = min(settings.runner_threads, os.cpu_count() or 1)
        return ProcessExecutor(registry, settings, processes, means)
    if settings.executor.startswith("dask://"):
        from app.executors.dask import DaskExecutor  # an extra

        return DaskExecutor(settings.executor, settings.artifact_cache, means)
    return ThreadExecutor(settings.runner_threads, means)
