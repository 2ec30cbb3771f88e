"""Peak memory of the web worker and the runner while a gigabyte is uploaded, run and downloaded, on both databases.

    make bench ARGS="memory --mib 1024"

NDJSON in items of about 1 KB, sent chunked. One gunicorn with one web worker and one runner; memory is the the
resident peak of each (`VmHWM`, begun anew for each phase), compared with what each had after a first small job, when
all that an idle service needs is loaded.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
from sqlalchemy import text

from app.db import Database
from benchmarks.databases import fresh
from benchmarks.served import Service, service

RESET_PEAK = "5"  # proc(5), clear_refs
TEXT = "The service was friendly, but I waited for an hour. " * 19
BLOCK_ITEMS = 200


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="memory")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--database", choices=("sqlite", "postgres"), action="append")
    options = parser.parse_args(arguments)
    for kind in options.database or ("sqlite", "postgres"):
        with fresh(kind) as url, service(url, TWOFOLD_MAX_UPLOAD_BYTES=str(1 << 40)) as running:
            database = Database(url)
            report(kind, running, database, options.mib)
            database.dispose()


def report(kind: str, running: Service, database: Database, mib: int) -> None:
    job_id = running.run(running.upload(b"".join(blocks(4)))["id"])["id"]
    drain(running.download(job_id))
    watch = Watch(running, database)
    made: dict[str, str] = {}

    def upload() -> None:
        made["input"] = running.upload(blocks(mib))["id"]

    def run() -> None:
        made["job"] = running.run(made["input"])["id"]

    def download() -> None:
        if (n_bytes := drain(running.download(made["job"]))) < mib << 20:
            sys.exit(f"only {n_bytes:,} bytes came back")

    print(f"{kind}: {mib} MiB of NDJSON; MiB above idle ({watch.idle[0]:.0f} and {watch.idle[1]:.0f})")
    print("            web worker    runner")
    for name, phase in (("upload", upload), ("run", run), ("download", download)):
        web, runner = watch.above_idle_during(phase)
        print(f"  {name:10s}{web:10.1f}{runner:10.1f}", flush=True)


def blocks(mib: int) -> Iterator[bytes]:
    """About so much NDJSON, made as it is sent."""
    n_bytes = first = 0
    while n_bytes < mib << 20:
        ids = range(first, first + BLOCK_ITEMS)
        block = b"".join(orjson.dumps({"id": index, "text": TEXT}) + b"\n" for index in ids)
        n_bytes, first = n_bytes + len(block), first + BLOCK_ITEMS
        yield block


def drain(blocks: Iterator[bytes]) -> int:
    return sum(map(len, blocks))


class Watch:
    """Resident memory of the web worker and of the runner; the kernel keeps a peak, and begins anew when told."""

    def __init__(self, running: Service, database: Database) -> None:
        with database.reading() as session:
            runner = session.execute(text("SELECT pid FROM runners WHERE stopped_at IS NULL")).scalar_one()
        arbiter = running.process.pid
        children = Path(f"/proc/{arbiter}/task/{arbiter}/children").read_text().split()
        (web,) = (int(child) for child in children if int(child) != runner)
        self._pids = (web, int(runner))
        self.idle = self._read("VmRSS")

    def above_idle_during(self, phase: Callable[[], object]) -> list[float]:
        """How many MiB each was above idle at most."""
        for pid in self._pids:
            Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK)
        phase()
        return [peak - idle for peak, idle in zip(self._read("VmHWM"), self.idle, strict=True)]

    def _read(self, name: str) -> list[float]:
        """A line of each process's status, in MiB."""
        statuses = (Path(f"/proc/{pid}/status").read_text() for pid in self._pids)
        return [int(status.split(f"{name}:")[1].split()[0]) / 1024 for status in statuses]
