"""The soak: real processes under random kills, while clients upload, make jobs and ask for them.

`make soak`; by hand `python -m tests.soak.soak --kills 200 --database postgres --seed 7`. It prints what it did
and what it found, and ends with status 1 if anything was lost, doubled or left unfinished.
"""

import argparse
import io
import random
import sys
import tempfile
import time
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from sqlalchemy import URL, make_url

from app.db import Database
from tests.outage.postgres import OwnPostgres, own_postgres
from tests.process.conftest import Server
from tests.soak.clients import FAILING, Client, Findings
from tests.soak.violence import Violence

MODELS = f'''
import threading


class Brisk:
    """Doubles numbers at once, so that many chunks go into one call, and cannot do it for some."""

    def predict(self, items):
        numbers = [item["number"] for item in items]
        if any(number % {FAILING} == 0 for number in numbers):
            raise ArithmeticError("no")
        return [{{"double": 2 * number}} for number in numbers]


class Busy(Brisk):
    """Takes its time."""

    def predict(self, items):
        threading.Event().wait(0.03)
        return super().predict(items)
'''
DECLARED = """
[[model]]
name = "busy"
version = "1"
class = "soaked:Busy"
concurrency = 4

[[model]]
name = "brisk"
version = "1"
class = "soaked:Brisk"
"""
ENVIRONMENT = {
    "TWOFOLD_LEASE_SECONDS": "1",
    "TWOFOLD_POLL_SECONDS": "0.2",
    "TWOFOLD_CHUNK_ITEMS": "10",
    # A chunk may be hit by several kills, none of which is its own fault: here no item is to be blamed.
    "TWOFOLD_MAX_ATTEMPTS": "1000",
}
N_CLIENTS = 3
SETTLE_SECONDS = 120.0


def soak(
    url: URL,
    directory: Path,
    seed: int,
    *,
    kills: int,
    seconds: float,
    executor: str = "thread",
    postgres: OwnPostgres | None = None,
    is_quiet: bool = False,
) -> tuple[Violence, Findings]:
    """Kills so many processes, for at most so many seconds; then lets all jobs end, and looks at them."""
    (directory / "soaked.py").write_text(MODELS)
    server = Server(Database(url), directory, "asgi")
    server.declare(DECLARED)
    server.environment |= ENVIRONMENT | {"TWOFOLD_EXECUTOR": executor}
    clients = [Client(server.port, random.Random(seed + number), number) for number in range(N_CLIENTS)]
    violence = Violence(server, random.Random(seed), postgres)
    try:
        violence.start()
        for client in clients:
            client.start()
        until = time.monotonic() + seconds
        while violence.n_kills < kills and time.monotonic() < until:
            violence.strike()
        violence.relent()
        for client in clients:
            client.stop()
        findings = Findings.of(clients, server.database, SETTLE_SECONDS)
    finally:
        violence.end()
        with (
            redirect_stdout(io.StringIO()) if is_quiet else nullcontext()
        ):  # its log, a line for each request
            server.end()
        server.database.dispose()
    return violence, findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--executor", choices=["thread", "process"], default="thread")
    parser.add_argument("--kills", type=int, default=100, help="on each database")
    parser.add_argument("--seconds", type=float, default=180.0, help="at most, on each database")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    chosen = parser.parse_args()
    is_well = True
    for kind in ("sqlite", "postgres") if chosen.database == "both" else (chosen.database,):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            options: dict[str, Any] = {
                "executor": chosen.executor,
                "kills": chosen.kills,
                "seconds": chosen.seconds,
                "is_quiet": True,
            }
            if kind == "postgres":
                with own_postgres(directory / "pg") as postgres:
                    violence, findings = soak(
                        postgres.url, directory, chosen.seed, **options, postgres=postgres
                    )
            else:
                url = make_url(f"sqlite:///{directory}/twofold.db")
                database = Database(url)
                database.upgrade()
                database.dispose()
                violence, findings = soak(url, directory, chosen.seed, **options)
        sys.stdout.write(f"{kind}, {chosen.executor}, seed {chosen.seed}: {violence}\n  {findings}\n")
        is_well &= findings.is_well
    sys.exit(not is_well)


if __name__ == "__main__":
    main()
