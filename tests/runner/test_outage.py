"""While the database is away a runner loses nothing: what ran stays with it until it can be written down."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from app.db import Database
from app.jobs import queue
from app.runner import AWAY_SECONDS
from tests.conftest import on_fresh_databases
from tests.jobs.conftest import Workshop
from tests.runner.conftest import Bench
from tests.waiting import wait_until

AWAY = OperationalError("UPDATE chunks", {}, Exception("server closed the connection unexpectedly"))


class Flaky:
    """Stands for a verb of the queue: fails so many times, then does what the verb does."""

    def __init__(self, verb: Callable[..., Any], n_failures: int, *, is_done_first: bool = False) -> None:
        self.verb = verb
        self.n_failures = n_failures
        self.is_done_first = is_done_first  # the statements ran, and then the connection broke

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.n_failures and not self.is_done_first:
            self.n_failures -= 1
            raise AWAY
        answer = self.verb(*args, **kwargs)
        if self.n_failures:
            self.n_failures -= 1
            raise AWAY
        return answer


@pytest.mark.parametrize("is_done_first", [False, True])
def test_a_result_stays_until_it_is_committed(
    workshop: Workshop, bench: Bench, monkeypatch: pytest.MonkeyPatch, is_done_first: bool
) -> None:
    job_id = workshop.enqueue(n_items=2)
    runner = bench.make()
    runner.tick()
    bench.executor.run()
    monkeypatch.setattr("app.jobs.queue.finish", Flaky(queue.finish, 1, is_done_first=is_done_first))

    with pytest.raises(OperationalError):
        runner.tick()
    assert workshop.job(job_id)["n_succeeded"] == 0
    runner.tick()

    assert workshop.job(job_id)["status"] == "succeeded"
    assert bench.stage.seen == [0, 1], "and no item was predicted twice"
    workshop.check_books()


@pytest.mark.parametrize("is_committed", [True, False])
def test_what_a_broken_commit_may_have_claimed_is_claimed_again(
    workshop: Workshop, bench: Bench, monkeypatch: pytest.MonkeyPatch, is_committed: bool
) -> None:
    """The server may commit a claim and the connection break before it says so: nobody would run those chunks."""
    job_id = workshop.enqueue(n_items=2)
    runner = bench.make()
    writing = bench.database.writing

    @contextmanager
    def break_commit() -> Iterator[Session]:
        with writing() as session:
            yield session
            if not is_committed:
                raise AWAY
        raise AWAY

    with monkeypatch.context() as outage:
        outage.setattr(bench.database, "writing", break_commit)
        with pytest.raises(OperationalError):
            runner.tick()
    assert not bench.executor.waiting
    runner.tick()
    bench.executor.run()
    runner.tick()

    assert workshop.job(job_id)["status"] == "succeeded"
    assert workshop.select_all("SELECT DISTINCT attempts FROM chunks") == [{"attempts": 1}]
    workshop.check_books()


def test_the_loop_outlives_an_outage_of_every_verb(
    workshop: Workshop,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    wait_for_job: Callable[[str], dict[str, Any]],
) -> None:
    monkeypatch.setattr("app.runner.AWAY_SECONDS", 0.02)
    for verb in ("heads", "claim", "finish"):
        monkeypatch.setattr(f"app.jobs.queue.{verb}", Flaky(getattr(queue, verb), 3))
    job_id = workshop.enqueue(n_items=5)

    with bench.running(bench.make(has_threads=True, poll_seconds=60.0)):
        assert wait_for_job(job_id)["n_succeeded"] == 5
    assert sorted(bench.stage.seen) == list(range(5))
    workshop.check_books()


def test_with_results_in_hand_it_asks_the_database_once_a_second_and_tells_that_it_lives(
    workshop: Workshop, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[tuple[float, int]] = []
    asked = Flaky(queue.finish, 1000)
    monkeypatch.setattr("app.jobs.queue.finish", asked)
    heartbeats: list[None] = []
    job_id = workshop.enqueue(n_items=2)
    runner = bench.make(heartbeat=lambda: heartbeats.append(None))

    def rest(seconds: float) -> None:
        bench.executor.run()
        rests.append((seconds, 1000 - asked.n_failures))
        if len(rests) == 5:
            asked.n_failures = 0
        if workshop.job(job_id)["finished_at"] is not None:
            runner.stop()

    monkeypatch.setattr(runner, "_rest", rest)
    assert runner.run()

    away = [(seconds, n_asked) for seconds, n_asked in rests if seconds == AWAY_SECONDS]
    assert away == [(AWAY_SECONDS, n) for n in range(1, 1 + len(away))], "it rests after each"
    assert len(away) >= 3
    assert len(heartbeats) >= len(rests)
    assert bench.stage.seen == [0, 1]
    workshop.check_books()


def test_an_error_that_no_waiting_mends_ends_the_loop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def misspelled(*args: Any) -> None:
        raise ProgrammingError("SELEC", {}, Exception("syntax error"))

    monkeypatch.setattr("app.jobs.queue.heads", misspelled)
    runner = bench.make(has_threads=True)

    with pytest.raises(ProgrammingError):
        runner.run()
    runner._leases.stop()  # which the end of the process does otherwise


@on_fresh_databases
def test_a_runner_waits_for_its_tables(
    workshop: Workshop,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    wait_for_job: Callable[[str], dict[str, Any]],
) -> None:
    monkeypatch.setattr("app.runner.AWAY_SECONDS", 0.02)
    job_id = workshop.enqueue()
    (row,) = workshop.select_all("SELECT version_num FROM alembic_version")
    newest = row["version_num"]
    _set_migration(bench.database, "0000")
    looks = 0
    require = Database.require_current_schema

    def count_looks(database: Database) -> None:
        nonlocal looks
        looks += 1
        require(database)

    monkeypatch.setattr(Database, "require_current_schema", count_looks)
    with bench.running(bench.make(has_threads=True)):
        wait_until(lambda: looks > 2, "the runner to ask for its tables again")
        assert workshop.job(job_id)["status"] == "queued"
        _set_migration(bench.database, newest)
        assert wait_for_job(job_id)["status"] == "succeeded"


def _set_migration(database: Database, revision: str) -> None:
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
