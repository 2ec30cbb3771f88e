"""The queue against a model of it: any verbs in any order, by several runners, under a clock that the test moves.

After every step the database must agree with `queue_model` on each item, each job and each hold, and keep the
invariants of the queue; at the end everything is drained, and every job must have ended.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import event, text

from app.db import Database
from app.errors import Conflict
from app.jobs import control, queue, rescue
from app.jobs.claims import TRANSIENT, Broken, Claim
from app.jobs.ids import new_id
from tests.jobs.conftest import QUEUE, Workshop, done
from tests.jobs.queue_model import CANCELED, ERRORED, PREDICTED, TERMINAL, JobModel, QueueModel

LEASE_SECONDS = 60.0
MAX_ATTEMPTS = 2
RUNNERS = [new_id() for _ in range(3)]
N_EXAMPLES = {"sqlite": (45, 30), "postgres": (22, 25)}
DRAIN_STEPS = 500

runners = st.sampled_from(RUNNERS)
picks = st.randoms(use_true_random=False)


class Clock:
    """The time that statements see instead of the database's own."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def rewrite(
        self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any
    ) -> tuple[str, Any]:
        """For the event before a statement is executed: SQLite's clock and Postgres' become this one."""
        statement = statement.replace("Z', 'now'", f"Z', '{self.now:%Y-%m-%dT%H:%M:%S.%f}'")
        return statement.replace("(now() ", f"(timestamptz '{self.now.isoformat()}' "), parameters


