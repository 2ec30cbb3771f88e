"""What the result cache saves and costs: jobs of VADER over the same items, without it, with nothing in it, with all.

    make bench ARGS="result_cache --items 100000 --rounds 3"

One gunicorn with one web worker and one runner. Each round has items of its own, and three jobs over them: of a version
without a cache, of one with a cache that knows none of them, and of that one again. Seconds are the jobs' own
`finished_at - started_at`; the ratios are of the jobs of one round.
"""

import argparse
import statistics
import sys
import tempfile
from datetime import datetime

import orjson

from benchmarks.databases import fresh
from benchmarks.main_job import TEXTS
from benchmarks.served import Service, service

MODELS = """
[[model]]
name = "plain"
version = "1"
class = "app.models.sentiment:Sentiment"

[[model]]
name = "cached"
version = "1"
class = "app.models.sentiment:Sentiment"
cache = true
"""
JOBS = ("no cache", "all misses", "all hits")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="result_cache")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as models_file:
        models_file.write(MODELS)
        models_file.flush()
        for kind in ("sqlite", "postgres"):
            with fresh(kind) as url, service(url, TWOFOLD_MODELS_FILE=models_file.name) as running:
                rounds = [one_round(running, number, options.items) for number in range(options.rounds)]
            report(kind, rounds, options.items)


def one_round(running: Service, number: int, n_items: int) -> list[float]:
    """Seconds of each job."""
    items = ({"text": f"{TEXTS[place % 4]} ({number}, {place})"} for place in range(n_items))
    input_id = running.upload(b"\n".join(map(orjson.dumps, items)))["id"]
    seconds = []
    for model, n_cached in (("plain", 0), ("cached", 0), ("cached", n_items)):
        job = running.run(input_id, model)
        if job["counts"]["cached"] != n_cached:
            sys.exit(f"{job['counts']['cached']} items came from the cache, not {n_cached}")
        begun, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
        seconds.append((ended - begun).total_seconds())
    return seconds


def report(kind: str, rounds: list[list[float]], n_items: int) -> None:
    print(f"{kind}: {n_items:,} items, medians of {len(rounds)} rounds")
    for place, name in enumerate(JOBS):
        ratios = [seconds[place] / seconds[0] for seconds in rounds]
        spent = statistics.median(seconds[place] for seconds in rounds)
        print(
            f"  {name:10s} {spent:8.3f} s {n_items / spent:10,.0f} items/s"
            f" {statistics.median(ratios):7.3f} x no cache ({min(ratios):.3f} to {max(ratios):.3f})"
        )
