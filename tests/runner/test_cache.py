"""A runner asks the cache before a chunk runs, and tells it with the commit of what was new."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from app.metrics import CACHE_ITEMS
from app.models import JsonObject
from app.runner import Runner
from tests.conftest import on_fresh_databases
from tests.jobs.conftest import Workshop
from tests.runner.conftest import Bench

SelectAll = Callable[..., list[dict[str, Any]]]


def run(runner: Runner, bench: Bench) -> None:
    """Runs all that waits."""
    runner.tick()
    while bench.executor.waiting:
        bench.executor.run()
        runner.tick()


def cached(bench: Bench, **changes: Any) -> Runner:
    return bench.make(bench.declare(cache=True, **changes))


def counts(workshop: Workshop, job_id: str) -> tuple[int, int, int]:
    job = workshop.job(job_id)
    return job["n_succeeded"], job["n_errored"], job["n_cached"]


def test_a_job_over_items_that_were_predicted_costs_no_call_of_the_model(
    workshop: Workshop, bench: Bench
) -> None:
    first, second, longer = (workshop.enqueue(n_items, chunk_items=3) for n_items in (7, 7, 9))
    runner = cached(bench)

    run(runner, bench)

    assert sorted(bench.stage.seen) == list(range(9))
    assert [workshop.job(job_id)["status"] for job_id in (first, second, longer)] == ["succeeded"] * 3
    assert [workshop.predicted(job_id) for job_id in (first, second)] == [list(range(7))] * 2
    workshop.check_books()
    again = workshop.enqueue(9, chunk_items=4)
    run(runner, bench)
    assert len(bench.stage.seen) == 9
    assert counts(workshop, again) == (9, 0, 9)
    assert workshop.predicted(again) == list(range(9))


def test_hits_and_misses_are_counted(workshop: Workshop, bench: Bench) -> None:
    def counted(result: str) -> float:
        value: float = CACHE_ITEMS.labels("sentiment", "1", "batch", result)._value.get()
        return value

    before = counted("hit"), counted("miss")
    workshop.enqueue(3, chunk_items=3)
    runner = cached(bench)
    run(runner, bench)
    workshop.enqueue(5, chunk_items=5)
    run(runner, bench)

    assert (counted("hit") - before[0], counted("miss") - before[1]) == (3, 5)


def test_a_version_that_is_declared_differently_is_not_answered_with_the_old_predictions(
    workshop: Workshop, bench: Bench
) -> None:
    workshop.enqueue(2, chunk_items=2)
    run(cached(bench), bench)
    job_id = workshop.enqueue(2, chunk_items=2)

    run(cached(bench, sha256="0" * 64), bench)

    assert counts(workshop, job_id) == (2, 0, 0)
    assert bench.stage.seen == [0, 1, 0, 1]


def test_items_that_failed_are_tried_again(workshop: Workshop, bench: Bench) -> None:
    def refuse(items: list[JsonObject]) -> None:
        if any(item["id"] == 1 for item in items):
            raise ValueError("not this one")

    bench.stage.act = refuse
    runner = cached(bench)
    first = workshop.enqueue(3, chunk_items=3)
    run(runner, bench)
    assert counts(workshop, first) == (2, 1, 0)

    second = workshop.enqueue(3, chunk_items=3)
    run(runner, bench)
    assert counts(workshop, second) == (2, 1, 2)

    bench.stage.act = lambda items: None
    workshop.retry(second)
    run(runner, bench)
    assert counts(workshop, second) == (3, 0, 2)
    assert workshop.predicted(second) == [0, 1, 2]
    workshop.check_books()


def test_a_model_without_a_cache_has_none(workshop: Workshop, bench: Bench, select_all: SelectAll) -> None:
    for _ in range(2):
        workshop.enqueue(2, chunk_items=2)
    run(bench.make(), bench)

    assert bench.stage.seen == [0, 1, 0, 1]
    assert select_all("SELECT * FROM cached_predictions") == []


@on_fresh_databases
def test_the_cache_is_asked_in_no_writing_transaction_and_told_in_that_of_the_finish(
    workshop: Workshop, bench: Bench
) -> None:
    workshop.enqueue(2, chunk_items=2)
    runner = cached(bench)
    story: list[str] = []

    def write_down(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        verb = statement.split()[0]
        if "cached_predictions" in statement or verb == "UPDATE" or "INTO outputs" in statement:
            story.append(f"{verb} cached" if "cached_predictions" in statement else verb)

    event.listen(bench.database.engine, "before_cursor_execute", write_down)
    event.listen(bench.database.engine, "commit", lambda _: story.append("COMMIT"))
    runner.tick()
    looked_up = story.index("SELECT cached")
    assert story[looked_up - 1] == "COMMIT"
    story.clear()
    bench.executor.run()
    runner.tick()

    assert story.index("INSERT") < story.index("INSERT cached") < story.index("COMMIT")
    assert story[story.index("INSERT cached") + 1] == "COMMIT"


def test_what_a_stale_runner_predicted_is_not_kept(
    workshop: Workshop, bench: Bench, select_all: SelectAll
) -> None:
    workshop.enqueue(2, chunk_items=2)
    runner = cached(bench)
    runner.tick()
    workshop.let_leases_run_out()
    assert workshop.rescue() == 1
    bench.executor.run(1)

    runner.tick()

    assert bench.stage.seen == [0, 1]
    assert select_all("SELECT * FROM cached_predictions") == []


def test_a_chunk_runs_without_the_cache_when_it_cannot_be_asked(
    workshop: Workshop, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.enqueue(2, chunk_items=2)
    runner = cached(bench)
    run(runner, bench)
    job_id = workshop.enqueue(2, chunk_items=2)

    def fail(*_: Any) -> Any:
        raise OperationalError("SELECT", {}, Exception("the server is gone"))

    monkeypatch.setattr("app.cache.asking.look_up", fail)
    run(runner, bench)

    assert counts(workshop, job_id) == (2, 0, 0)
    assert bench.stage.seen == [0, 1, 0, 1]


def test_a_runner_evicts_what_is_too_much(
    workshop: Workshop, bench: Bench, select_all: SelectAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.jobs.upkeep.EVICT_SECONDS", 0)
    monkeypatch.setattr("app.cache.eviction.ROWS_AT_ONCE", 2)
    workshop.enqueue(7, chunk_items=7)
    runner = cached(bench, cache_max_items=3)
    run(runner, bench)

    for _ in range(4):
        runner.tick()

    assert select_all("SELECT count(*) AS n FROM cached_predictions") == [{"n": 3}]
