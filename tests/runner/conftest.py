"""A runner under the test's hand: its executor, its model and its clock go one step at a time."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.config import GIB, Settings
from app.data.objects import Storage
from app.db import Database
from app.executors import ChunkExecutor
from app.jobs.claims import Claim
from app.models import JsonObject
from app.models.declarations import Declaration
from app.models.registry import Registry
from app.models.served import ServedModel
from app.runner import Runner
from app.tasks.kinds import Means, TaskAnswer, perform
from app.tasks.predict import Stopwatch
from tests.jobs.conftest import Workshop
from tests.models.specimens import declare
from tests.waiting import wait_until

Items = list[JsonObject]


class Stage:
    """What a `Staged` model does, and what it was made to do."""

    def __init__(self) -> None:
        self.n_loads = 0
        self.seen: list[int] = []  # the ids of all items that it predicted, in order
        self.act: Callable[[Items], None] = lambda items: None


class Staged:
    """Answers `{"ok": True}` to each item, after the test's own act."""

    def load(self, artifact: Path | None, *, stage: Stage) -> None:
        self.stage = stage
        stage.n_loads += 1

    def predict(self, items: Items) -> Items:
        self.stage.act(items)
        self.stage.seen.extend(item["id"] for item in items)
        return [{"ok": True} for _ in items]


class StepExecutor:
    """Keeps what is submitted, in order, until the test runs it, in the test's own thread."""

    ends_hung_chunks = False
    dies_alone = False

    def __init__(self) -> None:
        self.waiting: deque[tuple[Future[TaskAnswer], Callable[[], TaskAnswer]]] = deque()
        self.on_interlude: Callable[[], None] = lambda: None

    def slots(self, served: ServedModel) -> int:
        return served.declaration.concurrency

    def submit(self, served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> Future[TaskAnswer]:
        future: Future[TaskAnswer] = Future()
        self.waiting.append((future, lambda: perform(served, claim, Means(Storage(), GIB), stopwatch)))
        return future

    @contextmanager
    def interlude(self) -> Iterator[None]:
        self.on_interlude()
        yield
        self.on_interlude()

    def shutdown(self) -> None:
        """Nothing runs by itself here."""

    def begin(self) -> None:
        """Has all that waits begun, and not yet ended: it can no longer be called off."""
        for future, _call in self.waiting:
            future.set_running_or_notify_cancel()

    def run(self, n_calls: int | None = None) -> None:
        """Runs the next calls; all that wait, if no number is given."""
        for _ in range(len(self.waiting) if n_calls is None else n_calls):
            future, call = self.waiting.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except Exception as error:  # noqa: BLE001 — as an executor does: the future carries it
                    future.set_exception(error)


class Clock:
    """The runner's monotonic clock: it moves when the test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


class Bench:
    """Makes runners of one database and one stage."""

    def __init__(self, database: Database, stage: Stage) -> None:
        self.database = database
        self.stage = stage
        self.executor = StepExecutor()

    def declare(self, name: str = "sentiment", **changes: Any) -> Declaration:
        """A staged model; by default the one that the workshop's jobs are for."""
        return declare(Staged, **({"name": name, "options": {"stage": self.stage}} | changes))

    def make(
        self,
        *models: Declaration,
        has_threads: bool = False,
        is_loaded: bool = True,
        heartbeat: Callable[[], None] = lambda: None,
        **settings: Any,
    ) -> Runner:
        """A runner that has loaded its models, with the step executor unless it is to have its own threads."""
        registry = Registry(models or [self.declare()])
        for served in registry.models() if is_loaded else []:
            served.wait_ready(10)
        chosen = Settings(database_url=self.database.url, **settings)
        executor: ChunkExecutor | None = None if has_threads else self.executor
        return Runner(self.database, registry, chosen, executor=executor, heartbeat=heartbeat)

    @contextmanager
    def running(self, runner: Runner, drain_seconds: float = 10.0) -> Iterator[SimpleNamespace]:
        """Has it `run` in a thread of its own, and stop at the end of the block; `.is_idle` is what it returned."""
        outcome = SimpleNamespace(is_idle=None, error=None)

        def run() -> None:
            try:
                outcome.is_idle = runner.run(drain_seconds)
            except Exception as error:  # noqa: BLE001 — raised again below, in the test's thread
                outcome.error = error

        thread = threading.Thread(target=run, name="runner")
        thread.start()
        try:
            yield outcome
        finally:
            runner.stop()
            thread.join(30)
            assert not thread.is_alive(), "the runner did not stop"
            if outcome.error is not None:
                raise outcome.error


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def bench(database: Database, stage: Stage) -> Bench:
    return Bench(database, stage)


@pytest.fixture
def executor(bench: Bench) -> StepExecutor:
    return bench.executor


@pytest.fixture
def workshop(database: Database, select_all: Callable[..., list[dict[str, Any]]]) -> Workshop:
    return Workshop(database, select_all)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (
        "app.runner",
        "app.intake",
        "app.executors.supply",
        "app.jobs.leases",
        "app.tasks.predict",
    ):
        monkeypatch.setattr(f"{module}.time", clock)
    return clock


@pytest.fixture
def wait_for_job(workshop: Workshop) -> Callable[..., dict[str, Any]]:
    """Waits until a job has ended, and returns its row."""

    def wait(job_id: str, seconds: float = 15.0) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            job = workshop.job(job_id)
            return job if job["finished_at"] is not None else None

        return wait_until(ended, f"the end of job {job_id}", seconds)

    return wait
