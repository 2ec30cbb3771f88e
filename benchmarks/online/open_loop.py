"""Open-loop load: requests fall due at a fixed pace, whether or not the last ones are answered.

A closed loop asks less of a server that stalls, and so hides the stall. Here a latency counts from the moment when
a request was due, also while it waits for one of the connections to be free, as wrk2 does it.
"""

import gc
import select
import socket
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CHECK_SECONDS = 0.1
LAST_ANSWERS_SECONDS = 10.0
MOST_BYTES = 1 << 16
"""Read at once. Four times as many cost 25 µs more each time, since memory of that size is mapped anew."""
LEAST_KEPT, MOST_P99_US = 0.95, 50_000
FIRST_PER_SECOND, N_BISECTIONS = 125.0, 3


@dataclass(frozen=True)
class Pace:
    """What became of the requests, until the last answer; latencies are of those that were answered with 200."""

    offered_per_second: float
    seconds: float
    n_answered: int
    n_errors: int
    p50_us: int
    p99_us: int

    @property
    def is_kept(self) -> bool:
        """Whether the server kept up: nearly all was answered in time, and soon."""
        is_rate_kept = self.n_answered / self.seconds >= LEAST_KEPT * self.offered_per_second
        return is_rate_kept and self.p99_us <= MOST_P99_US and not self.n_errors


class Connection:
    """One connection that is kept; it carries one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.due_at = 0.0
        self._connect()

    def _connect(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def send(self, request: bytes, due_at: float) -> None:
        self.due_at = due_at
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """Reads what there is; the status once the answer is whole, 0 if the server hung up, None before that."""
        try:
            block = self.socket.recv(MOST_BYTES)
        except OSError:
            block = b""
        if not block:
            self.socket.close()
            self._connect()
            return 0
        self._received += block
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return None
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(body) < int(length):
            return None
        self._received = b""
        return int(head.split(None, 2)[1])


def request_of(path: str, body: bytes) -> bytes:
    """A whole POST of JSON."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def capacity(is_kept: Callable[[float], bool]) -> float:
    """The highest rate per second that is kept, within an eighth: by doubling, then by bisecting.

    A rate is too high when it is not kept twice: a machine that stalls for a moment would end the search early.
    """

    def is_kept_of_two(per_second: float) -> bool:
        return is_kept(per_second) or is_kept(per_second)

    low, high = 0.0, FIRST_PER_SECOND
    while is_kept_of_two(high):
        low, high = high, 2 * high
    if not low:
        raise SystemExit(f"{high:g} requests per second are already too many to be measured")
    for _ in range(N_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_kept_of_two(middle) else (low, middle)
    return low


def send(
    port: int,
    requests: Sequence[bytes],
    *,
    per_second: float,
    n_connections: int,
    is_over: Callable[[float], bool],
) -> Pace:
    """Offers `requests` in turn until `is_over`, which is given the seconds since the start, says so."""
    connections = [Connection(port) for _ in range(n_connections)]
    free = deque(connections)
    busy: dict[socket.socket, Connection] = {}
    due: deque[float] = deque()
    latencies: list[float] = []
    n_sent = n_errors = 0
    gc.disable()
    started = last_answer = next_due = next_check = time.perf_counter()
    ends: float | None = None
    while ends is None or ((due or busy) and time.perf_counter() < ends + LAST_ANSWERS_SECONDS):
        now = time.perf_counter()
        if ends is None and now >= next_check:
            next_check += CHECK_SECONDS
            ends = now if is_over(now - started) else None
        while ends is None and next_due <= now:
            due.append(next_due)
            next_due += 1 / per_second
        while due and free:
            connection = free.popleft()
            connection.send(requests[n_sent % len(requests)], due.popleft())
            busy[connection.socket] = connection
            n_sent += 1
        timeout = CHECK_SECONDS if ends else max(0.0, next_due - time.perf_counter())
        # select waits to the microsecond, and epoll to the millisecond.
        for ready in select.select(list(busy), [], [], timeout)[0]:
            connection = busy[ready]
            status = connection.receive()
            if status is None:
                continue
            if status == 200:
                last_answer = time.perf_counter()
                latencies.append(last_answer - connection.due_at)
            else:
                n_errors += 1
            del busy[ready]
            free.append(connection)
    gc.enable()
    for connection in connections:
        connection.socket.close()
    quantiles = statistics.quantiles(latencies, n=100)
    return Pace(
        offered_per_second=per_second,
        seconds=max(ends or 0.0, last_answer) - started,
        n_answered=len(latencies),
        n_errors=n_errors + len(due) + len(busy),
        p50_us=int(quantiles[49] * 1e6),
        p99_us=int(quantiles[98] * 1e6),
    )
