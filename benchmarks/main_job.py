"""The main job end to end: NDJSON upload → job → NDJSON outputs, against a bare loop of the same model.

    make bench ARGS="main_job --items 100000 --rounds 3"

The bare loop parses nothing and stores nothing: it calls the same `predict` on the same chunks of items, in one
process, once before the job and once after, since a machine's speed drifts: the bare time is their mean. The
ratio compares it with the job's own run time, `finished_at - started_at`. Medians are of the rounds.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, Popen

import orjson
from sqlalchemy import URL, text

from app.config import Settings
from app.db import Database
from app.factory import create_app
from app.models.sentiment import Sentiment
from benchmarks.databases import fresh

TEXTS = (
    "The staff were friendly and the room was spotless, but breakfast was a disappointment.",
    "Worst purchase I have made in years. It broke on the second day!",
    "It arrived on Tuesday.",
    "Absolutely LOVED it :) would buy again",
)
CHUNK_ITEMS = 1000


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="main_job")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    items = [{"id": index, "text": f"{TEXTS[index % 4]} ({index})"} for index in range(options.items)]
    for kind in ("sqlite", "postgres"):
        with fresh(kind) as url:
            report(kind, url, items, options.rounds)


def report(kind: str, url: URL, items: list[dict[str, object]], rounds: int) -> None:
    database = Database(url)
    environment = {**os.environ, "DATABASE_URL": url.render_as_string(hide_password=False), "PYTHONPATH": "."}
    runner = Popen(
        [sys.executable, "-c", "from app.cli import main; main()", "run"], env=environment, stderr=DEVNULL
    )
    try:
        figures = [one_round(database, items) for _ in range(rounds)]
    finally:
        runner.terminate()
        runner.wait()
        database.dispose()
    bare, upload, run, download = (statistics.median(column) for column in zip(*figures, strict=True))
    ratios = [figure[2] / figure[0] for figure in figures]
    print(f"{kind}: {len(items):,} items, medians of {rounds} rounds")
    for name, seconds in (("bare loop", bare), ("upload", upload), ("job", run), ("download", download)):
        print(f"  {name:10s} {seconds:8.3f} s {len(items) / seconds:12,.0f} items/s")
    print(
        f"  job / bare loop: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}"
    )


def one_round(database: Database, items: list[dict[str, object]]) -> tuple[float, float, float, float]:
    """Seconds of the bare loop, of the upload, of the job's run, and of the download, whose lines are checked."""
    bare = bare_loop(items) / 2
    client = create_app(
        Settings(database_url=database.url, models_file=Path("models.toml"), log_level="error")
    ).test_client()
    body = b"".join(orjson.dumps(item) + b"\n" for item in items)
    started = time.perf_counter()
    uploaded = client.post("/v1/inputs", data=body, content_type="application/x-ndjson").json
    upload = time.perf_counter() - started
    job = client.post("/v1/jobs", json={"model": "sentiment", "input_id": uploaded["id"]}).json
    while not job["done"]:
        job = client.get(f"/v1/jobs/{job['id']}?wait=60").json
    started = time.perf_counter()
    lines = client.get(f"/v1/jobs/{job['id']}/outputs", headers={"Accept": "application/x-ndjson"}).data
    download = time.perf_counter() - started
    ids = [orjson.loads(line)["id"] for line in lines.splitlines()]
    if ids != list(range(len(items))):
        sys.exit("the outputs are not the inputs, once each and in order")
    bare += bare_loop(items) / 2
    return bare, upload, run_seconds(database, job["id"]), download


def bare_loop(items: list[dict[str, object]]) -> float:
    model = Sentiment()
    model.load(None)
    started = time.perf_counter()
    for first in range(0, len(items), CHUNK_ITEMS):
        model.predict(items[first : first + CHUNK_ITEMS])
    return time.perf_counter() - started


def run_seconds(database: Database, job_id: str) -> float:
    with database.reading() as session:
        query = text("SELECT run_seconds FROM job_history WHERE job_id = :job_id")
        return float(session.execute(query, {"job_id": job_id}).scalar_one())
