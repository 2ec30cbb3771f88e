"""Executors: where chunks run. All take a chunk's bytes and give its answer, and none of them touches SQL."""

import multiprocessing
import os
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import structlog
from pebble import ProcessExpired, ProcessPool

from app.config import Settings
from app.errors import ServingError
from app.jobs.claims import TRANSIENT, Broken, Claim, Done, Failed
from app.models.declarations import read_declarations
from app.models.registry import Registry
from app.models.served import ServedModel
from app.tasks.predict import ChunkAnswer, Stopwatch, TransientFailure, predict_chunk

log = structlog.get_logger(__name__)


class ChunkExecutor(Protocol):
    """What a runner asks of an executor."""

    ends_hung_chunks: bool
    """Whether a chunk that takes too long is ended here; if not, only the end of the process ends it."""

    def slots(self, served: ServedModel) -> int:
        """How many chunks of a model run at once."""
        ...

    def submit(self, served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> Future[ChunkAnswer]:
        """Has a chunk run; `stopwatch` then tells for how long, unless `ends_hung_chunks` watches that itself."""
        ...

    def shutdown(self) -> None:
        """Takes no more and waits for nothing."""
        ...


def make_executor(settings: Settings) -> ChunkExecutor:
    """The executor that `TWOFOLD_EXECUTOR` names."""
    if settings.executor == "process":
        processes = min(settings.runner_threads, os.cpu_count() or 1)
        return ProcessExecutor(settings.models_file, settings.artifact_cache, processes)
    return ThreadExecutor(settings.runner_threads)


def result_of(future: Future[ChunkAnswer], claim: Claim) -> Done | Failed | Broken:
    """What became of a chunk: the task boundary, where any exception of a task ends as the chunk's own story."""
    error = future.exception()
    match error:
        case None:
            answer = future.result()
            failures = [replace(failure, message=storable(failure.message)) for failure in answer.failures]
            return Done(claim, answer.items, answer.columns, failures)
        case TransientFailure():
            return Broken(claim, TRANSIENT, storable(error.reason))
        case FutureTimeout():
            return Broken(claim, "timed_out", "predict took longer than chunk_timeout_seconds")
        case ProcessExpired():
            return Broken(
                claim, "runner_crashed", f"the process that ran it died (exit code {error.exitcode})"
            )
        case MemoryError():
            return Broken(claim, "runner_crashed", "out of memory")
        case _:
            log.error("chunk_failed", job_id=claim.job_id, first_item=claim.first_item, exc_info=error)
            reason = error.detail if isinstance(error, ServingError) else f"{type(error).__name__}: {error}"
            return Failed(claim, storable(reason))


def storable(message: str) -> str:
    """What user code said, with escapes for what is no UTF-8 and for NUL, which Postgres keeps in no text."""
    return message.replace("\0", "\\x00").encode(errors="backslashreplace").decode()


class ThreadExecutor:
    """Threads of the runner: the models are loaded once, in its own process.

    Each model has as many threads as may be in its `predict` at once. More would only wait for those, and take the
    interpreter from them to parse and to encode.
    """

    ends_hung_chunks = False

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pools: dict[ServedModel, ThreadPoolExecutor] = {}

    def slots(self, served: ServedModel) -> int:
        return min(served.declaration.concurrency, self._threads)

    def submit(self, served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> Future[ChunkAnswer]:
        if served not in self._pools:
            self._pools[served] = ThreadPoolExecutor(self.slots(served), thread_name_prefix="chunk")
        return self._pools[served].submit(_in_thread, served, claim, stopwatch)

    def shutdown(self) -> None:
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)


class ProcessExecutor:
    """Child processes, for models that hold the GIL or crash natively: a child that dies costs its chunk's attempt.

    Each child loads every model for itself. Spawned, not forked: the runner has threads, whose locks a fork copies.
    """

    ends_hung_chunks = True

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
            args=[declared.name, declared.version, claim.payload],
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


def _in_child(name: str, version: str, payload: bytes) -> ChunkAnswer:
    return predict_chunk(_models.get(name, version), payload)


def _in_thread(served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> ChunkAnswer:
    with structlog.contextvars.bound_contextvars(job_id=claim.job_id, first_item=claim.first_item):
        return predict_chunk(served, claim.payload, stopwatch)
