"""Memory of web workers whose model has large weights, loaded by each of them and preloaded before the fork.

    make bench ARGS="preload --mib 256 --workers 4"

A model of numpy weights, each worker asked until all have answered. PSS counts a page that several processes share in
equal parts, so it adds up; RSS counts it in full in each (proc(5), smaps_rollup).
"""

import argparse
import http.client
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import orjson

from app.models import JsonObject
from benchmarks.databases import fresh
from benchmarks.served import Service, service

ENTRY = """
[[model]]
name = "dense"
version = "1"
class = "benchmarks.preload:Dense"
artifact = "{artifact}"
preload = {preload}
"""
N_REQUESTS = 120


class Dense:
    """Multiplies by a matrix, all of which it reads."""

    def load(self, artifact: Path | None) -> None:
        assert artifact is not None
        self.weights = np.load(artifact)

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        total = float(self.weights.sum())
        return [{"total": total} for _ in items]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="preload")
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args(arguments)
    print(
        f"{options.mib} MiB of weights, {options.workers} web workers; MiB of each, and of all with the arbiter"
    )
    print("preload  lane  RSS of workers            PSS of workers            PSS of all")
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "weights.npy"
        np.save(artifact, np.ones(options.mib << 17))
        for lane in ("asgi", "wsgi"):
            for preload in ("false", "true"):
                models = ENTRY.format(artifact=artifact, preload=preload)
                with (
                    fresh("sqlite") as url,
                    service(
                        url, models=models, lane=lane, workers=options.workers, TWOFOLD_RUNNER="off"
                    ) as running,
                ):
                    ask(running)
                    report(running, lane, preload)


def ask(running: Service) -> None:
    """So many requests, each on a connection of its own, that every worker has had some."""
    for _ in range(N_REQUESTS):
        with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)) as connection:
            body = orjson.dumps({"data": [{}]})
            connection.request("POST", "/v1/models/dense/predict", body, {"Content-Type": "application/json"})
            assert connection.getresponse().status == 200


def report(running: Service, lane: str, preload: str) -> None:
    arbiter = running.process.pid
    workers = Path(f"/proc/{arbiter}/task/{arbiter}/children").read_text().split()
    rss, pss = (" ".join(f"{mib(worker, name):5.0f}" for worker in workers) for name in ("Rss", "Pss"))
    total = sum(mib(process, "Pss") for process in (*workers, arbiter))
    print(f"{preload:8} {lane}  {rss:25} {pss:25} {total:8.0f}", flush=True)


def mib(process: int | str, name: str) -> float:
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    return int(rollup.split(f"\n{name}:")[1].split()[0]) / 1024
