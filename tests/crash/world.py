"""What a story happens in: a client that repeats what was not acknowledged, and runners that may die."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import orjson
from sqlalchemy import text

from app.config import Settings
from app.data.chunks import Limits
from app.data.formats import Format
from app.db import Database
from app.errors import Conflict
from app.jobs import again, control
from app.jobs.claims import Claim
from app.jobs.ids import new_id
from app.jobs.uploads import receive
from app.models import JsonObject
from app.models.declarations import Declaration
from app.models.registry import Registry
from app.models.served import ServedModel
from app.runner import Runner
from app.tasks.kinds import TaskAnswer
from app.tasks.predict import Stopwatch, predict_chunk

REFUSED, POISON, AWAY = -1, -2, -3
"""Numbers that the model refuses, that kill the runner, and for which what the model depends on is away."""
MAX_ATTEMPTS = 3
TICKS_PER_RUNNER = 12
PAUSE_SECONDS = 0.01


class Crash(KeyboardInterrupt):
    """Stands for the death of a runner in the middle of a chunk: anything of another kind would fail the chunk."""


class Doubler:
    def load(self, artifact: Path | None) -> None: ...

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        numbers = [item["number"] for item in items]
        if POISON in numbers:
            raise Crash
        if AWAY in numbers:
            raise OSError("the feature server is away")
        if REFUSED in numbers:
            raise ValueError("no such number")
        return [{"double": 2 * number} for number in numbers]


class InlineExecutor:
    """Runs chunks in the runner's own thread, which a crash ends too: at once, or when they are let go."""

    ends_hung_chunks = False
    dies_alone = False

    def __init__(self) -> None:
        self.is_holding = False
        self.held: list[tuple[Future[TaskAnswer], ServedModel, Claim]] = []

    def slots(self, served: ServedModel) -> int:
        return 8

    def submit(self, served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> Future[TaskAnswer]:
        future: Future[TaskAnswer] = Future()
        self.held.append((future, served, claim))
        if not self.is_holding:
            self.let_go()
        return future

    def let_go(self) -> None:
        while self.held:
            future, served, claim = self.held.pop(0)
            try:
                future.set_result(predict_chunk(served, claim.payload))
            except Exception as error:  # noqa: BLE001 — as an executor does: the future carries it
                future.set_exception(error)

    def interlude(self) -> AbstractContextManager[None]:
        return nullcontext()

    def shutdown(self) -> None: ...


class NoUpkeep:
    """Stands for upkeep, which is no part of these stories and would double their points."""

    def __init__(self, *_: Any) -> None: ...

    def tend(self) -> float:
        return 60.0


class World:
    """The client and the runners of one process. Told twice, a story is taken up where it was acknowledged.

    `acknowledged` are the answers that a process before this one gave to the client; new ones are written to the
    file descriptor `answers`, one JSON line each, as soon as a client would have read them.
    """

    def __init__(self, database: Database, acknowledged: dict[str, Any], answers: int) -> None:
        self.database = database
        self.acknowledged = acknowledged
        self.answers = answers
        self.asked: set[str] = set()
        self.is_aside = False
        """Whether it does what only the test does, which passes no kill point."""
        self.registry = Registry(
            [
                Declaration(
                    name="doubler",
                    version="1",
                    class_path=f"{__name__}:Doubler",
                    artifact=None,
                    options={},
                    default=True,
                    concurrency=8,
                )
            ]
        )
        self.settings = Settings(database_url=database.url, runner_threads=4, max_attempts=MAX_ATTEMPTS)
        for served in self.registry.models():
            served.wait_ready(10)

    def ask(self, request: str, act: Callable[[], Any]) -> Any:
        """Does what a client wants, unless an earlier process answered it already."""
        self.asked.add(request)
        if request not in self.acknowledged:
            self.acknowledged[request] = act()
            os.write(self.answers, json.dumps([request, self.acknowledged[request]]).encode() + b"\n")
        return self.acknowledged[request]

    def upload(self, numbers: list[int], chunk_items: int) -> str:
        """An input whose chunks are committed two by two."""
        body = b"".join(orjson.dumps({"number": number}) + b"\n" for number in numbers)
        limits = Limits(chunk_items, 1 << 20, 1 << 20, 1 << 30)
        return str(self.ask("upload", lambda: receive(self.database, [body], Format.NDJSON, limits)))

    def create(self, input_id: str, window: int = 2, **options: Any) -> str:
        """A job over it, under an idempotency key."""

        def act() -> str:
            with self.database.writing() as session:
                found = control.find(session, request_sha256="0" * 64, owner="", key="once")
                if found is None:
                    found = new_id()
                    control.enqueue(
                        session,
                        job_id=found,
                        model="doubler",
                        version="1",
                        input_id=input_id,
                        window=window,
                        idempotency_key="once",
                        request_sha256="0" * 64,
                        **options,
                    )
            return found

        return str(self.ask("create", act))

    def cancel(self, job_id: str) -> None:
        self.ask("cancel", lambda: self._unless_done(control.cancel, job_id))

    def retry(self, job_id: str) -> None:
        self.ask("retry", lambda: self._unless_done(again.retry, job_id, window=2))

    def _unless_done(self, verb: Callable[..., None], job_id: str, **options: Any) -> None:
        try:
            with self.database.writing() as session:
                verb(session, job_id, **options)
        except Conflict:  # the process before this one did it, and died before it could say so
            assert self.acknowledged, "nothing came before"

    def hire(self) -> tuple[Runner, InlineExecutor]:
        """A new runner. All others are dead, and their leases over."""
        self.write("UPDATE chunks SET lease_until = '2020-01-01T00:00:00.000Z' WHERE status = 'running'")
        executor = InlineExecutor()
        with mock.patch("app.runner.Upkeep", NoUpkeep):
            return Runner(self.database, self.registry, self.settings, executor=executor), executor

    def run(self, job_id: str) -> None:
        """Has runners, one after the other, work until the job has ended."""
        for _ in range(60):
            runner, _executor = self.hire()
            for _ in range(TICKS_PER_RUNNER):
                self.write("UPDATE chunks SET ready_at = '2020-01-01T00:00:00.000Z' WHERE status = 'queued'")
                try:
                    runner.tick()
                except Crash:
                    break
                if self.rows("SELECT id FROM jobs WHERE id = :id AND finished_at IS NOT NULL", id=job_id):
                    return
            threading.Event().wait(PAUSE_SECONDS)  # Postgres may not have noticed yet that a process died
        raise AssertionError(f"job {job_id} does not end: {self.rows('SELECT * FROM chunks')}")

    def write(self, *statements: str) -> None:
        """What only the test does, in one transaction: it passes no kill point."""
        with self._aside(), self.database.engine.begin() as connection:
            for sql in statements:
                connection.execute(text(sql))

    def rows(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        with self._aside(), self.database.engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(sql), parameters).mappings()]

    @contextmanager
    def _aside(self) -> Iterator[None]:
        # By the connection of the stories: another one would cost each process of Postgres a second backend.
        self.is_aside = True
        try:
            yield
        finally:
            self.is_aside = False
