"""Every way in which a chunk or a model can fail ends in a precise error, and never in a job that hangs."""

from collections.abc import Callable
from typing import Any

import pytest

from app.errors import Unavailable
from app.intake import REFUSED_AT_ONCE
from app.tasks.predict import predict_chunk
from tests.jobs.conftest import Workshop
from tests.models.specimens import LoadRaises, declare
from tests.runner.conftest import Bench, Items, Stage
from tests.waiting import wait_until

SelectAll = Callable[..., list[dict[str, Any]]]


@pytest.mark.parametrize("window", [2, 100])
def test_a_model_that_fails_to_load_ends_its_jobs_as_failed_with_the_reason(
    workshop: Workshop, bench: Bench, window: int
) -> None:
    jobs = [workshop.enqueue(n_items=9, window=window) for _ in range(2)]
    runner = bench.make(declare(LoadRaises, name="sentiment"), max_attempts=1)

    runner.tick()

    assert not bench.executor.waiting
    for job_id in jobs:
        job = workshop.job(job_id)
        assert job["status"] == "failed"
        assert job["error"] == "model sentiment 1 failed to load: OSError: weights are corrupt"
        assert job["n_errored"] + job["n_canceled"] == 9
        assert workshop.events(job_id) == ["created", "started", "abandoned", "finished"]
    workshop.check_books()


def test_a_model_that_fails_to_load_leaves_its_jobs_to_another_runner_for_some_attempts(
    workshop: Workshop, bench: Bench
) -> None:
    job_id = workshop.enqueue(n_items=2)
    unfit, fit = bench.make(declare(LoadRaises, name="sentiment")), bench.make()

    unfit.tick()
    assert workshop.job(job_id)["status"] == "running"
    workshop.end_backoff()
    for _ in range(3):
        fit.tick()
        bench.executor.run()

    assert workshop.job(job_id)["status"] == "succeeded"
    assert workshop.events(job_id) == ["created", "started", "retried", "retried", "finished"]
    workshop.check_books()


