"""Child processes of the runner, each with models of its own."""

import atexit
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from weakref import ref

from app.config import Settings
from app.executors.child import Child, called
from app.executors.loaded import load_once
from app.executors.outcomes import WorkerLost
from app.jobs.claims import Claim
from app.models.declarations import Declaration
from app.models.garbage import freeze
from app.models.registry import Registry
from app.models.served import ServedModel
from app.tables import JobKind
from app.tasks.kinds import Means, TaskAnswer, limit_seconds, perform
from app.tasks.predict import Stopwatch, TransientFailure

QUICK_SECONDS = 0.1
"""Of a child whose last chunk took less, the next is not kept waiting until the runner has read its answer."""
LOAD_SECONDS = 900.0
"""For a child to load a model that its runner has loaded."""


class ProcessExecutor:
    """Child processes, for models that hold the GIL or crash natively: a child that dies costs its chunk's attempt.

    Each has a thread of the runner, which gives it one chunk after the other, from a queue that all share; what no
    child has begun is there for another. Each loads a model for itself, before its first chunk of it, and has a
    successor when the runner's models change.
    """

    ends_hung_chunks = True
    dies_alone = True

    def __init__(self, registry: Registry, settings: Settings, processes: int, means: Means) -> None:
        self._waiting: SimpleQueue[_Task | None] = SimpleQueue()
        self._keepers = [_Keeper(self._waiting, registry, settings, means) for _ in range(processes)]
        for keeper in self._keepers:
            threading.Thread(target=keeper.run, name="child", daemon=True).start()
        atexit.register(self.shutdown)  # or multiprocessing waits there for children that wait for us

    def slots(self, served: ServedModel) -> int:
        return len(self._keepers)

    def submit(self, served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> Future[TaskAnswer]:
        task = _Task(served, claim)
        self._waiting.put(task)
        return task.future

    def interlude(self) -> AbstractContextManager[None]:
        return nullcontext()

    def shutdown(self) -> None:
        atexit.unregister(self.shutdown)
        for keeper in self._keepers:
            self._waiting.put(None)
            keeper.kill()


@dataclass(frozen=True, slots=True)
class _Task:
    """A chunk that is to run in a child."""

    served: ServedModel
    claim: Claim
    future: Future[TaskAnswer] = field(default_factory=Future)

    def take(self) -> bool:
        """Takes it, so that nobody can call it off any more; False if somebody has."""
        future = self.future
        return future.running() or (not future.cancelled() and future.set_running_or_notify_cancel())


class _Keeper:
    """Keeps one child at work. `run` is for a thread of its own, `kill` for any."""

    def __init__(
        self,
        waiting: "SimpleQueue[_Task | None]",
        registry: Registry,
        settings: Settings,
        means: Means,
    ) -> None:
        self._waiting = waiting
        self._registry = registry
        self._settings = settings
        self._means = means
        self._child: Child | None = None
        self._loaded: dict[ref[ServedModel], float] = {}
        """Of the runner's models that its child has, how many seconds the last chunk took."""
        self._held: _Task | None = None
        """Taken from the queue, and to be given next."""
        self._is_over = False

    def run(self) -> None:
        while (task := self._held or self._waiting.get()) is not None and not self._is_over:
            self._held = None
            if task.take():
                self._see_through(task)
            del task  # a model that has gone must not live on with a thread that waits

    def kill(self) -> None:
        self._is_over = True
        if (child := self._child) is not None:
            child.kill()

    def _see_through(self, task: _Task) -> None:
        """Has a chunk run, and on with those that the child can be given before it has answered."""
        given = deque([task])
        try:
            child = self._child_with(task.served)
            child.begin(self._call(task))
            while given:
                if (ahead := self._give_ahead(child, given[0])) is not None:
                    given.append(ahead)
                self._settle(child, given[0])
                given.popleft()
        except TransientFailure as error:  # there is no child, or it goes on without this model
            task.future.set_exception(_bare(error))
        except BaseException as error:  # noqa: BLE001 — whatever it is, it is this chunk's, and the thread goes on
            given.popleft().future.set_exception(_bare(error))
            self._held = given.popleft() if given else self._held
            self._leave()

    def _child_with(self, served: ServedModel) -> Child:
        """The child, which has loaded the model. One with models that have gone has a successor, for a model that has
        not.

        `TransientFailure` if it cannot be started or cannot load it.
        """
        models = {ref(model) for model in self._registry.models()}
        has_gone = ref(served) in models and not self._loaded.keys() <= models
        if self._child is not None and (has_gone or not self._child.is_alive):
            self._leave()
        if self._child is None:
            try:
                self._child = Child(self._settings)
            except (OSError, EOFError) as error:  # EOFError if the fork server ends meanwhile
                raise TransientFailure(f"a child process could not be started: {error}") from error
            if self._is_over:  # since before `kill` could see it
                self._child.kill()
        if ref(served) not in self._loaded:
            self._load(self._child, served)
        return self._child

    def _load(self, child: Child, served: ServedModel) -> None:
        child.begin(called(_load, served.declaration, self._settings.artifact_cache))
        try:
            _, error = child.outcome(LOAD_SECONDS)
        except (WorkerLost, TimeoutError) as lost:
            self._leave()
            why = str(lost) or f"it took over {LOAD_SECONDS:g} seconds"
            error = TransientFailure(f"{served} failed to load where its chunks run: {why}")
        if error is not None:
            raise error
        self._loaded[ref(served)] = QUICK_SECONDS

    def _give_ahead(self, child: Child, current: _Task) -> _Task | None:
        """Tells the child of one more chunk, where they are quick and one waits that it can take."""
        if not self._is_quick(current):
            return None
        try:
            task = self._waiting.get_nowait()
        except Empty:
            return None
        if task is None:
            self._waiting.put(None)
            return None
        self._held = task
        if not (self._is_quick(task) and child.has_room(call := self._call(task)) and task.take()):
            return None
        child.begin(call)
        self._held = None
        return task

    def _call(self, task: _Task) -> bytes:
        return called(
            _perform, task.served.declaration, self._settings.artifact_cache, task.claim, self._means
        )

    def _is_quick(self, task: _Task) -> bool:
        """Whether another need not mind to wait for it: in this child the last chunk of its model was done soon."""
        is_training = task.claim.kind is JobKind.TRAIN
        return not is_training and self._loaded.get(ref(task.served), QUICK_SECONDS) < QUICK_SECONDS

    def _settle(self, child: Child, task: _Task) -> None:
        """Waits for what becomes of the oldest chunk that the child has."""
        began_at = monotonic()
        answer, error = child.outcome(limit_seconds(task.served.declaration, task.claim.kind))
        self._loaded[ref(task.served)] = monotonic() - began_at
        if error is None:
            task.future.set_result(answer)
        else:
            task.future.set_exception(error)

    def _leave(self) -> None:
        """Ends its child, which may be dead, may hang, or waits for a call."""
        if self._child is not None:
            self._child.end()
        self._child, self._loaded = None, {}


def _bare(error: BaseException) -> BaseException:
    """Without tracebacks: a frame in them has the future that is to have the error, and both would stay, with the pipes
    of a dead child, until the collector of garbage looks that far."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _load(declaration: Declaration, artifact_cache: Path) -> None:
    load_once(declaration, artifact_cache)
    freeze()


def _perform(declaration: Declaration, artifact_cache: Path, claim: Claim, means: Means) -> TaskAnswer:
    return perform(load_once(declaration, artifact_cache), claim, means)
