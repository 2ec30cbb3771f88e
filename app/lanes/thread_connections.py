"""Connections of gunicorn's threaded worker that are kept, and whose next request may take the express.

gunicorn hands each request to a thread, which parses it in Python and hands the connection back. The express needs
neither: the worker's main thread, which waits for all kept connections, reads the request, and writes the answer.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache, partial
from typing import Any

from gunicorn import SERVER
from gunicorn.util import http_date

from app.lanes import Answer
from app.lanes.threads import STATUS_LINES, ThreadLane, is_gone
from app.models.batcher import Call

MOST_BYTES = 64 * 1024
"""Longer requests are left to a thread, so that no other waits while they are received and parsed."""
KEPT: Future[bool] = Future()
"""How a request ends whose connection is kept, in the words of gunicorn's `finish_request`."""
KEPT.set_result(True)


class KeptConnections:
    """Those of one worker. For its main thread, but for `_send_rest`."""

    def __init__(self, worker: Any, lane: ThreadLane) -> None:
        self._worker = worker
        self._express = lane.express(worker.method_queue.defer, self._call_later)

    def take(self, connection: Any) -> bool:
        """Whether the request that has come on a connection takes the express; if not, its bytes are back.

        While it waits for its model, its connection is neither kept nor looked at, as while a thread has it.
        """
        worker = self._worker
        if not worker.alive:
            return False
        try:
            data = connection.sock.recv(MOST_BYTES)
        except BlockingIOError:
            return True  # there is nothing yet, whatever the poller said
        except OSError:
            return False  # the thread finds it closed
        reply, gone = partial(self._reply, connection), partial(is_gone, connection.sock)
        taken = self._express.take(data, reply, gone)
        if taken is None:
            connection.parser.unreader.unread(data)
            return False
        worker.keepalived_conns.remove(connection)
        if isinstance(taken, Call) or not self._send(connection, taken):
            worker.poller.unregister(connection.sock)
        else:
            connection.set_timeout()
            worker.keepalived_conns.append(connection)
        return True

    def _reply(self, connection: Any, answer: Answer) -> None:
        if self._send(connection, answer):
            self._worker.finish_request(connection, KEPT)

    def _send(self, connection: Any, answer: Answer) -> bool:
        """Whether an answer is sent and its connection kept; if not, a thread does the rest, which may take its time.

        The last request of a worker that is told to stop, or has had as many as it may, closes its connection.
        """
        worker = self._worker
        worker.nr += 1
        if worker.alive and worker.nr >= worker.max_requests:
            worker.log.info("Autorestarting worker after current request.")
            worker.alive = False
        is_kept = worker.alive and len(worker.keepalived_conns) < worker.max_keepalived
        data = _head(answer, is_kept) + answer.body
        try:
            n_sent = connection.sock.send(data)
        except BlockingIOError:
            n_sent = 0
        except OSError:
            n_sent, is_kept = len(data), False
        if is_kept and n_sent == len(data):
            return True
        worker.tpool.submit(self._send_rest, connection, data[n_sent:], is_kept)
        return False

    def _send_rest(self, connection: Any, rest: bytes, is_kept: bool) -> None:
        worker = self._worker
        try:
            connection.sock.setblocking(True)
            connection.sock.sendall(rest)
        except OSError:
            is_kept = False
        if is_kept:
            worker.method_queue.defer(worker.finish_request, connection, KEPT)
        else:
            connection.close(graceful=True)
            worker.method_queue.defer(self._forget)

    def _forget(self) -> None:
        self._worker.nr_conns -= 1

    def _call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """By a thread that only waits: the worker's poller has no timers, and there is one at most."""
        timer = threading.Timer(seconds, self._worker.method_queue.defer, [call])
        timer.daemon = True
        timer.start()


def _head(answer: Answer, is_kept: bool) -> bytes:
    """As gunicorn writes it."""
    lines = [
        f"HTTP/1.1 {STATUS_LINES[answer.status]}",
        f"Server: {SERVER}",
        f"Date: {_date(int(time.time()))}",
        f"Connection: {'keep-alive' if is_kept else 'close'}",
        *(f"{name}: {value}" for name, value in answer.headers),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    date: str = http_date(second)
    return date
