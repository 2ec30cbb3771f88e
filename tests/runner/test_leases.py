"""Leases are renewed in time, and the result of a chunk that was lost all the same is dropped."""

from collections.abc import Callable
from typing import Any

import pytest

from app.jobs import queue
from app.runner import Runner
from tests.jobs.conftest import Workshop
from tests.runner.conftest import Bench, Clock
from tests.waiting import wait_until

SelectAll = Callable[..., list[dict[str, Any]]]


def steal(bench: Bench, runner: Runner) -> None:
    """Gives back behind the runner's back all that it holds, as a rescue would."""
    with bench.database.writing() as session:
        queue.release(session, runner._underway.claims)


def test_leases_are_renewed_by_a_thread_of_their_own(
    workshop: Workshop, bench: Bench, select_all: SelectAll
) -> None:
    """The runner's loop does nothing here."""

    def lease() -> Any:
        (row,) = select_all("SELECT lease_until FROM chunks")
        return row["lease_until"]

    workshop.enqueue()
    runner = bench.make(lease_seconds=1.5)
    runner.tick()
    runner._leases.start()

    for _ in range(2):
        before = lease()
        wait_until(lambda before=before: lease() > before, "a renewal")  # type: ignore[misc]  # a bound default
    wait_until(lambda: runner._leases.is_trusted, "a renewal that came in time")
    runner._leases.stop()
    runner._leases._thread.join(10)


def test_a_renewal_tells_that_the_runner_lives(bench: Bench, select_all: SelectAll) -> None:
    runner = bench.make(lease_seconds=3.0)
    runner._enter()
    with bench.database.writing() as session:
        session.connection().exec_driver_sql("UPDATE runners SET seen_at = '2020-01-01T00:00:00.000Z'")

    runner._leases.renew()

    (row,) = select_all("SELECT id, seen_at > '2021-01-01T00:00:00.000Z' AS is_fresh FROM runners")
    assert (str(row["id"]), bool(row["is_fresh"])) == (runner.id, True)


def test_a_runner_that_cannot_renew_claims_nothing_until_it_can(
    workshop: Workshop, bench: Bench, clock: Clock
) -> None:
    runner = bench.make(lease_seconds=3.0)
    workshop.enqueue()
    clock.seconds += 3

    runner.tick()
    assert not bench.executor.waiting
    runner._leases.renew()
    runner.tick()
    assert len(bench.executor.waiting) == 1


def test_the_result_of_a_chunk_that_was_taken_away_is_dropped(
    workshop: Workshop, bench: Bench, select_all: SelectAll
) -> None:
    job_id = workshop.enqueue(n_items=1)
    runner = bench.make()
    runner.tick()
    steal(bench, runner)
    bench.executor.run()

    runner._commit()  # which claims it anew, for it was due
    assert select_all("SELECT chunk_id FROM outputs") == []
    assert workshop.job(job_id)["n_succeeded"] == 0
    assert workshop.events(job_id) == ["created", "started"]

    bench.executor.run()
    runner.tick()
    assert workshop.job(job_id)["status"] == "succeeded"
    workshop.check_books()


def test_a_lost_chunk_does_not_hold_up_what_is_committed_with_it(workshop: Workshop, bench: Bench) -> None:
    job_id = workshop.enqueue(n_items=2)
    runner = bench.make()
    runner.tick()
    first, _second = runner._underway.claims
    with bench.database.writing() as session:
        queue.release(session, [first])
    bench.executor.run()

    runner.tick()
    assert workshop.job(job_id)["n_succeeded"] == 1
    bench.executor.run()
    runner.tick()
    assert workshop.job(job_id)["status"] == "succeeded"
    workshop.check_books()


def test_a_chunk_found_lost_at_a_renewal_is_claimed_again_and_its_old_result_dropped(
    workshop: Workshop, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = workshop.enqueue(n_items=1)
    runner = bench.make(bench.declare(concurrency=2))
    runner.tick()
    steal(bench, runner)
    (stolen,) = runner._underway.claims
    runner._leases.renew()
    assert runner._leases.is_lost(stolen)

    runner.tick()
    assert len(bench.executor.waiting) == 2, "the lost run, and the new one"
    bench.executor.run(1)
    with monkeypatch.context() as fence:
        fence.delattr("app.jobs.queue.finish")  # it is not even asked: the result is known to be stale
        runner.tick()
    assert workshop.job(job_id)["n_succeeded"] == 0
    bench.executor.run(1)
    runner.tick()
    assert workshop.job(job_id)["status"] == "succeeded"
    assert not runner._leases._lost
    workshop.check_books()


def test_what_a_dead_runner_left_is_rescued_by_another(workshop: Workshop, bench: Bench) -> None:
    job_id = workshop.enqueue(n_items=2)
    dead, alive = bench.make(), bench.make()
    dead._enter()
    dead.tick()
    bench.executor.waiting.clear()
    workshop.let_leases_run_out()

    alive.tick()
    workshop.end_backoff()
    for _ in range(3):  # what was rescued runs alone, one after the other
        alive.tick()
        bench.executor.run()

    assert workshop.job(job_id)["status"] == "succeeded"
    assert workshop.events(job_id).count("rescued") == 2
    workshop.check_books()
