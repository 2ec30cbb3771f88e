"""This project's way: upload a file, run a job over it, download the outputs; and a Dask cluster beside it."""

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import URL, text

from app.db import Database
from benchmarks.bulk.labels import digest
from benchmarks.main_job import run_seconds
from benchmarks.online import jobs_client
from benchmarks.online.scratch import ROOT, Scratch
from benchmarks.online.servers import SERVERS, free_port, running

WARM_UP_ITEMS = 50_000
READY_SECONDS = 60.0


def whole_way(
    scratch: Scratch, url: URL, file: Path, n_runners: int, variables: Mapping[str, str]
) -> dict[str, Any]:
    """Seconds of upload, run and download, how many answers came, and the digest of their labels."""
    settings = {
        "DATABASE_URL": url.render_as_string(hide_password=False),
        "TWOFOLD_RUNNER": "embedded",
        "TWOFOLD_RUNNERS": str(n_runners),
        "TWOFOLD_RUNNER_NICE": "0",  # there are no online requests for it to stand back for
    }
    with running([SERVERS["wsgi-lane"]], scratch, ["tfidf"], settings | dict(variables)) as (server,):
        database = Database(url)
        _warm_up(database, server.port, file, n_runners)
        started = time.perf_counter()
        uploaded = jobs_client.upload(server.port, file)
        upload = time.perf_counter() - started
        job_id = jobs_client.enqueue(server.port, "tfidf", uploaded["id"])
        jobs_client.wait(server.port, job_id)
        answers = file.with_name("answers.ndjson")
        started = time.perf_counter()
        jobs_client.download(server.port, job_id, answers)
        download = time.perf_counter() - started
        run = run_seconds(database, job_id)
        database.dispose()
    with answers.open("rb") as lines:
        parsed = [orjson.loads(line) for line in lines]
    assert [answer["id"] for answer in parsed] == list(range(len(parsed))), (
        "outputs in the order of the inputs"
    )
    labels = digest(answer["sentiment"] for answer in parsed)
    return {"upload": upload, "run": run, "download": download, "n_items": len(parsed), "digest": labels}


def _warm_up(database: Database, port: int, file: Path, n_runners: int) -> None:
    """A small job, once all runners are there, so that each has loaded the model."""
    deadline = time.monotonic() + READY_SECONDS
    n_there = 0
    while n_there < n_runners:
        assert time.monotonic() < deadline, f"{n_there} of {n_runners} runners came"
        with database.reading() as session:
            n_there = session.execute(
                text("SELECT count(*) FROM runners WHERE stopped_at IS NULL")
            ).scalar_one()
    small = file.with_name("warm_up.ndjson")
    with file.open("rb") as whole:
        small.write_bytes(b"".join(line for line, _ in zip(whole, range(WARM_UP_ITEMS), strict=False)))
    uploaded = jobs_client.upload(port, small)
    jobs_client.wait(port, jobs_client.enqueue(port, "tfidf", uploaded["id"]))


@contextmanager
def dask_cluster(scratch: Scratch, n_workers: int) -> Iterator[str]:
    """A scheduler and workers of one thread each, as operators start them; what TWOFOLD_EXECUTOR is to be."""
    port = free_port()
    dask = scratch.bin("service", "dask")
    options = {
        "cwd": ROOT,
        "env": scratch.environment(),
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    address = f"127.0.0.1:{port}"
    scheduler = [dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    workers = [
        dask,
        "worker",
        f"tcp://{address}",
        "--nworkers",
        str(n_workers),
        "--nthreads",
        "1",
        "--no-dashboard",
    ]
    started = [subprocess.Popen(command, **options) for command in (scheduler, workers)]  # type: ignore[call-overload]  # options of both kinds in one dictionary
    try:
        yield f"dask://{address}"
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)
