"""What serving costs a single request: its latency on one idle connection, less the bare call of the model.

    make bench ARGS="online_overhead"

One item per request, one connection. wrk measures the latency; the model's own time is the median of calls with one
item in a process that does nothing else, measured again in each round, since a machine's speed drifts.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.online import load, report
from benchmarks.online.options import parser, some_of
from benchmarks.online.scratch import PEER_VERSIONS, ROOT, Scratch
from benchmarks.online.servers import SERVERS, choose, running

MODELS = ("nothing", "tfidf")
DEFAULT_SERVERS = ["fast-lane", "wsgi-lane", "bare-asgi", "bare-wsgi"]
CALLS = """
import json, statistics, sys, time
from benchmarks.online.bodies import N_BODIES
from benchmarks.online.classifier import load_all
folder = sys.argv[1]
bodies = [json.load(open(f"{folder}/bodies/1_{number}.json"))["data"][0]["text"] for number in range(N_BODIES)]
medians = {}
for name, predict in load_all().items():
    times = []
    for number in range(2000):
        started = time.perf_counter_ns()
        predict([bodies[number % N_BODIES]])
        times.append(time.perf_counter_ns() - started)
    medians[name] = statistics.median(times) / 1000
print(json.dumps(medians))
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One server and model in one round."""

    server: str
    model: str
    round: int
    model_us: float
    p50_us: int
    p99_us: int
    n_errors: int


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    scratch = Scratch(options.scratch)
    scratch.prepare_online()
    measured: list[Row] = []
    with running(choose(options.servers), scratch, options.models) as started:
        for server in started:
            for model in options.models:
                load.send(scratch, server.url(model), n_items=1, n_connections=1, seconds=1)
        for number in range(options.rounds):
            for model in options.models:
                model_us = bare_calls(scratch)[model]
                turn = number % len(started)
                for server in started[turn:] + started[:turn]:
                    seen = load.send(
                        scratch, server.url(model), n_items=1, n_connections=1, seconds=options.seconds
                    )
                    measured.append(
                        Row(
                            server=server.server.name,
                            model=model,
                            round=number,
                            model_us=model_us,
                            p50_us=seen.p50_us,
                            p99_us=seen.p99_us,
                            n_errors=seen.n_errors,
                        )
                    )
    lines = report.heading(
        "Overhead of one request", "online_overhead", arguments, scratch.versions(peers=PEER_VERSIONS)
    )
    names = [server.server.name for server in started]
    folder = options.results or scratch.folder / "results"
    report.publish(folder, "online_overhead", [*lines, *_table(measured, names)], measured)


def bare_calls(scratch: Scratch) -> dict[str, float]:
    """Microseconds of the median call of each model with one item."""
    command = [scratch.bin("service", "python"), "-c", CALLS, str(scratch.folder)]
    run = subprocess.run(command, env=scratch.environment(), cwd=ROOT, check=True, capture_output=True)
    medians: dict[str, float] = json.loads(run.stdout)
    return medians


def _table(rows: Sequence[Row], servers: Sequence[str]) -> list[str]:
    body = []
    for model in dict.fromkeys(row.model for row in rows):
        for name in servers:
            own = [row for row in rows if (row.model, row.server) == (model, name)]
            body.append(
                [
                    model,
                    name,
                    f"{report.median(row.model_us for row in own):.0f}",
                    f"{report.median(row.p50_us for row in own):.0f}",
                    f"{report.median(row.p99_us for row in own):.0f}",
                    f"{report.median(row.p50_us - row.model_us for row in own):.0f}",
                    f"{report.median(row.p99_us - row.model_us for row in own):.0f}",
                    str(sum(row.n_errors for row in own)),
                ]
            )
    columns = [
        "model",
        "server",
        "model µs",
        "p50 µs",
        "p99 µs",
        "overhead p50 µs",
        "overhead p99 µs",
        "errors",
    ]
    return report.table(columns, body)


def _options(arguments: list[str]) -> argparse.Namespace:
    made = parser("online_overhead", rounds=5, seconds=3)
    made.add_argument("--servers", type=some_of(SERVERS), default=DEFAULT_SERVERS, help="a,b,c")
    made.add_argument("--models", type=some_of(MODELS), default=list(MODELS), help="nothing,tfidf")
    return made.parse_args(arguments)
