"""Asked to stop, a runner finishes what ends in time and gives the rest back, unharmed."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from app.jobs import queue
from app.runner import Runner
from tests.jobs.conftest import Workshop
from tests.runner.conftest import Bench, Items, Stage
from tests.waiting import wait_until

SelectAll = Callable[..., list[dict[str, Any]]]

LOCKED = OperationalError("UPDATE chunks", {}, Exception("database is locked"))


def states(select_all: SelectAll) -> dict[str, int]:
    rows = select_all("SELECT status, count(*) AS n FROM chunks GROUP BY status")
    return {row["status"]: row["n"] for row in rows}


def wait_until_two_run(runner: Runner) -> None:
    wait_until(
        lambda: sum(map(Future.running, list(runner._underway._chunks))) == 2, "two chunks to be begun"
    )


class Door:
    """Lets the model go on only when it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def pass_through(self, items: Items) -> None:
        self.entered.set()
        self.opened.wait(30)


@pytest.fixture
def door(stage: Stage) -> Any:
    door = Door()
    stage.act = door.pass_through
    yield door
    door.opened.set()  # the thread of a test that failed must not keep the process


def test_what_was_claimed_ahead_of_a_job_that_is_canceled_does_not_run(
    workshop: Workshop, bench: Bench, door: Door, select_all: SelectAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    canceled, other = workshop.enqueue(n_items=2), workshop.enqueue(n_items=1)
    runner = bench.make(bench.declare(concurrency=2), has_threads=True, runner_threads=1)
    monkeypatch.setattr(runner._intake, "_room", lambda _: {"sentiment@1": 3})  # as of short chunks
    monkeypatch.setattr("app.intake.RECONSIDER_SECONDS", 60.0)  # however long this takes, they are not slow
    runner.tick()
    assert door.entered.wait(10)
    assert states(select_all) == {"running": 3}

    workshop.cancel(canceled)
    runner._intake._reconsider_at = 0.0
    runner._keep()
    assert states(select_all) == {"running": 2, "canceled": 1}

    door.opened.set()
    wait_until(lambda: not runner._underway.not_done, "what runs, and the other job")
    runner.tick()
    assert [workshop.job(job_id)["status"] for job_id in (canceled, other)] == ["canceled", "succeeded"]
    assert workshop.job(canceled)["n_succeeded"] == 1
    workshop.check_books()


def test_finishes_what_ends_in_time_and_claims_no_more(
    workshop: Workshop, bench: Bench, door: Door, select_all: SelectAll
) -> None:
    job_id = workshop.enqueue(n_items=9)
    runner = bench.make(bench.declare(concurrency=2), has_threads=True)

    with bench.running(runner) as outcome:
        assert door.entered.wait(10)
        wait_until_two_run(runner)
        runner.stop()
        wait_until(lambda: len(runner._underway) == 2, "the drain to call off what has not begun")
        door.opened.set()

    assert outcome.is_idle
    assert states(select_all) == {"done": 2, "queued": 7}
    assert sorted(bench.stage.seen) == [0, 1]
    assert workshop.job(job_id)["status"] == "running"
    (row,) = select_all("SELECT stopped_at FROM runners")
    assert row["stopped_at"] is not None
    workshop.check_books()


def test_gives_back_what_does_not_end_in_time_and_another_runs_it_once(
    workshop: Workshop,
    bench: Bench,
    door: Door,
    stage: Stage,
    select_all: SelectAll,
    wait_for_job: Callable[[str], dict[str, Any]],
) -> None:
    job_id = workshop.enqueue(n_items=4)
    runner = bench.make(bench.declare(concurrency=2), has_threads=True)
    with bench.running(runner, drain_seconds=0.05) as outcome:
        wait_until_two_run(runner)

    assert outcome.is_idle is False
    assert states(select_all) == {"queued": 4}
    assert select_all("SELECT DISTINCT attempts, runner_id, lease_until FROM chunks") == [
        {"attempts": 0, "runner_id": None, "lease_until": None}
    ]

    other_stage = Stage()
    other = bench.make(bench.declare(options={"stage": other_stage}), has_threads=True)
    with bench.running(other):
        assert wait_for_job(job_id)["n_succeeded"] == 4
    assert sorted(other_stage.seen) == [0, 1, 2, 3]

    door.opened.set()
    wait_until(lambda: len(stage.seen) == 2, "the end of what the first runner left behind")
    assert workshop.job(job_id)["n_succeeded"] == 4
    workshop.check_books()


def test_what_no_thread_has_begun_is_given_back_at_once(
    workshop: Workshop, bench: Bench, select_all: SelectAll
) -> None:
    workshop.enqueue(n_items=3)
    runner = bench.make()
    runner.tick()
    assert states(select_all) == {"running": 2, "queued": 1}

    assert runner._drain(deadline=0.0)

    assert states(select_all) == {"queued": 3}
    workshop.check_books()


def test_leases_are_renewed_during_a_long_drain(
    workshop: Workshop, bench: Bench, door: Door, select_all: SelectAll
) -> None:
    def lease() -> Any:
        (row,) = select_all("SELECT lease_until FROM chunks")
        return row["lease_until"]

    workshop.enqueue(n_items=1)
    runner = bench.make(has_threads=True, lease_seconds=3.0)
    with bench.running(runner) as outcome:
        assert door.entered.wait(10)
        runner.stop()
        first = lease()
        wait_until(lambda: lease() > first, "a renewal")
        door.opened.set()

    assert outcome.is_idle
    assert states(select_all) == {"done": 1}


def test_a_drain_tries_again_when_the_database_is_away(
    workshop: Workshop, bench: Bench, door: Door, select_all: SelectAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.enqueue(n_items=1)
    finish, calls = queue.finish, [0]

    def flaky_finish(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] < 3:
            raise LOCKED
        return finish(*args)

    monkeypatch.setattr("app.runner.AWAY_SECONDS", 0.02)
    monkeypatch.setattr("app.jobs.queue.finish", flaky_finish)
    runner = bench.make(has_threads=True)
    with bench.running(runner) as outcome:
        assert door.entered.wait(10)
        runner.stop()
        door.opened.set()

    assert outcome.is_idle
    assert states(select_all) == {"done": 1}
    assert calls == [3]
    workshop.check_books()


def test_a_drain_tries_again_to_give_back(
    workshop: Workshop, bench: Bench, select_all: SelectAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.runner.AWAY_SECONDS", 0.02)
    workshop.enqueue(n_items=3)
    release, failures = queue.release, [1, 2, 3]

    def flaky_release(*args: Any) -> Any:
        if failures:
            failures.pop()
            raise LOCKED
        return release(*args)

    runner = bench.make()
    runner.tick()
    monkeypatch.setattr("app.jobs.queue.release", flaky_release)

    assert runner._drain(deadline=time.monotonic() + 10)
    assert states(select_all) == {"queued": 3}


def test_a_drain_gives_a_database_that_is_away_time_to_come_back(
    workshop: Workshop, bench: Bench, select_all: SelectAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.enqueue(n_items=1)
    runner = bench.make()
    runner.tick()
    bench.executor.run()
    n_calls = 0

    def fail(*args: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        raise LOCKED

    monkeypatch.setattr("app.jobs.queue.finish", fail)
    runner._drain(deadline=time.monotonic() + 0.3)

    assert n_calls < 5, "it should not spin"
    assert states(select_all) == {"queued": 1}
    workshop.check_books()
