"""A runner outlives every outage: it waits, goes on, and its jobs end as if nothing had been."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import URL

from app.db import Database
from tests.conftest import selecting
from tests.jobs.conftest import Workshop
from tests.outage.postgres import own_postgres
from tests.outage.test_http import limited, terminate
from tests.runner.conftest import Bench, Stage
from tests.waiting import wait_until

N_ITEMS = 12


def run_through(database: Database, outage: Callable[[], None]) -> None:
    """Runs a job of many chunks; the outage comes while its first is in the model."""
    stage = Stage()
    is_in_model, may_go_on = threading.Event(), threading.Event()

    def act(_items: Any) -> None:
        is_in_model.set()
        assert may_go_on.wait(30)

    stage.act = act
    workshop = Workshop(database, selecting(database))
    job_id = workshop.enqueue(n_items=N_ITEMS, window=2)
    bench = Bench(database, stage)
    runner = bench.make(has_threads=True, poll_seconds=0.1)
    with bench.running(runner):
        assert is_in_model.wait(20)
        threading.Timer(0.3, may_go_on.set).start()  # in the middle of the outage
        outage()
        job = wait_until(lambda: _ended(workshop, job_id), "the end of the job", 30)

    assert (job["status"], job["n_succeeded"]) == ("succeeded", N_ITEMS)
    assert sorted(stage.seen) == list(range(N_ITEMS)), "and nothing was predicted twice"
    workshop.check_books()


def test_postgres_stops_and_starts(tmp_path_factory: pytest.TempPathFactory, away: None) -> None:
    with own_postgres(tmp_path_factory.mktemp("outage") / "pg") as postgres:
        database = Database(postgres.url)

        def outage() -> None:
            postgres.stop()
            threading.Event().wait(0.6)
            postgres.start()

        run_through(database, outage)
        database.dispose()


def test_all_connections_are_terminated(postgres_url: URL, away: None) -> None:
    database = Database(postgres_url)

    def outage() -> None:
        for _ in range(5):
            terminate(postgres_url)

    run_through(database, outage)
    database.dispose()


def test_another_process_locks_the_sqlite_file(
    sqlite_url: URL, away: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.BUSY_SECONDS", 0.05)
    database = Database(sqlite_url)

    def outage() -> None:
        with closing(sqlite3.connect(str(sqlite_url.database), isolation_level=None, timeout=10)) as other:
            other.execute("BEGIN EXCLUSIVE")
            threading.Event().wait(1.0)  # several times what a writer waits
            other.execute("ROLLBACK")

    run_through(database, outage)
    database.dispose()


def test_the_disk_is_full(sqlite_url: URL, away: None) -> None:
    database = Database(sqlite_url)

    def outage() -> None:
        limit = limited(database, 0)
        threading.Event().wait(1.0)  # while the runner would like to write outputs
        limit(1 << 30)

    run_through(database, outage)
    database.dispose()


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.runner.AWAY_SECONDS", 0.1)


def _ended(workshop: Workshop, job_id: str) -> dict[str, Any] | None:
    job = workshop.job(job_id)
    return job if job["finished_at"] is not None else None
