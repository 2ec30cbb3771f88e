"""Requests while a model version is swapped back and forth: how many fail, and what it costs those that wait.

    make bench ARGS="swap --requests 10000"

Both lanes, two web workers, VADER as the model, on eight connections that are kept. As soon as a version alone
answers, `models.toml` gets the other one and all processes are told to reload: each loads VADER anew beside the one
that serves.
"""

import argparse
import http.client
import statistics
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import orjson

from app.db import Database
from app.versions.events import tell_reload
from benchmarks.databases import fresh
from benchmarks.served import Service, service

N_CONNECTIONS, N_WORKERS = 8, 2
N_LATEST = 100
"""When so many answers in a row are of one version, both workers have it."""
MODEL = '[[model]]\nname = "mood"\nversion = "{}"\nclass = "app.models.sentiment:Sentiment"\n'
BODY = orjson.dumps({"data": [{"text": "What a lovely day, but the train was late."}] * 5})
HEADERS = {"Content-Type": "application/json"}


@dataclass
class Seen:
    """What clients saw. Appends and counts of one thread each: safe enough under the GIL."""

    versions: Counter[str] = field(default_factory=Counter)
    latest: deque[str] = field(default_factory=lambda: deque(maxlen=N_LATEST))
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="swap")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="postgres")
    options = parser.parse_args(arguments)
    print("lane   swaps  requests  failed  p50 ms  p99 ms  longest ms  by version")
    for lane in ("asgi", "wsgi"):
        for swaps in (False, True):
            with (
                fresh(options.database) as url,
                service(url, models=MODEL.format(1), lane=lane, workers=N_WORKERS) as running,
            ):
                database = Database(url)
                report(lane, *measure(running, database, options.requests, swaps=swaps))
                database.dispose()


def measure(running: Service, database: Database, n_requests: int, *, swaps: bool) -> tuple[int, Seen]:
    seen, is_over, n_swaps = Seen(), threading.Event(), 0
    with ThreadPoolExecutor(N_CONNECTIONS) as pool:
        asking = [
            pool.submit(ask, running.port, n_requests // N_CONNECTIONS, seen) for _ in range(N_CONNECTIONS)
        ]
        for future in asking:
            future.add_done_callback(lambda _: all(each.done() for each in asking) and is_over.set())
        while swaps and not is_over.is_set():
            n_swaps += swap(running, database, str((n_swaps + 1) % 2 + 1), seen, is_over)
    for future in asking:
        future.result()
    return n_swaps, seen


def swap(running: Service, database: Database, version: str, seen: Seen, is_over: threading.Event) -> bool:
    """Has a version take over, and waits until it answers; False if the clients were through before."""
    running.models_file.write_text(MODEL.format(version))
    with database.writing() as session:
        tell_reload(session)
    while not is_over.wait(0.02):
        if list(seen.latest) == [version] * N_LATEST:
            return True
    return False


def ask(port: int, n_requests: int, seen: Seen) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for _ in range(n_requests):
        began_at = time.perf_counter()
        try:
            connection.request("POST", "/v1/models/mood/predict", BODY, HEADERS)
            response = connection.getresponse()
            answer = orjson.loads(response.read())
        except (OSError, http.client.HTTPException) as error:
            seen.failures.append(repr(error))
            connection.close()
            continue
        if response.status == 200 and len(answer["prediction"]) == 5:
            seen.versions[answer["version"]] += 1
            seen.latest.append(answer["version"])
            seen.seconds.append(time.perf_counter() - began_at)
        else:
            seen.failures.append(f"{response.status}: {answer}")
    connection.close()


def report(lane: str, n_swaps: int, seen: Seen) -> None:
    n_requests = len(seen.seconds) + len(seen.failures)
    cuts = statistics.quantiles(seen.seconds, n=100)
    p50, p99, longest = (1000 * seconds for seconds in (cuts[49], cuts[98], max(seen.seconds)))
    by_version = ", ".join(f"{version}: {n_times}" for version, n_times in sorted(seen.versions.items()))
    print(
        f"{lane}{n_swaps:8}{n_requests:10}{len(seen.failures):8}{p50:8.1f}{p99:8.1f}{longest:12.1f}  {by_version}",
        flush=True,
    )
    for failure in seen.failures[:5]:
        print(f"  {failure}")
