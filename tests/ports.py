"""Ports for servers that must be told theirs before they take it."""

import os
import random
import socket
from pathlib import Path

N_PER_WORKER = 500


def free_port() -> int:
    """One that nobody has, nor gets from the kernel who asks it for any; no two of pytest's workers get the same."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = max(lowest - (number + 1) * N_PER_WORKER, 1024)
    for port in random.sample(range(first, first + N_PER_WORKER), N_PER_WORKER):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no port from {first} on is free")
