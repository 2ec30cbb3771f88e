"""The pipe itself: items per second of upload, run and download with a model that does nothing, on both databases.

    make bench ARGS="pipe --items 1000000 --rounds 5"

One gunicorn with one web worker and one runner, asked over a socket by this process. In each round `orjson.loads` of
the same lines is measured first, and each phase is also given as a ratio to it: machines differ, and drift. The run is
the job's own `finished_at - started_at`. Every downloaded line is counted, and the first and last are looked at.
"""

import argparse
import statistics
import sys
import time
from datetime import datetime

import orjson

from benchmarks.databases import fresh
from benchmarks.served import Service, service

PHASES = ("orjson", "upload", "run", "download")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="pipe")
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--database", choices=("sqlite", "postgres"), action="append")
    options = parser.parse_args(arguments)
    text = "The service was friendly, but I waited for an hour."
    lines = [orjson.dumps({"id": index, "text": text}) for index in range(options.items)]
    for kind in options.database or ("sqlite", "postgres"):
        with fresh(kind) as url, service(url) as running:
            rounds = [one_round(running, lines) for _ in range(options.rounds)]
        print(f"{kind}: {len(lines):,} items of {len(lines[-1])} bytes, medians of {options.rounds} rounds")
        for phase, seconds in zip(PHASES, zip(*rounds, strict=True), strict=True):
            ratios = [spent / first[0] for spent, first in zip(seconds, rounds, strict=True)]
            print(
                f"  {phase:10s}{len(lines) / statistics.median(seconds):12,.0f} items/s"
                f"{statistics.median(ratios):8.2f} x orjson ({min(ratios):.2f} to {max(ratios):.2f})"
            )


def one_round(running: Service, lines: list[bytes]) -> tuple[float, float, float, float]:
    """Seconds of each phase."""
    started = time.perf_counter()
    for line in lines:
        orjson.loads(line)
    parsed = time.perf_counter() - started
    body = b"\n".join(lines)
    started = time.perf_counter()
    input_id = running.upload(body)["id"]
    uploaded = time.perf_counter() - started
    job = running.run(input_id)
    begun, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
    started = time.perf_counter()
    blocks = list(running.download(job["id"]))
    downloaded = time.perf_counter() - started
    answers = b"".join(blocks).splitlines()
    ids = [orjson.loads(answer)["id"] for answer in (answers[0], answers[-1])]
    if len(answers) != len(lines) or ids != [0, len(lines) - 1]:
        sys.exit("the outputs are not the inputs")
    return parsed, uploaded, (ended - begun).total_seconds(), downloaded
