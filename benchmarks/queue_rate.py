"""Jobs per second of a queue full of one-item jobs: enqueued by verb and by API, drained by one runner.

    make bench ARGS="queue_rate --jobs 5000"

Each job is a job of its own over one small input, and each is a transaction of its own. The model does nothing.
By API means a POST of the item and the job in one request, through WSGI and without a socket. The runner is a
process of its own with 8 threads; its rate is from its first claim to the last end, by the database's clock.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from subprocess import DEVNULL, Popen

from sqlalchemy import text

from app.config import Settings
from app.data.chunks import Limits
from app.db import Database
from app.factory import create_app
from app.jobs import control, uploads
from app.jobs.ids import new_id
from app.models import JsonObject
from benchmarks.databases import fresh

LIMITS = Limits(chunk_items=1000, chunk_bytes=1 << 20, max_item_bytes=1 << 20, max_bytes=1 << 30)
MODELS = """
[[model]]
name = "nothing"
version = "1"
class = "benchmarks.queue_rate:Nothing"
concurrency = 8
"""
GIVE_UP_SECONDS = 120


class Nothing:
    """Answers at once, so that what is measured is the queue."""

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        return [{"ok": True} for _ in items]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="queue_rate")
    parser.add_argument("--jobs", type=int, default=5000)
    options = parser.parse_args(arguments)
    for kind in ("sqlite", "postgres"):
        with fresh(kind) as url, tempfile.TemporaryDirectory() as folder:
            models_file = Path(folder) / "models.toml"
            models_file.write_text(MODELS)
            print(f"{kind}: {options.jobs:,} jobs of one item")
            for name, enqueue in (("verb", enqueue_by_verb), ("API", enqueue_by_api)):
                database = Database(url)
                started = time.perf_counter()
                enqueue(database, models_file, options.jobs)
                report(f"enqueue by {name}", options.jobs, time.perf_counter() - started)
                report("drain, 8 threads", options.jobs, drain_seconds(database, models_file))
                database.dispose()


def report(name: str, n_jobs: int, seconds: float) -> None:
    print(f"  {name:18s} {seconds:8.2f} s {n_jobs / seconds:10,.0f} jobs/s", flush=True)


def enqueue_by_verb(database: Database, _models_file: Path, n_jobs: int) -> None:
    for number in range(n_jobs):
        with database.writing() as session:
            input_id = uploads.receive_items(session, [{"id": number}], LIMITS)
            control.enqueue(
                session, job_id=new_id(), model="nothing", version="1", input_id=input_id, window=16
            )


def enqueue_by_api(database: Database, models_file: Path, n_jobs: int) -> None:
    settings = Settings(database_url=database.url, models_file=models_file, runner="off", log_level="error")
    client = create_app(settings).test_client()
    for number in range(n_jobs):
        answer = client.post("/v1/jobs", json={"model": "nothing", "data": [{"id": number}]})
        if answer.status_code != 202:
            sys.exit(f"a job was refused: {answer.status} {answer.text}")


def drain_seconds(database: Database, models_file: Path) -> float:
    """From the first claim to the last end of all jobs that are waiting; each must have succeeded."""
    environment = {
        **os.environ,
        "DATABASE_URL": database.url.render_as_string(hide_password=False),
        "TWOFOLD_MODELS_FILE": str(models_file),
        "TWOFOLD_RUNNER_THREADS": "8",
        "TWOFOLD_LOG_LEVEL": "warning",
        "PYTHONPATH": ".",
    }
    open_jobs = text("SELECT count(*) FROM jobs WHERE finished_at IS NULL")
    with database.reading() as session:
        (before,) = session.execute(text("SELECT count(*) FROM jobs WHERE status = 'succeeded'")).one()
        n_open = session.scalar(open_jobs)
    command = [sys.executable, "-c", "from app.cli import main; main()", "run"]
    runner = Popen(command, env=environment, stderr=DEVNULL)
    deadline = time.monotonic() + GIVE_UP_SECONDS
    try:
        while True:
            time.sleep(0.25)  # seldom enough to cost the runner nothing
            with database.reading() as session:
                if not session.scalar(open_jobs):
                    break
            if runner.poll() is not None:
                sys.exit(f"the runner ended by itself, with status {runner.returncode}")
            if time.monotonic() > deadline:
                sys.exit(f"the jobs did not end within {GIVE_UP_SECONDS} seconds")
    finally:
        runner.terminate()
        runner.wait()
    with database.reading() as session:
        (after,) = session.execute(text("SELECT count(*) FROM jobs WHERE status = 'succeeded'")).one()
        if after - before != n_open:
            sys.exit("not every job succeeded")
        return seconds_of_latest(session.connection().dialect.name == "postgresql", session, n_open)


def seconds_of_latest(is_postgres: bool, session: object, n_jobs: int) -> float:
    """Seconds between the first start and the last end of the newest jobs."""
    span = (
        "extract(epoch FROM max(finished_at) - min(started_at))"
        if is_postgres
        else "(julianday(max(finished_at)) - julianday(min(started_at))) * 86400.0"
    )
    newest = text(f"SELECT {span} FROM (SELECT * FROM jobs ORDER BY id DESC LIMIT :n_jobs) AS newest")
    return float(session.execute(newest, {"n_jobs": n_jobs}).scalar_one())  # type: ignore[attr-defined]  # a Session
