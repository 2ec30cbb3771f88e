"""Threads of the runner, which share its models."""

from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from app.data.objects import Storage
from app.jobs.claims import Claim
from app.models.served import ServedModel
from app.tasks.chunk import answer_chunk
from app.tasks.predict import ChunkAnswer, Stopwatch


class ThreadExecutor:
    """Threads of the runner: the models are loaded once, in its own process.

    Each model has as many threads as may be in its `predict` at once. More would only wait for those, and take the
    interpreter from them to parse and to encode. Chunks that wait for a store have threads of their own.
    """

    ends_hung_chunks = False
    dies_alone = False

    def __init__(self, threads: int, storage: Storage) -> None:
        self._threads = threads
        self._storage = storage
        self._pools: dict[ServedModel, ThreadPoolExecutor] = {}
        self._stored = ThreadPoolExecutor(threads, thread_name_prefix="stored")

    def slots(self, served: ServedModel) -> int:
        return min(served.declaration.concurrency, self._threads)

    def submit(self, served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> Future[ChunkAnswer]:
        return self._pool(served, claim).submit(_in_thread, served, claim, self._storage, stopwatch)

    def shutdown(self) -> None:
        for pool in (*self._pools.values(), self._stored):
            pool.shutdown(wait=False, cancel_futures=True)

    def _pool(self, served: ServedModel, claim: Claim) -> ThreadPoolExecutor:
        if claim.source is not None or claim.output_url is not None:
            return self._stored
        if served not in self._pools:
            self._pools[served] = ThreadPoolExecutor(self.slots(served), thread_name_prefix="chunk")
        return self._pools[served]


def _in_thread(served: ServedModel, claim: Claim, storage: Storage, stopwatch: Stopwatch) -> ChunkAnswer:
    with structlog.contextvars.bound_contextvars(job_id=claim.job_id, first_item=claim.first_item):
        return answer_chunk(served, claim, storage, stopwatch)
