"""Child processes of the runner, each with models of its own."""

import atexit
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from time import monotonic
from weakref import ref

import structlog

from app.config import Settings
from app.errors import named
from app.executors.backlog import Backlog, Task
from app.executors.child import Child, called
from app.executors.loaded import load_once
from app.executors.outcomes import WorkerLost
from app.jobs.claims import Claim
from app.models.declarations import Declaration
from app.models.garbage import freeze
from app.models.registry import Registry
from app.models.served import ServedModel
from app.tables import JobKind
from app.tasks.kinds import Means, TaskAnswer, limit_seconds, perform_together
from app.tasks.predict import Stopwatch, TransientFailure

QUICK_SECONDS = 0.1
"""Of a child whose last chunk took less, the next is not kept waiting until the runner has read its answer."""
LOAD_SECONDS = 900.0
"""For a child to load a model that its runner has loaded."""
AWAY_SECONDS = 1.0
"""How long to wait before a child that could not be started is started again."""

log = structlog.get_logger(__name__)


class NoChild(Exception):
    """A child process could not be started, which is no chunk's fault."""


class ProcessExecutor:
    """Child processes, for models that hold the GIL or crash natively: a child that dies costs its chunk's attempt.

    Each has a thread of the runner, which gives it one call after the other, from a backlog that all share; what no
    child has begun is there for another. Each loads a model for itself, before its first chunk of it, and has a
    successor when the runner's models change.
    """

    ends_hung_chunks = True
    dies_alone = True

    def __init__(self, registry: Registry, settings: Settings, processes: int, means: Means) -> None:
        self._backlog = Backlog(processes)
        self._keepers = [_Keeper(self._backlog, registry, settings, means) for _ in range(processes)]
        for keeper in self._keepers:
            threading.Thread(target=keeper.run, name="child", daemon=True).start()
        atexit.register(self.shutdown)  # or multiprocessing waits there for children that wait for us

    def slots(self, served: ServedModel) -> int:
        """How many children there are, or could be: while none can be started, nothing is claimed for them."""
        return sum(keeper.trouble is None for keeper in self._keepers)

    def submit(self, served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> Future[TaskAnswer]:
        task = Task(served, claim, stopwatch)
        self._backlog.put(task)
        return task.future

    def interlude(self) -> AbstractContextManager[None]:
        return nullcontext()

    def shutdown(self) -> None:
        atexit.unregister(self.shutdown)
        self._backlog.close()
        for keeper in self._keepers:
            keeper.kill()


class _Keeper:
    """Keeps one child at work. `run` is for a thread of its own, `kill` for any."""

    def __init__(self, backlog: Backlog, registry: Registry, settings: Settings, means: Means) -> None:
        self._backlog = backlog
        self._registry = registry
        self._settings = settings
        self._means = means
        self._child: Child | None = None
        self._loaded: dict[ref[ServedModel], float] = {}
        """Of the runner's models that its child has, how many seconds the last call took."""
        self._is_over = threading.Event()
        self.trouble: str | None = None
        """Why it has no child, and cannot have one."""

    def run(self) -> None:
        while tasks := self._backlog.wait():
            self._see_through(tasks)
            del tasks  # a model that has gone must not live on with a thread that waits

    def kill(self) -> None:
        self._is_over.set()
        if (child := self._child) is not None:
            child.kill()

    def _see_through(self, tasks: list[Task]) -> None:
        """Has chunks run by one call, and on with those that the child can be given before it has answered."""
        given = deque([tasks])
        try:
            child = self._child_with(tasks[0].served)
            child.begin(self._call(tasks))
            while given:
                began_at = monotonic()
                self._give_ahead(child, given)
                self._settle(child, given[0], began_at)
                given.popleft()
        except NoChild as error:
            self._backlog.put_back(tasks)
            self._tell(str(error))
            self._is_over.wait(AWAY_SECONDS)
        except TransientFailure as error:  # the child goes on without this model
            self._backlog.fail(tasks, _bare(error))
        except BaseException as error:  # noqa: BLE001 — whatever it is, it is this call's, and the thread goes on
            guilty, *ahead_of = given
            for others in ahead_of:
                self._backlog.put_back(others)
            self._backlog.fail(guilty, _bare(error))
            self._leave()

    def _child_with(self, served: ServedModel) -> Child:
        """The child, which has loaded the model. One with models that have gone has a successor, for a model that has
        not.

        `NoChild` if it cannot be started, `TransientFailure` if it cannot load it.
        """
        models = {ref(model) for model in self._registry.models()}
        has_gone = ref(served) in models and not self._loaded.keys() <= models
        if self._child is not None and (has_gone or not self._child.is_alive):
            self._leave()
        if self._child is None:
            try:
                self._child = Child(self._settings)
            except (OSError, EOFError) as error:  # EOFError if the fork server ends meanwhile
                raise NoChild(named(error)) from error
            self._tell(None)
            if self._is_over.is_set():  # since before `kill` could see it
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

    def _give_ahead(self, child: Child, given: deque[list[Task]]) -> None:
        """Tells the child of one more call than it was given, where both are quick and it can take it."""
        if not self._is_quick(given[0][0]) or not (
            tasks := self._backlog.take(partial(self._may_go_ahead, child))
        ):
            return
        given.append(tasks)
        if child.has_room(len(call := self._call(tasks))):
            child.begin(call)
        else:
            self._backlog.put_back(given.pop())

    def _may_go_ahead(self, child: Child, task: Task) -> bool:
        return self._is_quick(task) and child.has_room(len(task.claim.payload))

    def _call(self, tasks: list[Task]) -> bytes:
        declaration, cache = tasks[0].served.declaration, self._settings.artifact_cache
        return called(_perform, declaration, cache, [task.claim for task in tasks], self._means)

    def _is_quick(self, task: Task) -> bool:
        """Whether another need not mind to wait for it: in this child the last call of its model was done soon."""
        is_training = task.claim.kind is JobKind.TRAIN
        return not is_training and self._loaded.get(ref(task.served), QUICK_SECONDS) < QUICK_SECONDS

    def _settle(self, child: Child, tasks: list[Task], began_at: float) -> None:
        """Waits for what becomes of the oldest call that the child has."""
        answers, error = child.outcome(limit_seconds(tasks[0].served.declaration, tasks[0].claim.kind))
        seconds = self._loaded[ref(tasks[0].served)] = monotonic() - began_at
        if error is None:
            self._backlog.settle(tasks, answers, seconds)
        else:
            self._backlog.fail(tasks, error)

    def _tell(self, trouble: str | None) -> None:
        """Logs why there is no child, once as long as it stays the same."""
        if trouble is not None and trouble != self.trouble:
            log.error("child_not_started", error=trouble)
        self.trouble = trouble

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


def _perform(
    declaration: Declaration, artifact_cache: Path, claims: Sequence[Claim], means: Means
) -> list[TaskAnswer]:
    return perform_together(load_once(declaration, artifact_cache), claims, means)
