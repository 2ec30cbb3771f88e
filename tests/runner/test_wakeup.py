"""A new job starts at once, however seldom the runner polls, and whoever made it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.db import Database
from app.jobs.ids import new_id
from app.jobs.wakeup import Wakeup
from tests.jobs.conftest import Workshop
from tests.runner.conftest import Bench
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
SOON_SECONDS = 10.0
"""Far less than the runners here poll, and enough for a loaded machine."""
ENQUEUE = """
import sys
from sqlalchemy import make_url
from app.db import Database
from app.jobs import control

url, job_id, input_id = sys.argv[1:]
with Database(make_url(url)).writing() as session:
    control.enqueue(session, job_id=job_id, model="sentiment", version="1", input_id=input_id, window=2)
"""

WaitForJob = Callable[..., dict[str, Any]]


def enqueue_elsewhere(database: Database, input_id: str) -> str:
    """Makes a job in a process of its own, as a web worker does; returns its id once it is committed."""
    job_id = new_id()
    url = database.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", ENQUEUE, url, job_id, input_id]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    return job_id


def test_a_job_of_another_process_starts_at_once(
    workshop: Workshop, bench: Bench, wait_for_job: WaitForJob
) -> None:
    input_id = workshop.upload(n_items=6)
    with bench.running(bench.make(has_threads=True, poll_seconds=60.0)):
        job_id = enqueue_elsewhere(bench.database, input_id)
        assert wait_for_job(job_id, SOON_SECONDS)["status"] == "succeeded"
    workshop.check_books()


def test_a_job_that_is_retried_elsewhere_starts_at_once(
    workshop: Workshop, bench: Bench, wait_for_job: WaitForJob
) -> None:
    elsewhere = Workshop(Database(bench.database.url), workshop.select_all)
    job_id = workshop.enqueue(n_items=2)
    workshop.cancel(job_id)
    with bench.running(bench.make(has_threads=True, poll_seconds=60.0)):
        first = workshop.enqueue(n_items=1)
        wait_for_job(first)
        elsewhere.retry(job_id)
        assert wait_for_job(job_id, SOON_SECONDS)["status"] == "succeeded"
    elsewhere.database.dispose()


def test_a_job_of_another_engine_starts_at_once(
    workshop: Workshop, bench: Bench, wait_for_job: WaitForJob
) -> None:
    elsewhere = Workshop(Database(bench.database.url), workshop.select_all)
    with bench.running(bench.make(has_threads=True, poll_seconds=60.0)):
        for _ in range(3):
            wait_for_job(elsewhere.enqueue(n_items=6, window=2), SOON_SECONDS)
    elsewhere.database.dispose()
    workshop.check_books()


def test_a_job_that_waited_for_the_runner_starts_with_it(
    workshop: Workshop, bench: Bench, wait_for_job: WaitForJob
) -> None:
    job_id = workshop.enqueue()
    with bench.running(bench.make(has_threads=True, poll_seconds=60.0)):
        wait_for_job(job_id, SOON_SECONDS)


def test_a_hint_that_was_of_no_use_comes_afterwards(workshop: Workshop) -> None:
    hints: list[None] = []
    ears = Database(workshop.database.url)
    wakeup = Wakeup(ears, lambda: hints.append(None))
    wakeup.start()
    wait_until(lambda: hints, "the first hint, which comes when it listens")
    with wakeup.spared():
        workshop.enqueue()
    wait_until(lambda: len(hints) > 1, "the hint of the job")

    wakeup.stop()
    ears.dispose()


def test_hints_come_again_after_the_connection_broke(
    postgres_url: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres only: a SQLite file does not hang up."""
    monkeypatch.setattr("app.jobs.wakeup.RETRY_SECONDS", 0.1)
    hints: list[None] = []
    ears, mouth = Database(postgres_url), Database(postgres_url)
    wakeup = Wakeup(ears, lambda: hints.append(None))
    wakeup.start()
    wait_until(lambda: hints, "the first hint, which comes when it listens")
    with mouth.writing() as session:
        session.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
        )
    wait_until(lambda: len(hints) == 2, "the hint of listening anew")
    with mouth.writing() as session:
        session.execute(text("NOTIFY twofold_jobs"))
    wait_until(lambda: len(hints) == 3, "the hint of a job")

    monkeypatch.setattr("app.jobs.wakeup.RETRY_SECONDS", 10.0)  # it waits twice as long for its thread
    wakeup.stop()
    assert not wakeup._thread.is_alive()
    ears.dispose()
    mouth.dispose()


def test_its_end_leaves_no_connection_behind(bench: Bench) -> None:
    runner = bench.make(has_threads=True)
    with bench.running(runner):
        wait_until(lambda: bench.database.engine.pool.checkedout() == 1, "the connection that listens")  # type: ignore[attr-defined]  # of QueuePool
    assert bench.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of QueuePool
