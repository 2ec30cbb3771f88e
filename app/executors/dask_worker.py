"""What runs on a Dask worker: a chunk's bytes in, its answer out. It needs this code there, and the models' own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path

from distributed import Status, get_worker

from app.cache.recall import Recall
from app.models.declarations import Declaration
from app.models.registry import Registry
from app.models.served import ServedModel
from app.tasks.predict import ChunkAnswer, Stopwatch, TransientFailure, predict_chunk

LOOKS_PER_LIMIT = 10
LAST_WORD_SECONDS = 3.0
"""For telling that a chunk hangs, before the worker that says so ends."""


class ChunkHangs(Exception):
    """A chunk takes longer than its model's `chunk_timeout_seconds`."""


_lock = threading.Lock()
_loaded: dict[tuple[str, str], ServedModel] = {}


def run_chunk(
    declaration: Declaration, artifact_cache: Path, payload: bytes, recall: Recall | None
) -> ChunkAnswer:
    """Answers a chunk, as `predict_chunk` does; `ChunkHangs` if it takes too long."""
    served = _serve(declaration, artifact_cache)
    if declaration.chunk_timeout_seconds is None:
        return predict_chunk(served, payload, recall=recall)
    return _run_within(
        declaration.chunk_timeout_seconds, partial(predict_chunk, served, payload, recall=recall)
    )


def _serve(declaration: Declaration, artifact_cache: Path) -> ServedModel:
    """The model, which this process loads once; anew if it failed, or is declared differently now."""
    key = (declaration.name, declaration.version)
    with _lock:
        served = _loaded.get(key)
        if served is None or served.declaration != declaration:
            (served,) = Registry([declaration], artifact_cache).models()
            if not served.wait_ready():
                raise TransientFailure(f"{served} failed to load on a Dask worker: {served.reason}")
            _loaded[key] = served
    return served


def _run_within(limit_seconds: float, predict: Callable[..., ChunkAnswer]) -> ChunkAnswer:
    """Runs it in a thread of its own, so that this one can tell that it hangs. Waiting for a slot is no hanging."""
    future: Future[ChunkAnswer] = Future()
    stopwatch = Stopwatch()

    def run() -> None:
        try:
            future.set_result(predict(stopwatch=stopwatch))
        except BaseException as error:  # noqa: BLE001 — the future carries it to the thread that waits
            future.set_exception(error)

    threading.Thread(target=run, name="chunk", daemon=True).start()
    while not wait([future], timeout=limit_seconds / LOOKS_PER_LIMIT).done:
        if stopwatch.seconds > limit_seconds:
            _end_worker()
            raise ChunkHangs
    return future.result()


def _end_worker() -> None:
    """Ends this process, the only way to end a thread that hangs; the nanny, or a supervisor, starts another."""
    worker = get_worker()
    worker.loop.add_callback(setattr, worker, "status", Status.closing_gracefully)  # it is given nothing more
    end = partial(worker.close, nanny=False, executor_wait=False, reason="a chunk hangs in it")
    worker.loop.add_callback(worker.loop.call_later, LAST_WORD_SECONDS, end)
