"""Closed-loop load by wrk: so many connections, each sending its next request when the last one is answered."""

import json
import math
import signal
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


def send(scratch: Scratch, url: str, *, n_items: int, n_connections: int, seconds: float) -> Load:
    """Loads `url` with requests of `n_items` each, for `seconds` and up to a tenth more.

    wrk is told whole seconds only, but SIGINT ends it early: its main thread wakes from its sleep, and the figures
    are of the time that it ran. It looks for that ten times a second.
    """
    bodies = str(scratch.folder / "bodies" / str(n_items))
    command = [
        "wrk",
        "-t1",
        f"-c{n_connections}",
        f"-d{math.ceil(seconds)}s",
        "--timeout",
        "10s",
        "-s",
        str(SCRIPT),
        url,
        "--",
        bodies,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as wrk:
        try:
            printed, complaints = wrk.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            wrk.send_signal(signal.SIGINT)
            printed, complaints = wrk.communicate()
    for line in printed.splitlines():
        if line.startswith("RESULT "):
            seen = json.loads(line.removeprefix("RESULT "))
            per_second = round(seen["requests"] / seen["seconds"], 1)
            return Load(per_second, seen["p50_us"], seen["p99_us"], seen["errors"])
    sys.exit(f"wrk gave no result: {printed}{complaints}")
