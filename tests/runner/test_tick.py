"""A tick claims what there is room for, and commits what is done."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from app.executors.supply import LEAST_PER_SLOT, MOST_PER_SLOT
from app.intake import RECONSIDER_SECONDS
from app.jobs import queue
from app.jobs.claims import Claim
from app.jobs.upkeep import UPKEEP_SECONDS
from tests.conftest import on_fresh_databases
from tests.jobs.conftest import Workshop
from tests.runner.conftest import Bench, Clock, Items, Stage, StepExecutor
from tests.waiting import wait_until

SelectAll = Callable[..., list[dict[str, Any]]]


@pytest.mark.parametrize(
    ("concurrency", "threads", "n_claimed"), [(1, 16, 2), (3, 16, 6), (8, 3, 3), (1, 1, 2)]
)
def test_claims_two_chunks_for_each_slot_of_a_model_and_no_more_than_there_are_threads(
    workshop: Workshop, bench: Bench, concurrency: int, threads: int, n_claimed: int
) -> None:
    workshop.enqueue(n_items=20)
    runner = bench.make(bench.declare(concurrency=concurrency), runner_threads=threads)

    runner.tick()
    runner.tick()

    assert len(bench.executor.waiting) == n_claimed
    (row,) = workshop.select_all("SELECT count(*) AS n FROM chunks WHERE status = 'running'")
    assert row["n"] == n_claimed


def test_a_job_runs_to_its_end_and_its_outputs_are_in_order(
    workshop: Workshop, bench: Bench, executor: StepExecutor
) -> None:
    job_id = workshop.enqueue(n_items=7, chunk_items=2, window=2)
    runner = bench.make()

    for _ in range(4):
        runner.tick()
        executor.run(1)
    runner.tick()

    job = workshop.job(job_id)
    assert (job["status"], job["n_succeeded"]) == ("succeeded", 7)
    assert workshop.answers(job_id) == [{"id": index, "ok": True} for index in range(7)]
    assert bench.stage.seen == list(range(7))
    workshop.check_books()


def test_what_ends_while_it_claims_is_no_reason_to_claim_once_more(
    workshop: Workshop, bench: Bench, executor: StepExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, limits = queue.claim, []

    def claim_as_another_ends(session: Session, *, limit: int, **how: Any) -> list[Claim]:
        limits.append(limit)
        claims = claim(session, limit=limit, **how)
        executor.run(1)
        return claims

    workshop.enqueue(n_items=20)
    runner = bench.make()
    runner.tick()
    executor.run(1)
    monkeypatch.setattr(queue, "claim", claim_as_another_ends)

    runner.tick()

    assert limits == [1]


def test_on_sqlite_a_turn_begins_once_the_loop_may_write_and_ends_before_its_commit(
    workshop: Workshop, bench: Bench, executor: StepExecutor
) -> None:
    told: list[str] = []

    def tell() -> None:
        other = sqlite3.connect(bench.database.url.database or "", timeout=0)
        with closing(other), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        told.append(workshop.job(job_id)["status"])

    job_id = workshop.enqueue(n_items=1)
    executor.on_interlude = tell
    runner = bench.make()

    runner.tick()
    executor.run()
    runner.tick()

    assert told == ([] if bench.database.is_postgres else ["running", "running"])
    assert workshop.job(job_id)["status"] == "succeeded"


@pytest.mark.usefixtures("clock")  # which stands still: so chunks take no time
def test_where_short_chunks_are_too_few_more_are_queued_for_this_runner_and_for_another(
    workshop: Workshop, bench: Bench, stage: Stage
) -> None:
    other_bench = Bench(bench.database, stage)
    runner, other = bench.make(), other_bench.make()
    workshop.enqueue(n_items=6, window=2)
    for _ in range(4):  # now it knows that they are short
        runner.tick()
        bench.executor.run()
    job_id = workshop.enqueue(n_items=100, window=16)

    runner.tick()
    other.tick()

    assert len(bench.executor.waiting) == 8, "half of those that were there"
    assert len(other_bench.executor.waiting) == LEAST_PER_SLOT
    queued = [chunk for chunk in workshop.chunks(job_id) if chunk["status"] == "queued"]
    assert len(queued) == 2 * MOST_PER_SLOT - 8 - LEAST_PER_SLOT, "twice what it had room for"
    runner.tick()
    assert len(bench.executor.waiting) == MOST_PER_SLOT
    workshop.check_books()


@pytest.mark.usefixtures("clock")  # which stands still: so chunks take no time
def test_runners_share_the_last_short_chunks_of_a_job(workshop: Workshop, bench: Bench, stage: Stage) -> None:
    benches = bench, Bench(bench.database, stage)
    runners = [each.make() for each in benches]
    for runner, each in zip(runners, benches, strict=True):
        workshop.enqueue(n_items=6, window=2)
        for _ in range(4):  # now each knows that they are short
            runner.tick()
            each.executor.run()
    job_id = workshop.enqueue(n_items=20, window=20)

    for runner in runners:
        runner.tick()

    assert [len(each.executor.waiting) for each in benches] == [10, 5]
    while workshop.job(job_id)["status"] != "succeeded":
        for runner, each in zip(runners, benches, strict=True):
            each.executor.run()
            runner.tick()
    workshop.check_books()


def test_short_chunks_that_turn_out_to_be_long_are_left_to_other_runners(
    workshop: Workshop, bench: Bench, stage: Stage, clock: Clock
) -> None:
    other_bench = Bench(bench.database, stage)
    runner, other = bench.make(), other_bench.make()
    workshop.enqueue(n_items=6, window=2)
    for _ in range(4):  # now it takes them for short
        runner.tick()
        bench.executor.run()
    job_id = workshop.enqueue(n_items=24, window=24)
    runner.tick()
    assert len(bench.executor.waiting) == 12
    bench.executor.waiting[0][0].set_running_or_notify_cancel()

    clock.seconds += RECONSIDER_SECONDS / 2
    runner.tick()
    assert [chunk["status"] for chunk in workshop.chunks(job_id)[:12]] == ["running"] * 12
    clock.seconds += RECONSIDER_SECONDS
    runner.tick()

    assert [chunk["status"] for chunk in workshop.chunks(job_id)] == [
        *["running"] * LEAST_PER_SLOT,
        *["queued"] * (24 - LEAST_PER_SLOT),
    ]
    other.tick()
    assert [chunk["runner_id"] and str(chunk["runner_id"]) for chunk in workshop.chunks(job_id)] == [
        *[runner.id] * LEAST_PER_SLOT,
        *[other.id] * LEAST_PER_SLOT,
        *[None] * (24 - 2 * LEAST_PER_SLOT),
    ]
    assert {chunk["attempts"] for chunk in workshop.chunks(job_id)[2 * LEAST_PER_SLOT :]} == {0}
    workshop.check_books()


def test_chunks_of_a_version_that_goes_are_finished_and_the_rest_wait_until_it_is_back(
    workshop: Workshop, bench: Bench, executor: StepExecutor
) -> None:
    job_id = workshop.enqueue(n_items=4)
    runner = bench.make()
    registry = runner._registry
    runner.tick()

    registry.replace([bench.declare(version="2")])
    wait_until(lambda: registry.defaults() == {"sentiment": "2"}, "the other version")
    executor.run()
    runner.tick()

    assert sorted(chunk["status"] for chunk in workshop.chunks(job_id)) == [
        "done",
        "done",
        "queued",
        "queued",
    ]
    assert not executor.waiting
    registry.replace([bench.declare()])
    wait_until(lambda: registry.defaults() == {"sentiment": "1"}, "the version that the job is for")
    runner.tick()
    executor.run()
    runner.tick()
    assert workshop.job(job_id)["status"] == "succeeded"
    workshop.check_books()


@on_fresh_databases
def test_all_that_is_done_is_committed_in_one_transaction(
    workshop: Workshop, bench: Bench, executor: StepExecutor, select_all: SelectAll
) -> None:
    workshop.enqueue(n_items=4)
    runner = bench.make(bench.declare(concurrency=2))
    runner.tick()
    executor.run()
    commits: list[object] = []
    event.listen(bench.database.engine, "commit", commits.append)

    runner.tick()

    assert len(commits) == 1
    assert select_all("SELECT count(*) AS n FROM outputs") == [{"n": 4}]
    workshop.check_books()


def test_no_connection_is_held_while_a_chunk_runs(workshop: Workshop, bench: Bench) -> None:
    workshop.enqueue(n_items=2)
    runner = bench.make()
    held: list[int] = []
    bench.stage.act = lambda items: held.append(bench.database.engine.pool.checkedout())  # type: ignore[attr-defined]  # of QueuePool

    runner.tick()
    bench.executor.run()

    assert held == [0, 0]


def test_the_queue_whose_chunk_is_due_first_is_served_first(workshop: Workshop, bench: Bench) -> None:
    workshop.enqueue(model="slow", priority=1)
    workshop.enqueue(model="fast")
    runner = bench.make(bench.declare("slow"), bench.declare("fast"), runner_threads=1)

    runner.tick()

    (claimed,) = workshop.select_all("SELECT queue FROM chunks WHERE status = 'running'")
    assert claimed == {"queue": "fast@1"}


def test_a_model_that_is_full_leaves_the_threads_to_others(workshop: Workshop, bench: Bench) -> None:
    workshop.enqueue(n_items=9, model="big")
    workshop.enqueue(n_items=9, model="small")

    bench.make(bench.declare("big"), bench.declare("small")).tick()

    rows = workshop.select_all(
        "SELECT queue, count(*) AS n FROM chunks WHERE status = 'running' GROUP BY queue ORDER BY queue"
    )
    assert rows == [{"queue": "big@1", "n": 2}, {"queue": "small@1", "n": 2}]


def test_a_model_that_is_still_loading_is_not_claimed_for(
    workshop: Workshop, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load = threading.Event()
    monkeypatch.setattr("tests.models.specimens.Slow.may_load", may_load)
    loading = bench.declare("loading", class_path="tests.models.specimens:Slow", options={})
    workshop.enqueue(model="loading")
    runner = bench.make(loading, is_loaded=False)

    runner.tick()
    assert not bench.executor.waiting
    may_load.set()
    runner._registry.get("loading").wait_ready(10)
    runner.tick()
    assert len(bench.executor.waiting) == 1


def test_a_job_waits_for_a_model_that_cannot_be_loaded_for_now(
    workshop: Workshop, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.models.lineup.FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("tests.models.specimens.Dependent.trouble", ConnectionError("no"))
    workshop.enqueue(model="dependent")
    runner = bench.make(bench.declare("dependent", class_path="tests.models.specimens:Dependent", options={}))

    runner.tick()
    assert not bench.executor.waiting
    assert workshop.select_all("SELECT status, attempts FROM chunks") == [{"status": "queued", "attempts": 0}]

    monkeypatch.setattr("tests.models.specimens.Dependent.trouble", None)
    wait_until(lambda: runner._registry.get("dependent").state == "ready", "the model")
    runner.tick()
    assert len(bench.executor.waiting) == 1


def test_an_upkeep_that_fails_keeps_no_job_from_running(
    workshop: Workshop, bench: Bench, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    tries: list[float] = []

    def fail(_upkeep: object) -> float:
        tries.append(clock.monotonic())
        raise IntegrityError("INSERT", {}, Exception("not unique"))

    monkeypatch.setattr("app.jobs.upkeep.time", clock)
    monkeypatch.setattr("app.runner.Upkeep._tend", fail)
    workshop.enqueue()
    runner = bench.make()

    runner.tick()
    runner.tick()
    assert (len(bench.executor.waiting), len(tries)) == (1, 1)
    clock.seconds += UPKEEP_SECONDS
    runner.tick()
    assert len(tries) == 2


def test_a_model_is_loaded_once_for_all_jobs(workshop: Workshop, bench: Bench, stage: Stage) -> None:
    jobs = [workshop.enqueue(n_items=2) for _ in range(3)]
    runner = bench.make()
    for _ in range(4):
        runner.tick()
        bench.executor.run()

    assert [workshop.job(job_id)["status"] for job_id in jobs] == ["succeeded"] * 3
    assert stage.n_loads == 1


def test_a_model_runs_as_many_chunks_at_once_as_it_declares(
    workshop: Workshop, bench: Bench, stage: Stage, wait_for_job: Callable[[str], dict[str, Any]]
) -> None:
    meeting = threading.Barrier(3)  # broken, and the job partial, if three are never inside together

    def meet(items: Items) -> None:
        meeting.wait(10)

    stage.act = meet
    job_id = workshop.enqueue(n_items=6)
    runner = bench.make(bench.declare(concurrency=3), has_threads=True)

    with bench.running(runner):
        assert wait_for_job(job_id)["status"] == "succeeded"
    workshop.check_books()


@on_fresh_databases
def test_what_is_claimed_again_after_a_commit_that_failed_is_not_given_back(
    workshop: Workshop, bench: Bench
) -> None:
    job_id = workshop.enqueue(n_items=4, window=2)
    runner = bench.make()
    runner.tick()
    bench.executor.run()

    def break_off(connection: Connection) -> None:
        raise OperationalError("COMMIT", {}, psycopg.OperationalError("server closed the connection"))

    event.listen(bench.database.engine, "commit", break_off)
    with pytest.raises(OperationalError):
        runner.tick()
    event.remove(bench.database.engine, "commit", break_off)
    runner.tick()

    running = workshop.select_all("SELECT epoch FROM chunks WHERE status = 'running'")
    assert len(running) == len(bench.executor.waiting) == 2
    bench.executor.run()
    runner.tick()
    assert workshop.job(job_id)["status"] == "succeeded"
    workshop.check_books()
