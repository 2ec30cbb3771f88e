"""Threads of the runner, which share its models."""

from concurrent.futures import Future, ThreadPoolExecutor
from weakref import WeakKeyDictionary

import structlog

from app.jobs.claims import Claim
from app.models.served import ServedModel
from app.tables import JobKind
from app.tasks.kinds import TaskAnswer, perform
from app.tasks.predict import Stopwatch


class ThreadExecutor:
    """Threads of the runner: the models are loaded once, in its own process.

    Each model has as many threads as may be in its `predict` at once. More would only wait for those, and take the
    interpreter from them to parse and to encode. One more trains it.
    """

    ends_hung_chunks = False
    dies_alone = False

    def __init__(self, threads: int, max_artifact_bytes: int) -> None:
        self._threads = threads
        self._max_artifact_bytes = max_artifact_bytes
        self._pools: WeakKeyDictionary[ServedModel, dict[JobKind, ThreadPoolExecutor]] = WeakKeyDictionary()
        """The threads of a model that nobody has any more end with it."""

    def slots(self, served: ServedModel) -> int:
        return min(served.declaration.concurrency, self._threads)

    def submit(self, served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> Future[TaskAnswer]:
        pools = self._pools.setdefault(served, {})
        if claim.kind not in pools:
            n_threads = 1 if claim.kind is JobKind.TRAIN else self.slots(served)
            pools[claim.kind] = ThreadPoolExecutor(n_threads, thread_name_prefix="chunk")
        return pools[claim.kind].submit(_in_thread, served, claim, self._max_artifact_bytes, stopwatch)

    def shutdown(self) -> None:
        for pool in [pool for pools in self._pools.values() for pool in pools.values()]:
            pool.shutdown(wait=False, cancel_futures=True)


def _in_thread(
    served: ServedModel, claim: Claim, max_artifact_bytes: int, stopwatch: Stopwatch
) -> TaskAnswer:
    with structlog.contextvars.bound_contextvars(job_id=claim.job_id, first_item=claim.first_item):
        return perform(served, claim, max_artifact_bytes, stopwatch)
