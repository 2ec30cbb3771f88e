"""Connections on the event loop, as gunicorn's ASGI worker serves them, but for requests that may take the express."""

import socket
from contextlib import suppress
from typing import Any

from gunicorn.asgi.protocol import ASGIProtocol

from app.lanes import Answer
from app.lanes.express import Express
from app.models.batcher import Call

MOST_HELD_BYTES = 64 * 1024
"""No more is read from a client that sends while it waits for an answer."""
MOST_UNSENT_BYTES = 128 * 1024
"""Of an answer, what the kernel takes before the network has."""
GOODBYE_SECONDS = 20.0
"""For how long a client may still take what it has not, once its connection is closed."""


class Connection(ASGIProtocol):
    """gunicorn's side of a connection, but for requests that come whole while it is idle: the express may take them.

    What a client sends while such a request waits is held, and read when it has been answered: answers keep the order
    of their requests.
    """

    version = (1, 1)  # of the requests that do

    def __init__(self, worker: Any) -> None:
        super().__init__(worker)
        self._express: Express | None = worker.express
        self._call: Call | None = None
        self._held = b""

    def data_received(self, data: bytes) -> None:
        if self._call is not None:
            self._hold(data)
            return
        taken = self._express.take(data, self._reply) if self._express and self._is_idle() else None
        if taken is None:
            super().data_received(data)
        elif isinstance(taken, Answer):
            self._send(taken)
        else:
            self._call = taken
            self._cancel_keepalive_timer()

    def connection_made(self, transport: Any) -> None:
        """Has the kernel hold little that is not sent, so that a client that reads slowly is seen to read."""
        with suppress(OSError, AttributeError):  # no TCP, or not on this system
            transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MOST_UNSENT_BYTES
            )
        super().connection_made(transport)

    def _close_transport(self) -> None:
        """Gives the client some time to take what is not sent yet: the transport would wait for it for good."""
        is_unsent = self.transport and not self._closed and self.transport.get_write_buffer_size()
        super()._close_transport()
        if is_unsent:
            self.worker.loop.call_later(GOODBYE_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._express is not None and self._call is not None:
            self._express.withdraw(self._call)
            self._call = None
        super().connection_lost(exc)

    def _arm_keepalive_timer(self) -> None:
        """Not while a request waits: gunicorn also winds it up once the app has done with one that it has answered."""
        if self._call is None:
            super()._arm_keepalive_timer()

    def _is_idle(self) -> bool:
        """Whether these bytes begin a request, and nothing stands in the way of an answer."""
        parser = self._callback_parser
        return (
            self._awaiting_request
            and not self._request_ready.is_set()
            and parser._state == "request_line"
            and not parser._buffer
            and not self.transport.get_write_buffer_size()
            and self.worker.alive
            and self._keepalive
        )

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > MOST_HELD_BYTES:
            self._pause_reading()

    def _reply(self, answer: Answer) -> None:
        self._call = None
        self._send(answer)
        held, self._held = self._held, b""
        self._resume_reading()
        if held and not self._closed:
            self.data_received(held)

    def _send(self, answer: Answer) -> None:
        """The last request of a worker that is told to stop, or has had as many as it may, closes its connection."""
        worker = self.worker
        worker.nr += 1
        if worker.alive and worker.nr >= worker.max_requests:
            self.log.info("Autorestarting worker after current request.")
            worker.alive = False
        self._send_response_start(answer.status, answer.headers, self, close=not worker.alive)
        self._send_body(answer.body)
        if worker.alive:
            self._arm_keepalive_timer()
        else:
            self._close_transport()
