"""Closed-loop load by wrk: so many connections, each sending its next request when the last one is answered."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.online.scratch import Scratch

SCRIPT = Path(__file__).parent / "post.lua"


@dataclass(frozen=True)
class Load:
    """What wrk saw. Latencies are of answered requests; an error is a status other than 2xx, or no answer."""

    requests_per_second: float
    p50_us: int
    p99_us: int
    n_errors: int


def send(scratch: Scratch, url: str, *, n_items: int, n_connections: int, seconds: int) -> Load:
    """Loads `url` with requests of `n_items` each."""
    bodies = str(scratch.folder / "bodies" / str(n_items))
    command = [
        "wrk",
        "-t1",
        f"-c{n_connections}",
        f"-d{seconds}s",
        "--timeout",
        "10s",
        "-s",
        str(SCRIPT),
        url,
    ]
    run = subprocess.run(
        [*command, "--", bodies], capture_output=True, text=True, check=False, timeout=seconds + 60
    )
    for line in run.stdout.splitlines():
        if line.startswith("RESULT "):
            seen = json.loads(line.removeprefix("RESULT "))
            return Load(seen["requests"] / seen["seconds"], seen["p50_us"], seen["p99_us"], seen["errors"])
    sys.exit(f"wrk gave no result: {run.stdout}{run.stderr}")
