"""Threads of the runner, which share its models."""

from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from app.jobs.claims import Claim
from app.models.served import ServedModel
from app.tasks.predict import ChunkAnswer, Stopwatch, predict_chunk


class ThreadExecutor:
    """Threads of the runner: the models are loaded once, in its own process.

    Each model has as many threads as may be in its `predict` at once. More would only wait for those, and take the
    interpreter from them to parse and to encode.
    """

    ends_hung_chunks = False
    dies_alone = False

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


def _in_thread(served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> ChunkAnswer:
    with structlog.contextvars.bound_contextvars(job_id=claim.job_id, first_item=claim.first_item):
        return predict_chunk(served, claim.payload, stopwatch, claim.recall)
