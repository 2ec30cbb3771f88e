"""Leases are renewed in time, and the result of a chunk that was lost all the same is dropped."""

from collections.abc import Callable
from typing import Any

from app.jobs import queue
from app.runner import Runner
from tests.jobs.conftest import Workshop
from tests.runner.conftest import Bench, Clock

SelectAll = Callable[..., list[dict[str, Any]]]


def steal(bench: Bench, runner: Runner) -> None:
    """Gives back behind the runner's back all that it holds, as a rescue would."""
    with bench.database.writing() as session:
        queue.release(session, list(runner._running.values()))


def leases(select_all: SelectAll) -> list[Any]:
    rows = select_all("SELECT lease_until FROM chunks WHERE status = 'running' ORDER BY id")
    return [row["lease_until"] for row in rows]


def test_leases_are_renewed_after_a_third_of_them_and_not_before(
    workshop: Workshop, bench: Bench, clock: Clock, select_all: SelectAll
) -> None:
    workshop.enqueue(n_items=2)
    runner = bench.make(lease_seconds=90.0)
    runner.tick()
    with bench.database.writing() as session:  # so short that no rounding can hide a renewal
        queue.renew(session, runner_id=runner.id, lease_seconds=1.0)
    short = leases(select_all)

    clock.seconds += 29.9
    runner.tick()
    assert leases(select_all) == short

    clock.seconds += 0.1
    runner.tick()
    renewed = leases(select_all)
    assert len(renewed) == 2
    assert all(later > earlier for later, earlier in zip(renewed, short, strict=True))

    clock.seconds += 29.9
    runner.tick()
    assert leases(select_all) == renewed


def test_a_renewal_tells_that_the_runner_lives(bench: Bench, clock: Clock, select_all: SelectAll) -> None:
    runner = bench.make(lease_seconds=3.0)
    runner._enter()
    with bench.database.writing() as session:
        session.connection().exec_driver_sql("UPDATE runners SET seen_at = '2020-01-01T00:00:00.000Z'")

    clock.seconds += 1
    runner.tick()

    (row,) = select_all("SELECT id, seen_at > '2021-01-01T00:00:00.000Z' AS is_fresh FROM runners")
    assert (str(row["id"]), bool(row["is_fresh"])) == (runner.id, True)


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
    first, _second = runner._running.values()
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
    workshop: Workshop, bench: Bench, clock: Clock
) -> None:
    job_id = workshop.enqueue(n_items=1)
    runner = bench.make(bench.declare(concurrency=2), lease_seconds=3.0)
    runner.tick()
    steal(bench, runner)
    clock.seconds += 1

    runner.tick()
    assert len(bench.executor.waiting) == 2, "the lost run, and the new one"
    bench.executor.run(1)
    runner.tick()
    assert workshop.job(job_id)["n_succeeded"] == 0
    bench.executor.run(1)
    runner.tick()
    assert workshop.job(job_id)["status"] == "succeeded"
    assert runner._lost == set()
    workshop.check_books()