def test_what_waits_for_a_model_that_fails_to_load_is_given_back_a_part_at_a_time_so_that_others_can_write(
    workshop: Workshop, bench: Bench
) -> None:
    jobs = [workshop.enqueue(n_items=2) for _ in range(REFUSED_AT_ONCE)]
    fine = workshop.enqueue(model="fine")
    unfit = bench.make(
        declare(LoadRaises, name="sentiment"), bench.declare("fine"), max_attempts=1, poll_seconds=60.0
    )

    unfit.tick()
    ended = [job_id for job_id in jobs if workshop.job(job_id)["status"] == "failed"]
    assert ended == jobs[: REFUSED_AT_ONCE // 2]
    assert len(bench.executor.waiting) == 1, "and what it can do does not wait until they are all done"

    with bench.running(unfit):
        wait_until(lambda: workshop.job(jobs[-1])["status"] == "failed", "all jobs to have failed", 10)
    assert all(workshop.job(job_id)["status"] == "failed" for job_id in jobs)
    assert workshop.job(fine)["status"] == "running"
    workshop.check_books()


def test_a_transient_failure_is_tried_again_later_and_only_so_often(
    workshop: Workshop, bench: Bench, stage: Stage
) -> None:
    def drop(items: Items) -> None:
        raise ConnectionResetError("the feature store hung up")

    stage.act = drop
    job_id = workshop.enqueue(n_items=2, chunk_items=2)
    runner = bench.make(max_attempts=2)
    runner.tick()
    bench.executor.run()
    runner.tick()
    assert not bench.executor.waiting, "it waits for its backoff"
    assert workshop.job(job_id)["status"] == "running"

    workshop.end_backoff()
    runner.tick()
    bench.executor.run()
    runner.tick()

    job = workshop.job(job_id)
    assert (job["status"], job["n_errored"]) == ("failed", 2)
    (chunk,) = workshop.chunks(job_id)
    assert "ConnectionResetError: the feature store hung up" in chunk["error"]
    assert workshop.events(job_id) == ["created", "started", "retried", "finished"]
    workshop.check_books()


def test_out_of_memory_is_halved_down_to_the_item_that_causes_it(
    workshop: Workshop, bench: Bench, stage: Stage
) -> None:
    def swell(items: Items) -> None:
        if any(item["id"] == 2 for item in items):
            raise MemoryError

    stage.act = swell
    job_id = workshop.enqueue(n_items=4, chunk_items=4)
    runner = bench.make(bench.declare(concurrency=2), max_attempts=1)

    for _ in range(4):
        runner.tick()
        bench.executor.run()

    job = workshop.job(job_id)
    assert (job["status"], job["n_succeeded"], job["n_errored"]) == ("partial", 3, 1)
    assert workshop.errors(job_id) == {2: "runner_crashed"}
    assert workshop.predicted(job_id) == [0, 1, 3]
    workshop.check_books()


def test_a_broken_model_does_not_stop_the_others(workshop: Workshop, bench: Bench) -> None:
    broken_job, good_job = workshop.enqueue(model="broken"), workshop.enqueue(model="good")
    runner = bench.make(declare(LoadRaises, name="broken"), bench.declare("good"), max_attempts=1)

    for _ in range(2):
        runner.tick()
        bench.executor.run()

    assert workshop.job(broken_job)["status"] == "failed"
    assert workshop.job(good_job)["status"] == "succeeded"
    workshop.check_books()


def test_an_item_that_makes_the_model_raise_is_an_item_error(
    workshop: Workshop, bench: Bench, stage: Stage, select_all: SelectAll
) -> None:
    def refuse_two(items: Items) -> None:
        if any(item["id"] == 2 for item in items):
            raise ValueError("no twos")

    stage.act = refuse_two
    job_id = workshop.enqueue(n_items=5, chunk_items=5)
    runner = bench.make()

    runner.tick()
    bench.executor.run()
    runner.tick()

    job = workshop.job(job_id)
    assert (job["status"], job["n_succeeded"], job["n_errored"]) == ("partial", 4, 1)
    (error,) = select_all("SELECT item_index, code, message FROM item_errors")
    assert (error["item_index"], error["code"]) == (2, "model_failed")
    assert "ValueError: no twos" in error["message"]
    workshop.check_books()


@pytest.mark.parametrize(
    ("raised", "reason"),
    [(RuntimeError("out of luck"), "RuntimeError: out of luck"), (Unavailable("not now"), "not now")],
)
def test_a_task_that_raises_fails_its_chunk_and_no_other(
    workshop: Workshop, bench: Bench, monkeypatch: pytest.MonkeyPatch, raised: Exception, reason: str
) -> None:
    def predict_or_raise(served: Any, payload: bytes, *others: Any) -> Any:
        if b'"id":1}' in payload:
            raise raised
        return predict_chunk(served, payload, *others)

    monkeypatch.setattr("app.tasks.chunk.predict_chunk", predict_or_raise)
    job_id = workshop.enqueue(n_items=3)
    runner = bench.make()

    for _ in range(3):
        runner.tick()
        bench.executor.run()

    job = workshop.job(job_id)
    assert (job["status"], job["n_succeeded"], job["n_errored"]) == ("partial", 2, 1)
    assert workshop.select_all("SELECT first_item, error FROM chunks WHERE status = 'failed'") == [
        {"first_item": 1, "error": reason}
    ]
    workshop.check_books()


@pytest.mark.parametrize(
    ("message", "shown"), [("a \0 byte", "a \\x00 byte"), ("half a \ud83d pair", "half a \\ud83d pair")]
)
def test_a_message_that_no_database_can_hold_is_escaped(
    workshop: Workshop, bench: Bench, monkeypatch: pytest.MonkeyPatch, message: str, shown: str
) -> None:
    def refuse(items: Items) -> None:
        raise ValueError(message)

    bench.stage.act = refuse
    erring, failing = workshop.enqueue(n_items=1), workshop.enqueue(n_items=1)
    runner = bench.make()
    runner.tick()
    bench.executor.run(1)

    def raise_message(*args: Any) -> Any:
        raise ValueError(message)

    monkeypatch.setattr("app.tasks.chunk.predict_chunk", raise_message)
    bench.executor.run(1)
    runner.tick()

    assert workshop.job(erring)["status"] == workshop.job(failing)["status"] == "failed"
    assert workshop.select_all("SELECT message FROM item_errors") == [
        {"message": f"model sentiment 1 raised ValueError: {shown}"}
    ]
    assert workshop.select_all("SELECT error FROM chunks WHERE status = 'failed'") == [
        {"error": f"ValueError: {shown}"}
    ]
    workshop.check_books()


def test_a_chunk_that_runs_when_its_job_is_canceled_is_kept(workshop: Workshop, bench: Bench) -> None:
    job_id = workshop.enqueue(n_items=5)
    runner = bench.make()
    runner.tick()

    workshop.cancel(job_id)
    assert workshop.job(job_id)["status"] == "canceling"
    bench.executor.run()
    runner.tick()

    job = workshop.job(job_id)
    assert (job["status"], job["n_succeeded"], job["n_canceled"]) == ("canceled", 2, 3)
    workshop.check_books()
