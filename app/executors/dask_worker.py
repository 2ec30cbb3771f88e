"""What runs on a Dask worker: a chunk's bytes in, its answer out. It needs this code there, and the models' own."""

import faulthandler
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path

from distributed import Status, get_worker

from app.executors.loaded import load_once
from app.jobs.claims import Claim
from app.models.declarations import Declaration
from app.tasks.kinds import Means, TaskAnswer, limit_seconds, perform
from app.tasks.predict import Stopwatch, TransientFailure

LOOKS_PER_LIMIT = 10
LAST_WORD_SECONDS = 3.0
"""For telling that a chunk hangs, before the worker that says so ends."""
UNFIT_SECONDS = 5.0
"""What a worker takes to say that it cannot load a model: at once, it would be free for the next, and get most."""
_watched: set[threading.Thread] = set()
"""The threads that run chunks with a limit."""


class ChunkHangs(Exception):
    """A chunk takes longer than its model's `chunk_timeout_seconds`."""


def run_chunk(declaration: Declaration, artifact_cache: Path, claim: Claim, means: Means) -> TaskAnswer:
    """Runs a chunk, as `perform` does; `ChunkHangs` if it takes too long."""
    try:
        served = load_once(declaration, artifact_cache)
    except TransientFailure as error:
        time.sleep(UNFIT_SECONDS)
        raise TransientFailure(f"{error.reason} (on the Dask worker {get_worker().address})") from None
    task = partial(perform, served, claim, means)
    limit = limit_seconds(declaration, claim.kind)
    return task() if limit is None else _run_within(limit, task)


def _run_within(limit_seconds: float, task: Callable[[Stopwatch], TaskAnswer]) -> TaskAnswer:
    """Runs it in a thread of its own, so that this one can tell that it hangs. Waiting for a slot is no hanging."""
    future: Future[TaskAnswer] = Future()
    stopwatch = Stopwatch()

    def run() -> None:
        try:
            future.set_result(task(stopwatch))
        except BaseException as error:  # noqa: BLE001 — the future carries it to the thread that waits
            future.set_exception(error)

    # A model that keeps the interpreter keeps it from this thread, too. Then one that needs none ends the worker.
    rearm = partial(faulthandler.dump_traceback_later, 2 * limit_seconds, exit=True, file=2)
    thread = threading.Thread(target=run, name="chunk", daemon=True)
    _watched.add(thread)
    rearm()
    thread.start()
    try:
        while not wait([future], timeout=limit_seconds / LOOKS_PER_LIMIT).done:
            rearm()
            if stopwatch.seconds > limit_seconds:
                _end_worker()
                raise ChunkHangs
    finally:
        _watched.discard(thread)
        if not _watched:
            faulthandler.cancel_dump_traceback_later()
    return future.result()


def _end_worker() -> None:
    """Ends this process, the only way to end a thread that hangs; the nanny, or a supervisor, starts another."""
    worker = get_worker()
    worker.loop.add_callback(setattr, worker, "status", Status.closing_gracefully)  # it is given nothing more
    end = partial(worker.close, nanny=False, executor_wait=False, reason="a chunk hangs in it")
    worker.loop.add_callback(worker.loop.call_later, LAST_WORD_SECONDS, end)
