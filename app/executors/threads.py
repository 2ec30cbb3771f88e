"""Threads of the runner, which share its models."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import chain
from weakref import WeakKeyDictionary

import structlog

from app.executors.backlog import Backlog, Task
from app.executors.turns import Turns
from app.jobs.claims import Claim
from app.models.served import ServedModel
from app.tables import JobKind
from app.tasks.kinds import Means, TaskAnswer, perform_together
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
        self._pools: WeakKeyDictionary[ServedModel, dict[JobKind, _Pool]] = WeakKeyDictionary()
        """The threads of a model that nobody has any more end with it."""
        self._stored = _Pool(threads, "stored", self._perform)

    def slots(self, served: ServedModel) -> int:
        return min(served.declaration.concurrency, self._threads)

    def submit(self, served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> Future[TaskAnswer]:
        task = Task(served, claim, stopwatch)
        self._pool(served, claim).put(task)
        return task.future

    def interlude(self) -> AbstractContextManager[None]:
        return self._turns.interlude()

    def shutdown(self) -> None:
        for pool in (self._stored, *chain.from_iterable(pools.values() for pools in self._pools.values())):
            pool.shutdown()

    def _pool(self, served: ServedModel, claim: Claim) -> "_Pool":
        if claim.source is not None or claim.output_url is not None:
            return self._stored
        pools = self._pools.setdefault(served, {})
        if claim.kind not in pools:
            n_threads = 1 if claim.kind is JobKind.TRAIN else self.slots(served)
            pools[claim.kind] = _Pool(n_threads, "chunk", self._perform)
        return pools[claim.kind]

    def _perform(self, tasks: list[Task]) -> list[TaskAnswer]:
        served, claims = tasks[0].served, [task.claim for task in tasks]
        context = structlog.contextvars.bound_contextvars(
            job_id=claims[0].job_id, first_item=claims[0].first_item
        )
        with context, self._turns.chunk():
            return perform_together(served, claims, self._means, [task.stopwatch for task in tasks])


class _Pool:
    """Threads that run the chunks of one backlog, as they come."""

    def __init__(self, n_threads: int, name: str, perform: Callable[[list[Task]], list[TaskAnswer]]) -> None:
        self._backlog = Backlog(n_threads)
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix=name)
        self._perform = perform

    def put(self, task: Task) -> None:
        self._backlog.put(task)
        self._threads.submit(self._run)

    def shutdown(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        """Runs what is next; nothing, if it went into its model with what was before it."""
        if not (tasks := self._backlog.take()):
            return
        began_at = time.monotonic()
        try:
            answers = self._perform(tasks)
        except BaseException as error:  # noqa: BLE001 — the future carries it to the thread that waits
            for _ in range(self._backlog.fail(tasks, error)):
                self._threads.submit(self._run)
        else:
            self._backlog.settle(tasks, answers, time.monotonic() - began_at)
        tasks.clear()  # an exception has this frame, and must not have its own future by it