class QueueMachine(RuleBasedStateMachine):
    def __init__(self, workshop: Workshop, clock: Clock) -> None:
        super().__init__()
        self.workshop, self.clock = workshop, clock
        self.database = workshop.database
        self.model = QueueModel(MAX_ATTEMPTS)
        self.claims: list[Claim] = []  # all that were ever made: also those that are stale by now
        self.epochs: dict[int, int] = {}
        self.ended: dict[str, dict[str, Any]] = {}
        with self.database.writing() as session:
            for table in ("jobs", "inputs"):
                session.execute(text(f"DELETE FROM {table}"))

    @rule(
        n_items=st.integers(1, 7),
        chunk_items=st.integers(1, 4),
        window=st.integers(1, 3),
        priority=st.integers(-1, 1),
        owner=st.sampled_from(["", "ann", "bob"]),
        max_errors=st.none() | st.integers(0, 3),
        lives_seconds=st.none() | st.integers(1, 300),
    )
    def enqueue(self, lives_seconds: int | None, max_errors: int | None, **job: Any) -> None:
        expires_at = lives_seconds and self.clock.now + timedelta(seconds=lives_seconds)
        job_id = self.workshop.enqueue(**job, max_errors=max_errors, expires_at=expires_at or None)
        self.model.jobs[job_id] = JobModel(job["n_items"], max_errors, expires_at or None)

    @rule(runner_id=runners, limit=st.integers(1, 4))
    def claim(self, runner_id: str, limit: int) -> None:
        with self.database.writing() as session:
            claims = queue.claim(
                session, queue=QUEUE, runner_id=runner_id, limit=limit, lease_seconds=LEASE_SECONDS
            )
            queue.begin(session, claims, runner_id=runner_id)
        assert len(claims) <= limit
        for claim in claims:
            items = range(claim.first_item, claim.first_item + claim.n_items)
            assert [item["id"] for item in orjson.loads(claim.payload)] == list(items)
        self.model.claim(claims, runner_id, self.clock.now + timedelta(seconds=LEASE_SECONDS))
        self.claims += claims

    @rule(seconds=st.sampled_from([0.5, 3.0, 61.0, 400.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.claims)
    @rule(pick=picks, fails=st.booleans(), n_results=st.integers(1, 3))
    def finish(self, pick: Any, fails: bool, n_results: int) -> None:
        chosen = self._some_claims(pick, n_results)
        bad = [pick.sample(range(claim.n_items), pick.randint(0, claim.n_items)) for claim in chosen]
        results = [done(claim, *(places if fails else [])) for claim, places in zip(chosen, bad, strict=True)]
        assert self.workshop.finish(*results) == self.model.finish(results, self.clock.now)

    @precondition(lambda self: self.claims)
    @rule(
        pick=picks,
        code=st.sampled_from([TRANSIENT, "runner_crashed", "timed_out"]),
        n_broken=st.integers(1, 2),
    )
    def break_off(self, pick: Any, code: str, n_broken: int) -> None:
        broken = [Broken(claim, code, "it broke") for claim in self._some_claims(pick, n_broken)]
        self.workshop.break_off(*broken, max_attempts=MAX_ATTEMPTS)
        self.model.break_off(broken, self.clock.now)

    @precondition(lambda self: self.claims)
    @rule(pick=picks)
    def release(self, pick: Any) -> None:
        claims = self._some_claims(pick, 2)
        self.workshop.release(*claims)
        self.model.release(claims, self.clock.now)

    @rule(runner_id=runners, hangs=st.booleans(), pick=picks)
    def renew(self, runner_id: str, hangs: bool, pick: Any) -> None:
        hung = [claim.chunk_id for claim in self._some_claims(pick, 1)] if hangs and self.claims else []
        lease_until = self.clock.now + timedelta(seconds=LEASE_SECONDS)
        held = self.workshop.renew(runner_id, LEASE_SECONDS, hung)
        assert held == self.model.renew(runner_id, hung, lease_until)

    @rule(runner_id=runners)
    def rescue(self, runner_id: str) -> None:
        with self.database.writing() as session:
            n_rescued = rescue.rescue(
                session, runner_id=runner_id, max_attempts=MAX_ATTEMPTS, lease_seconds=LEASE_SECONDS
            )
        assert n_rescued == self.model.rescue(self.clock.now)

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks)
    def cancel(self, pick: Any) -> None:
        job_id = pick.choice(list(self.model.jobs))
        if self.model.cancel(job_id, self.clock.now):
            self.workshop.cancel(job_id)
        else:
            with pytest.raises(Conflict):
                self.workshop.cancel(job_id)

    @precondition(lambda self: self.model.jobs)
    @rule(pick=picks)
    def abandon(self, pick: Any) -> None:
        job_id = pick.choice(list(self.model.jobs))
        with self.database.writing() as session:
            control.abandon(session, job_id, "hopeless")
        self.model.abandon(job_id, self.clock.now)

    @rule()
    def expire(self) -> None:
        assert self.workshop.expire() == self.model.expire(self.clock.now)

    @precondition(lambda self: any(job.is_terminal for job in self.model.jobs.values()))
    @rule(pick=picks, window=st.integers(1, 3))
    def retry(self, pick: Any, window: int) -> None:
        job_id = pick.choice([job_id for job_id, job in self.model.jobs.items() if job.is_terminal])
        if self.model.retry(job_id):
            self.workshop.retry(job_id, window=window)
            del self.ended[job_id]
        else:
            with pytest.raises(Conflict):
                self.workshop.retry(job_id, window=window)

    @invariant()
    def agrees_with_the_model(self) -> None:
        self.workshop.check_books()
        jobs = {str(row["id"]): row for row in self.workshop.select_all("SELECT * FROM jobs")}
        assert {job_id: row["status"] for job_id, row in jobs.items()} == {
            job_id: job.status for job_id, job in self.model.jobs.items()
        }
        for job_id, job in self.model.jobs.items():
            row = jobs[job_id]
            assert (row["n_succeeded"], row["n_errored"], row["n_canceled"]) == (
                job.count(PREDICTED),
                job.count(ERRORED),
                job.count(CANCELED),
            )
            if row["status"] in TERMINAL:  # it is final, to the last column
                assert self.ended.setdefault(job_id, row) == row
        held = self.workshop.select_all("SELECT id, epoch, runner_id FROM chunks WHERE status = 'running'")
        assert {(row["id"], row["epoch"], str(row["runner_id"])) for row in held} == {
            (*hold.claim.key, hold.runner_id) for hold in self.model.held.values()
        }

    @invariant()
    def every_item_has_one_fate(self) -> None:
        answered = self.workshop.select_all(
            "SELECT job_id, item_index FROM predictions WHERE prediction IS NOT NULL ORDER BY job_id, item_index"
        )
        errors = self.workshop.select_all("SELECT job_id, item_index, code FROM item_errors")
        failed = self.workshop.select_all(
            "SELECT job_id, first_item, n_items FROM chunks WHERE status = 'failed'"
        )
        for job_id, job in self.model.jobs.items():
            predicted = [row["item_index"] for row in answered if str(row["job_id"]) == job_id]
            assert predicted == [place for place, state in enumerate(job.items) if state == PREDICTED]
            own = {row["item_index"]: row["code"] for row in errors if str(row["job_id"]) == job_id}
            whole = [chunk for chunk in failed if str(chunk["job_id"]) == job_id]
            of_chunks = [chunk["first_item"] + place for chunk in whole for place in range(chunk["n_items"])]
            assert own == job.codes
            assert sorted([*own, *of_chunks]) == [
                place for place, state in enumerate(job.items) if state == ERRORED
            ]

    @invariant()
    def epochs_rise_and_chunks_tile_their_jobs(self) -> None:
        chunks = self.workshop.select_all("SELECT * FROM chunks ORDER BY job_id, first_item")
        for chunk in chunks:
            assert chunk["epoch"] >= self.epochs.get(chunk["id"], 0)
            self.epochs[chunk["id"]] = chunk["epoch"]
        for job_id, job in self.model.jobs.items():
            own = [chunk for chunk in chunks if str(chunk["job_id"]) == job_id]
            tiled = [place for chunk in own for place in range(chunk["n_items"])]
            assert len(tiled) == job.n_items
            states = {chunk["status"] for chunk in own}
            assert "pending" not in states or states & {"queued", "running"}, "nothing would ever promote it"

    def teardown(self) -> None:
        """Drains: whoever holds something dies, and one runner works off all there is."""
        for _ in range(DRAIN_STEPS):
            if all(job.is_terminal for job in self.model.jobs.values()):
                break
            self.clock.now += timedelta(seconds=LEASE_SECONDS + 1)
            self.rescue(RUNNERS[0])
            self.clock.now += timedelta(hours=3)
            before = len(self.claims)
            self.claim(RUNNERS[0], 100)
            results = [done(claim) for claim in self.claims[before:]]
            if results:
                assert self.workshop.finish(*results) == self.model.finish(results, self.clock.now) == set()
        assert all(job.is_terminal for job in self.model.jobs.values()), "a job did not end"
        self.agrees_with_the_model()
        self.every_item_has_one_fate()

    def _some_claims(self, pick: Any, n_claims: int) -> list[Claim]:
        """Mostly claims that still hold, and now and then stale ones."""
        held = [hold.claim for hold in self.model.held.values()]
        pool = held if held and pick.random() < 0.7 else self.claims
        return pick.sample(pool, min(n_claims, len(pool)))  # type: ignore[no-any-return]  # of hypothesis' Random


@contextmanager
def fake_time(database: Database, clock: Clock) -> Iterator[None]:
    """Every statement that asks for the time is told this clock's."""
    event.listen(database.engine, "before_cursor_execute", clock.rewrite, retval=True)
    try:
        yield
    finally:
        event.remove(database.engine, "before_cursor_execute", clock.rewrite)


def test_the_queue_does_what_its_model_does(
    database: Database, workshop: Workshop, select_all: Callable[..., Any]
) -> None:
    n_examples, n_steps = N_EXAMPLES["postgres" if database.is_postgres else "sqlite"]
    chosen = settings(
        max_examples=n_examples,
        stateful_step_count=n_steps,
        deadline=None,
        derandomize="CI" in os.environ,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    clock = Clock()
    with fake_time(database, clock):
        run_state_machine_as_test(
            lambda: QueueMachine(workshop, clock),  # type: ignore[arg-type]  # any callable will do
            settings=chosen,
        )
