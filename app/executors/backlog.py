"""The backlog of an executor: chunks that wait for a thread or a child, and which of them go into their model together.

A call of a model has a price beside that of its items: a pipeline of scikit-learn's takes half a millisecond for it, a
tenth of what it takes for a chunk. So of a quick model several chunks go into one call. They stay chunks: each has its
own answer, and if the call fails, each is run by itself.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import structlog

from app.errors import named
from app.jobs.claims import Claim
from app.models.declarations import Declaration
from app.models.served import ServedModel
from app.tables import JobKind
from app.tasks.kinds import TaskAnswer
from app.tasks.predict import Stopwatch

log = structlog.get_logger(__name__)

CALL_SECONDS = 0.05
"""How long a call for several chunks may take, by what the items of the last call took."""
CALL_BYTES = 1 << 19
"""Of items, what goes into such a call: half of what a chunk may have."""
ALONE_AFTERWARDS = 32
"""Chunks of a model that go alone after a call for several failed; twice as many after the next such failure."""
SHORT_OF_LIMIT = 10
"""Of the time that a chunk may take, what part a call for several may."""


@dataclass(frozen=True, slots=True)
class Task:
    """A chunk that is to run."""

    served: ServedModel
    claim: Claim
    stopwatch: Stopwatch
    is_apart: bool = False
    """Whether it is to go alone: a call that it was in has failed."""
    future: Future[TaskAnswer] = field(default_factory=Future)

    def take(self) -> bool:
        """Takes it, so that nobody can call it off any more; False if somebody has."""
        future = self.future
        return future.running() or (not future.cancelled() and future.set_running_or_notify_cancel())

    @property
    def is_sociable(self) -> bool:
        """Whether it may go into its model with others: its items are here, its answers come back, and it never broke
        a run, which would break theirs."""
        claim = self.claim
        has_all = bool(claim.payload) and claim.output_url is None and claim.recall is None
        return has_all and claim.kind is JobKind.PREDICT and claim.attempts == 1 and not self.is_apart

    def goes_with(self, other: "Task") -> bool:
        """Whether one call may be for both, which are sociable."""
        return self.served is other.served and self.claim.job_id == other.claim.job_id


class Pace:
    """How many items of a model go into one call for several chunks."""

    def __init__(self, declaration: Declaration) -> None:
        limit = declaration.chunk_timeout_seconds
        self._call_seconds = CALL_SECONDS if limit is None else min(CALL_SECONDS, limit / SHORT_OF_LIMIT)
        self._max_items = declaration.max_batch_size
        self._item_seconds = math.inf
        self._n_alone, self._penalty = 0, ALONE_AFTERWARDS

    @property
    def n_items(self) -> int:
        if self._n_alone:
            return 0
        return int(min(self._call_seconds / max(self._item_seconds, 1e-9), self._max_items))

    def took(self, n_chunks: int, n_items: int, seconds: float) -> None:
        self._item_seconds = seconds / max(n_items, 1)
        self._n_alone = max(0, self._n_alone - n_chunks)
        if n_chunks > 1:
            self._penalty = ALONE_AFTERWARDS

    def failed(self) -> None:
        self._n_alone, self._penalty = self._penalty, 2 * self._penalty


def _any(_: Task) -> bool:
    return True


class Backlog:
    """Chunks that wait for one of `n_workers`: first come, first served. For any thread."""

    def __init__(self, n_workers: int) -> None:
        self._n_workers = n_workers
        self._waiting: deque[Task] = deque()
        self._n_idle = 0
        self._changed = threading.Condition()
        self._is_closed = False
        self._paces: WeakKeyDictionary[ServedModel, Pace] = WeakKeyDictionary()

    def put(self, task: Task) -> None:
        with self._changed:
            self._waiting.append(task)
            self._changed.notify()

    def put_back(self, tasks: Sequence[Task]) -> None:
        """What was taken waits again, before all others."""
        with self._changed:
            self._waiting.extendleft(reversed(tasks))
            self._changed.notify(len(tasks))

    def close(self) -> None:
        """Whoever waits waits no more, and nobody gets any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def wait(self) -> list[Task]:
        """Takes the next chunk, and those that are to go into its model with it; none once it is closed."""
        with self._changed:
            while not self._is_closed:
                if tasks := self._take(_any):
                    return tasks
                self._n_idle += 1
                self._changed.wait()
                self._n_idle -= 1
        return []

    def take(self, wanted: Callable[[Task], bool] = _any) -> list[Task]:
        """The same, without waiting for one; none if the next is not wanted, or an idle worker is about to take it."""
        with self._changed:
            return [] if self._is_closed or len(self._waiting) <= self._n_idle else self._take(wanted)

    def settle(self, tasks: Sequence[Task], answers: Sequence[TaskAnswer], seconds: float) -> None:
        """Tells what one call gave for tasks, and how long it took."""
        if tasks[0].is_sociable:
            n_items = sum(task.claim.n_items for task in tasks)
            with self._changed:
                self._pace(tasks[0]).took(len(tasks), n_items, seconds)
        for task, answer in zip(tasks, answers, strict=True):
            task.future.set_result(answer)

    def fail(self, tasks: Sequence[Task], error: BaseException) -> int:
        """Tells what a call raised; how many tasks wait again because of it.

        Of several one may be at fault, and the others not: each is to be run by itself.
        """
        if len(tasks) > 1:
            claim = tasks[0].claim
            log.warning(
                "call_failed", queue=claim.queue, job_id=claim.job_id, n_chunks=len(tasks), error=named(error)
            )
            with self._changed:
                self._pace(tasks[0]).failed()
            self.put_back([replace(task, is_apart=True) for task in tasks])
            return len(tasks)
        tasks[0].future.set_exception(error)
        return 0

    def _take(self, wanted: Callable[[Task], bool]) -> list[Task]:
        while self._waiting and wanted(self._waiting[0]):
            first = self._waiting.popleft()
            if first.take():
                return [first, *self._companions(first)] if first.is_sociable else [first]
        return []

    def _companions(self, first: Task) -> list[Task]:
        """Those next in the line that go into one call with the first, and leave the other workers their share."""
        companions: list[Task] = []
        n_more = len(self._waiting) // self._n_workers
        items_left = self._pace(first).n_items - first.claim.n_items
        bytes_left = CALL_BYTES - len(first.claim.payload)
        while len(companions) < n_more and self._waiting:
            task = self._waiting[0]
            items_left -= task.claim.n_items
            bytes_left -= len(task.claim.payload)
            if min(items_left, bytes_left) < 0 or not (task.is_sociable and task.goes_with(first)):
                break
            if self._waiting.popleft().take():
                companions.append(task)
        return companions

    def _pace(self, task: Task) -> Pace:
        return self._paces.setdefault(task.served, Pace(task.served.declaration))
