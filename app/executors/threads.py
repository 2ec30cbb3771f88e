"""Threads of the runner, which share its models."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import chain
from weakref import WeakKeyDictionary

import structlog

from app.executors.turns import Turns
from app.jobs.claims import Claim
from app.models.served import ServedModel
from app.tables import JobKind
from app.tasks.kinds import Means, TaskAnswer, perform
from app.tasks.predict import Stopwatch


class ThreadExecutor:
    """Threads of the runner: the models are loaded once, in its own process.

    Each model has as many threads as may be in its `predict` at once. More would only wait for those, and take the
    interpreter from them to parse and to encode. One more trains it. Chunks that wait for a store have threads of their
    own.
    """

    ends_hung_chunks = False
    dies_alone = False

    def __init__(self, threads: int, means: Means) -> None:
        self._threads = threads
        self._means = means
        self._turns = Turns()
        self._pools: WeakKeyDictionary[ServedModel, dict[JobKind, ThreadPoolExecutor]] = WeakKeyDictionary()
        """The threads of a model that nobody has any more end with it."""
        self._stored = ThreadPoolExecutor(threads, thread_name_prefix="stored")

    def slots(self, served: ServedModel) -> int:
        return min(served.declaration.concurrency, self._threads)

    def submit(self, served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> Future[TaskAnswer]:
        return self._pool(served, claim).submit(self._perform, served, claim, stopwatch)

    def interlude(self) -> AbstractContextManager[None]:
        return self._turns.interlude()

    def shutdown(self) -> None:
        for pool in (self._stored, *chain.from_iterable(pools.values() for pools in self._pools.values())):
            pool.shutdown(wait=False, cancel_futures=True)

    def _pool(self, served: ServedModel, claim: Claim) -> ThreadPoolExecutor:
        if claim.source is not None or claim.output_url is not None:
            return self._stored
        pools = self._pools.setdefault(served, {})
        if claim.kind not in pools:
            n_threads = 1 if claim.kind is JobKind.TRAIN else self.slots(served)
            pools[claim.kind] = ThreadPoolExecutor(n_threads, thread_name_prefix="chunk")
        return pools[claim.kind]

    def _perform(self, served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> TaskAnswer:
        context = structlog.contextvars.bound_contextvars(job_id=claim.job_id, first_item=claim.first_item)
        with context, self._turns.chunk():
            return perform(served, claim, self._means, stopwatch)
