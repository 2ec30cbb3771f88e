"""An input and its outputs in an object store: speed and memory, beside an upload and a download of the same.

    make bench ARGS="stores --mib 200"

NDJSON in items of about 1 KB, with a model that answers at once; SQLite. The stores are a folder, and the S3 API of
moto in a process of its own: it answers from memory, in one Python process, so its times are not those of a real store.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

from app.db import Database
from benchmarks.databases import fresh
from benchmarks.memory import Watch, blocks, drain
from benchmarks.served import Service, service

MOTO = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
input()
"""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stores")
    parser.add_argument("--mib", type=int, default=200)
    parser.add_argument("--kind", choices=("file", "s3"), action="append")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, moto() as bucket:
        folder = Path(name)
        with (folder / "x.ndjson").open("wb") as file:
            file.writelines(blocks(options.mib))
        prefixes = {"file": f"file://{folder}", "s3": f"s3://{bucket}"}
        kinds = options.kind or list(prefixes)
        if "s3" in kinds:
            boto3.client("s3").upload_file(str(folder / "x.ndjson"), bucket, "x.ndjson")
        with (
            fresh("sqlite") as url,
            service(
                url,
                TWOFOLD_MAX_UPLOAD_BYTES=str(1 << 40),
                TWOFOLD_STORAGE_PREFIXES=",".join(prefixes.values()),
            ) as running,
        ):
            report(running, Database(url), options.mib, {kind: prefixes[kind] for kind in kinds})


def report(running: Service, database: Database, mib: int, prefixes: dict[str, str]) -> None:
    drain(running.download(running.run(running.upload(b"".join(blocks(4)))["id"])["id"]))
    watch = Watch(running, database)
    print(f"{mib} MiB of NDJSON; MiB above idle ({watch.idle[0]:.0f} and {watch.idle[1]:.0f})")
    print("                        seconds   MiB/s  web worker    runner")
    made: dict[str, str] = {}

    def measure(name: str, phase: Callable[[], object]) -> None:
        begun = time.perf_counter()
        web, runner = watch.above_idle_during(phase)
        seconds = time.perf_counter() - begun
        print(f"  {name:20s}{seconds:9.2f}{mib / seconds:8.1f}{web:12.1f}{runner:10.1f}", flush=True)

    measure("upload", lambda: made.update(id=running.upload(blocks(mib))["id"]))
    measure("run", lambda: made.update(job=running.run(made["id"])["id"]))
    measure("download", lambda: drain(running.download(made["job"])))
    for kind, prefix in prefixes.items():

        def register(prefix: str = prefix) -> None:
            made["id"] = running.register(f"{prefix}/x.ndjson")["id"]

        def run(prefix: str = prefix) -> None:
            running.run(made["id"], output_url=f"{prefix}/out")

        measure(f"{kind}: register", register)
        measure(f"{kind}: run, in and out", run)
    database.dispose()


@contextmanager
def moto() -> Iterator[str]:
    """The name of a bucket at an S3 API, which the environment points at for as long as this lasts."""
    server = subprocess.Popen(
        [sys.executable, "-c", MOTO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert server.stdout is not None
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        boto3.client("s3").create_bucket(Bucket="bench")
        yield "bench"
    finally:
        server.kill()
        server.wait()
