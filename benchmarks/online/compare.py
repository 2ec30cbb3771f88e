"""Both lanes of this project beside other model servers: requests per second, latencies, and their ratios.

    make bench ARGS="online"
    make bench ARGS="online --servers wsgi-lane,bare-wsgi --models nothing --items 1 --rounds 1 --seconds 2"

Peers: FastAPI and uvicorn as in the article, mosec with and without batching, and a bare callable on gunicorn's
threaded and on its ASGI worker, with this project's settings. Each has 2 worker processes. All run at once, idle
but for the one under load; in each round every case (model, items per request, connections) is measured on one
server right after the other, in turning order, because a machine's speed drifts. A ratio is the median of the
rounds' own ratios. Before that, every server must have given the right answer to every body. The load generator
has the same cores as the server.

The first run makes two environments with pinned versions in a scratch folder (`--scratch`), which later runs use
again. `--results benchmarks/results` writes `online.jsonl` and `online.md` there, to be committed.
"""

import argparse
from dataclasses import asdict
from itertools import product

from benchmarks.online import load, report
from benchmarks.online.bodies import ITEMS_PER_REQUEST
from benchmarks.online.options import numbers, some_of
from benchmarks.online.options import parser as online_options
from benchmarks.online.scratch import PEER_VERSIONS, Scratch
from benchmarks.online.servers import SERVERS, choose, running

MODELS = ("nothing", "tfidf")
WARM_UP_SECONDS = 1


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    scratch = Scratch(options.scratch)
    scratch.prepare_online()
    servers = choose(options.servers)
    cases = list(product(options.models, options.items, options.connections))
    measured: list[report.Row] = []
    with running(servers, scratch, options.models) as started:
        for server, model in product(started, options.models):
            load.send(scratch, server.url(model), n_items=1, n_connections=16, seconds=WARM_UP_SECONDS)
        for round_number in range(options.rounds):
            print(f"round {round_number + 1} of {options.rounds}", flush=True)
            for number, (model, n_items, n_connections) in enumerate(cases):
                turn = (round_number + number) % len(started)
                for server in started[turn:] + started[:turn]:
                    seen = load.send(
                        scratch,
                        server.url(model),
                        n_items=n_items,
                        n_connections=n_connections,
                        seconds=options.seconds,
                    )
                    measured.append(
                        report.Row(
                            server=server.server.name,
                            model=model,
                            n_items=n_items,
                            n_connections=n_connections,
                            round=round_number,
                            **asdict(seen),
                        )
                    )
    lines = [
        *report.heading(
            "Online predictions, side by side", "online", arguments, scratch.versions(peers=PEER_VERSIONS)
        ),
        *report.tables(measured, [server.name for server in servers]),
    ]
    report.publish(options.results or scratch.folder / "results", "online", lines, measured)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = online_options("online", rounds=3, seconds=5)
    parser.add_argument("--servers", type=some_of(SERVERS), default=list(SERVERS), help="a,b,c")
    parser.add_argument("--models", type=some_of(MODELS), default=list(MODELS), help="nothing,tfidf")
    parser.add_argument("--items", type=numbers, default=list(ITEMS_PER_REQUEST), help="per request: 1,100")
    parser.add_argument("--connections", type=numbers, default=[1, 16, 64])
    return parser.parse_args(arguments)
