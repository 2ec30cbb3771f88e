"""The batcher: online requests that came while their model ran go into its next call together.

There is no timer and no waiting for more. An idle model gets a request at once; while it runs, others queue, and
its next call takes all that did. So batches grow with the load and not with a setting, and under no load nothing
is slower for it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain

import structlog

from app.errors import BadRequest, ModelAway, ModelFailed, Overdue, Overloaded, ServingError
from app.metrics import BATCH_ITEMS, BATCH_WAIT_SECONDS, MODEL_SECONDS, labeled
from app.models import JsonObject
from app.models.quickness import Quickness
from app.models.served import ServedModel

log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS = 1
"""What is turned away now may be taken a second later: the queue is bounded to be short."""


def never() -> bool:
    return False


class Call:
    """The items of one request on their way through the model, to be answered within `seconds` or not at all.

    `wake` is called by a thread of the batcher, once it is answered, and must return at once. `is_gone` tells,
    without waiting, whether the caller has hung up; it is asked just before the model would see the items.
    """

    __slots__ = ("_outcome", "_wake", "arrived_at", "expires_at", "is_gone", "items", "loaded")

    def __init__(
        self,
        items: Sequence[JsonObject],
        loaded: list[JsonObject] | None,
        *,
        seconds: float,
        wake: Callable[["Call"], None],
        is_gone: Callable[[], bool] = never,
    ) -> None:
        self.items = items
        self.loaded = loaded
        self.arrived_at = time.monotonic()
        self.expires_at = self.arrived_at + seconds
        self._wake = wake
        self.is_gone = is_gone
        self._outcome: list[JsonObject] | ServingError | None = None

    def answer(self, outcome: list[JsonObject] | ServingError) -> None:
        self._outcome = outcome
        self._wake(self)

    @property
    def is_answered(self) -> bool:
        return self._outcome is not None

    def result(self) -> list[JsonObject]:
        """The predictions, in the order of the items. Raises what it ended with instead; `Overdue` if it has not."""
        if isinstance(self._outcome, ServingError):
            raise self._outcome
        if self._outcome is None:
            raise Overdue("the model has not answered yet")
        return self._outcome


class Batcher:
    """The queue in front of one model of this process, and the `concurrency` threads that are in it.

    The threads begin with the first call that needs them, and are daemons: they end with the process, or when it has
    been retired and no call waits. Every method may be called from any thread.
    """

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._lock = threading.Lock()
        self._waiting: deque[Call] = deque()
        self.n_waiting_items = 0
        self._n_threads = 0
        self._is_retired = False
        self._idle: list[threading.Lock] = []
        """The bells of threads that wait for a call. A plain lock, because a Condition makes one for each wait."""
        self._quickness = Quickness()
        labels = (served.declaration.name, served.declaration.version)
        self._batch_items = labeled(BATCH_ITEMS, *labels)
        self._wait_seconds = labeled(BATCH_WAIT_SECONDS, *labels)
        self._model_seconds = labeled(MODEL_SECONDS, *labels)

    def predict(
        self,
        items: Sequence[JsonObject],
        loaded: list[JsonObject] | None,
        *,
        seconds: float,
        is_gone: Callable[[], bool] = never,
    ) -> list[JsonObject]:
        """As `ServedModel.predict`, together with what others ask; blocks the calling thread.

        `Overdue` after so many `seconds`; `Overloaded` at once if too much waits already.
        """
        if (predictions := self.predict_quickly(items, loaded)) is not None:
            return predictions
        answered = threading.Lock()
        answered.acquire()
        call = Call(items, loaded, seconds=seconds, wake=lambda _: answered.release(), is_gone=is_gone)
        self.put(call)
        self.attend(may_stand_in=True)
        if not answered.acquire(timeout=seconds):
            self.withdraw(call)
        return call.result()

    def predict_quickly(
        self, items: Sequence[JsonObject], loaded: list[JsonObject] | None
    ) -> list[JsonObject] | None:
        """As `ServedModel.predict`, in the calling thread; None if the model is not quick, or not idle."""
        return self._predict(items, loaded) if self.is_quick else None

    @property
    def is_quick(self) -> bool:
        """Whether a call now is better made by the thread that asks."""
        return self._quickness.is_quick and not self._waiting and len(self._idle) == self._n_threads

    def put(self, call: Call) -> None:
        """Queues a call; `Overloaded` if too much waits already.

        No idle thread looks at it before `attend`: so calls that come together go together.
        """
        declared = self._served.declaration
        with self._lock:
            n_waiting_items = self.n_waiting_items + len(call.items)
            if self._waiting and n_waiting_items > declared.max_waiting_items:
                raise Overloaded(
                    f"{self.n_waiting_items} items wait for {self._served} here already: try again soon, or make a "
                    "job of them with POST /v1/jobs",
                    headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
                )
            self._waiting.append(call)
            self.n_waiting_items = n_waiting_items

    def attend(self, *, may_stand_in: bool = False) -> None:
        """Has a thread take what waits, if one is idle.

        If a single call waits, and the model is brisk, a caller that may stands in for that thread: on another core,
        with cold caches, the model takes longer than it does here.
        """
        with self._lock:
            if not self._waiting:
                return
            bell = self._idle.pop() if self._idle else None
            is_short = bell is None and self._n_threads < self._served.declaration.concurrency
            self._n_threads += is_short
            stands_in = (
                bell is not None and may_stand_in and len(self._waiting) == 1 and self._quickness.is_brisk
            )
            calls = self._collected() if stands_in else []
        if calls:
            self._answer(calls)
            with self._lock:
                if bell is not None and not self._waiting and not self._is_retired:
                    self._idle.append(bell)
                    bell = None
        if bell is not None:
            bell.release()
        elif is_short:
            threading.Thread(target=self._run, name=f"predict {self._served}", daemon=True).start()

    def withdraw(self, call: Call) -> None:
        """Forgets a call whose caller waits no more; if the model has it already, its answer goes nowhere."""
        with self._lock:
            try:
                self._waiting.remove(call)
            except ValueError:
                return
            self.n_waiting_items -= len(call.items)

    def retire(self) -> None:
        """Keeps no thread any more: those that are here end when nothing waits. Late calls are answered too."""
        with self._lock:
            self._is_retired = True
            idle, self._idle = self._idle, []
        for bell in idle:
            bell.release()

    def _run(self) -> None:
        bell = threading.Lock()
        bell.acquire()
        while (calls := self._take(bell)) is not None:
            if calls:
                self.attend()  # another thread may take what is more than a batch
                self._answer(calls)
            else:
                bell.acquire()

    def _take(self, bell: threading.Lock) -> list[Call] | None:
        """All calls that wait, the oldest first, up to the model's batch size, or one, if it is quick; none, and `bell`
        will ring for more.

        None instead of none if there is no need of this thread any more.
        """
        with self._lock:
            calls = self._collected()
            if not calls and self._is_retired:
                self._n_threads -= 1
                return None
            if not calls:
                self._idle.append(bell)
        return calls

    def _collected(self) -> list[Call]:
        """What `_take` takes, for who holds the lock."""
        calls: list[Call] = []
        room = 0 if self._quickness.goes_alone() else self._served.declaration.max_batch_size
        while self._waiting and (not calls or len(self._waiting[0].items) <= room):
            call = self._waiting.popleft()
            self.n_waiting_items -= len(call.items)
            if call.is_gone():
                call.answer(BadRequest("the client hung up before the model came to its items"))
            elif call.expires_at > time.monotonic():
                calls.append(call)
                room -= len(call.items)
        return calls

    def _answer(self, calls: list[Call]) -> None:
        """Runs a batch. One that fails is halved, so that an item that breaks the model reaches its own caller only."""
        self._wait_seconds.observe(time.monotonic() - calls[0].arrived_at)
        try:
            if len(calls) == 1:
                predictions = self._predict(calls[0].items, calls[0].loaded)
            else:
                predictions = self._predict(*_together(calls), is_alone=False)
        except ModelAway as error:  # whatever the items are: to ask for half of them would only wait again
            for call in calls:
                call.answer(error)
        except ServingError as error:
            self._answer_failed(calls, error)
        else:
            start = 0
            for call in calls:
                end = start + len(call.items)
                call.answer(predictions[start:end])
                start = end

    def _predict(
        self, items: Sequence[JsonObject], loaded: list[JsonObject] | None, *, is_alone: bool = True
    ) -> list[JsonObject]:
        # To ask for the thread's own time takes a call of the kernel, which a quick model is spared.
        busy_at = None if self._quickness.is_quick else time.thread_time()
        started_at = time.monotonic()
        try:
            return self._served.predict(items, loaded)
        except ServingError:
            raise
        # The boundary of a thread that must not end: who waits for it would wait in vain.
        except BaseException as error:
            log.exception("batch_failed", model=str(self._served))
            raise ModelFailed(f"{self._served} broke off: {type(error).__name__}") from error
        finally:
            seconds = time.monotonic() - started_at
            self._batch_items.observe(len(items))
            self._model_seconds.observe(seconds)
            if is_alone:
                self._quickness.judge(
                    seconds, 0.0 if busy_at is None else seconds - (time.thread_time() - busy_at)
                )

    def _answer_failed(self, calls: list[Call], error: ServingError) -> None:
        if len(calls) == 1:
            calls[0].answer(error)
            return
        half = len(calls) // 2
        for part in (calls[:half], calls[half:]):
            for call in part:
                call.loaded = None  # the model may have changed it
            self._answer(part)


def _together(calls: list[Call]) -> tuple[list[JsonObject], list[JsonObject] | None]:
    items = list(chain.from_iterable(call.items for call in calls))
    loaded = [call.loaded for call in calls if call.loaded is not None]
    return items, list(chain.from_iterable(loaded)) if len(loaded) == len(calls) else None
