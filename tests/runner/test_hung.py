"""A model that hangs in a thread costs its process, and neither a lease nor a job."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.jobs.conftest import Workshop
from tests.runner.conftest import Bench, Clock, Items, Stage
from tests.waiting import wait_until

LIMIT_SECONDS = 0.05


@pytest.fixture
def hang(stage: Stage) -> Any:
    """Keeps the model in its first call until the test is over."""
    may_go_on, entered = threading.Event(), threading.Event()

    def act(items: Items) -> None:
        entered.set()
        may_go_on.wait(30)

    stage.act = act
    yield entered
    may_go_on.set()


def test_a_hung_chunk_is_let_go_and_another_runner_rescues_it(
    workshop: Workshop,
    bench: Bench,
    hang: threading.Event,
    wait_for_job: Callable[[str], dict[str, Any]],
) -> None:
    job_id = workshop.enqueue(n_items=1)
    hung = bench.make(
        bench.declare(chunk_timeout_seconds=LIMIT_SECONDS),
        has_threads=True,
        poll_seconds=0.05,
    )

    with bench.running(hung) as outcome:
        wait_until(lambda: hung.trouble, "the runner to see that its model hangs")

    assert outcome.is_idle is False
    assert hung.trouble == "sentiment@1 has been in predict for over 0.05 seconds"
    (row,) = workshop.select_all("SELECT trouble FROM runners")
    assert row["trouble"] == hung.trouble
    (chunk,) = workshop.chunks(job_id)
    assert chunk["status"] == "running", "its lease only runs out: given back, it would be no attempt"

    workshop.let_leases_run_out()
    other = bench.make(bench.declare(options={"stage": Stage()}), has_threads=True, poll_seconds=0.05)
    with bench.running(other):
        assert wait_for_job(job_id)["status"] == "succeeded"
    assert "rescued" in workshop.events(job_id)
    workshop.check_books()


def test_a_hung_chunk_is_not_renewed_and_the_others_are(
    workshop: Workshop, bench: Bench, hang: threading.Event
) -> None:
    workshop.enqueue(n_items=2)
    runner = bench.make(bench.declare(chunk_timeout_seconds=LIMIT_SECONDS), has_threads=True)
    runner.tick()
    assert hang.wait(10)

    def leave() -> str | None:
        runner._leave_hung_chunks()
        return runner.trouble

    wait_until(leave, "the hung chunk to be seen")
    before = workshop.select_all("SELECT id, lease_until FROM chunks ORDER BY id")
    runner._leases.renew()
    after = workshop.select_all("SELECT id, lease_until FROM chunks ORDER BY id")

    renewed = [old["lease_until"] != new["lease_until"] for old, new in zip(before, after, strict=True)]
    assert sorted(renewed) == [False, True]
    runner._executor.shutdown()


def test_a_chunk_that_waits_for_its_models_slot_does_not_hang(
    workshop: Workshop, bench: Bench, clock: Clock
) -> None:
    """Two chunks are claimed for each slot: the second waits for as long as the first takes."""
    workshop.enqueue(n_items=2)
    runner = bench.make(bench.declare(chunk_timeout_seconds=10.0))
    runner.tick()
    bench.executor.begin()

    clock.seconds += 30
    runner.tick()

    assert runner.trouble is None
