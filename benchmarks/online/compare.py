"""Both lanes of this project beside other model servers: requests per second, latencies, and their ratios.

    make bench ARGS="online"
    make bench ARGS="online --servers wsgi-lane,bare-wsgi --models nothing --items 1 --rounds 1 --seconds 2"

Peers: FastAPI and uvicorn as in the article, mosec with and without batching, and a bare callable on gunicorn's
threaded and on its ASGI worker, with this project's settings. Each has 2 worker processes. All run at once, idle
but for the one under load. Before that, every server must have given the right answer to every body. The load
generator has the same cores as the server.

A machine's speed can change within seconds. So in each round and case (model, items per request, connections) the
servers take turns of a short `--slice`, forward and backward, until each has had its `--seconds`. A ratio is the
median of the turns' own ratios; rates and latencies are medians of slices. Slices of 0.5 s are too short for 64
connections: the first request of each, which waits for all others to connect, is one in a hundred then, and the p99;
and a rate leaves out what is in flight when a slice ends, a few percent for servers that answer in batches.

The first run makes two environments with pinned versions in a scratch folder (`--scratch`), which later runs use
again. `--results benchmarks/results` writes `online.jsonl` and `online.md` there, to be committed.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product

from benchmarks.online import load, report
from benchmarks.online.bodies import ITEMS_PER_REQUEST
from benchmarks.online.options import numbers, some_of
from benchmarks.online.options import parser as online_options
from benchmarks.online.scratch import PEER_VERSIONS, Scratch
from benchmarks.online.servers import SERVERS, Running, choose, running

MODELS = ("nothing", "tfidf")
WARM_UP_SECONDS = 1
Case = tuple[str, int, int]
"""Model, items per request, connections."""


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    scratch = Scratch(options.scratch)
    scratch.prepare_online()
    servers = choose(options.servers)
    cases = list(product(options.models, options.items, options.connections))
    n_turns = max(1, round(options.seconds / options.slice))
    measured: list[report.Row] = []
    with running(servers, scratch, options.models) as started:
        for server, model in product(started, options.models):
            load.send(scratch, server.url(model), n_items=1, n_connections=16, seconds=WARM_UP_SECONDS)
        for round_number in range(options.rounds):
            print(f"round {round_number + 1} of {options.rounds}", flush=True)
            for number, case in enumerate(cases):
                for turn, server in _turns(started, round_number + number, n_turns):
                    seen = _slice(scratch, server, case, options.slice)
                    measured.append(_row(server, case, round_number, turn, seen))
    lines = [
        *report.heading(
            "Online predictions, side by side", "online", arguments, scratch.versions(peers=PEER_VERSIONS)
        ),
        *report.tables(measured, [server.name for server in servers], options.slice),
    ]
    report.publish(options.results or scratch.folder / "results", "online", lines, measured)


def _turns(servers: Sequence[Running], first: int, n_turns: int) -> Iterator[tuple[int, Running]]:
    """All servers in each turn, by its number: every second one backward, another server first after each two."""
    for turn in range(n_turns):
        start = (first + turn // 2) % len(servers)
        forward = [*servers[start:], *servers[:start]]
        yield from ((turn, server) for server in (reversed(forward) if turn % 2 else forward))


def _slice(scratch: Scratch, server: Running, case: Case, seconds: float) -> load.Load:
    """Loads the server, and lets it finish what it was still doing before another one has its turn."""
    model, n_items, n_connections = case
    seen = load.send(
        scratch, server.url(model), n_items=n_items, n_connections=n_connections, seconds=seconds
    )
    time.sleep(seen.p99_us / 1e6)
    return seen


def _row(server: Running, case: Case, round_number: int, turn: int, seen: load.Load) -> report.Row:
    model, n_items, n_connections = case
    return report.Row(
        server=server.server.name,
        model=model,
        n_items=n_items,
        n_connections=n_connections,
        round=round_number,
        turn=turn,
        **asdict(seen),
    )


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = online_options("online", rounds=3, seconds=5)
    parser.add_argument("--slice", type=float, default=2.0, help="seconds of each turn of a server")
    parser.add_argument("--servers", type=some_of(SERVERS), default=list(SERVERS), help="a,b,c")
    parser.add_argument("--models", type=some_of(MODELS), default=list(MODELS), help="nothing,tfidf")
    parser.add_argument("--items", type=numbers, default=list(ITEMS_PER_REQUEST), help="per request: 1,100")
    parser.add_argument("--connections", type=numbers, default=[1, 16, 64])
    return parser.parse_args(arguments)
