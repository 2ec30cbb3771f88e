"""The Flask app behind ASGI, through a2wsgi: in threads, with what a2wsgi leaves out of a client that hangs up."""

import asyncio
import string
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any
from urllib.parse import quote_from_bytes

from a2wsgi import WSGIMiddleware
from flask import Flask

from app.api.online import OVERDUE

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CUT_SHORT = "the connection closed, or sent nothing for too long, before the whole body had arrived"
"""gunicorn tells of both alike: it waits for a body no longer than its `--timeout`."""
HUNG_UP = "twofold.hung_up"
PART_BYTES = 256 << 10
"""What is sent at once: a client that takes no more than this in its time is taken for one that takes nothing."""


class SlowLane:
    """The Flask app behind ASGI, in threads; uploads and downloads are streamed, and end when their client hangs up."""

    def __init__(self, flask: Flask, threads: int, client_timeout_seconds: float) -> None:
        self._flask = flask
        self._client_timeout_seconds = client_timeout_seconds
        self._adapter = WSGIMiddleware(self._call, workers=threads)
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hung_up = threading.Event()
        sending: asyncio.Timeout | None = None
        takes_nothing = False

        async def receive_all() -> Message:
            async with asyncio.timeout(self._client_timeout_seconds):
                message = await receive()
            if message["type"] == "http.disconnect":  # the adapter would take it for the end of the body
                hung_up.set()
                raise BrokenPipeError(CUT_SHORT)
            return message

        async def send_in_time(message: Message) -> None:
            nonlocal sending, takes_nothing
            for part in _parts(message):
                if takes_nothing:
                    return
                try:
                    async with asyncio.timeout(self._client_timeout_seconds) as sending:
                        await send(part)
                except TimeoutError:
                    takes_nothing = True
                    hung_up.set()
                finally:
                    sending = None

        query = quote_from_bytes(scope["query_string"], safe=string.punctuation).encode()
        heard = {**scope, HUNG_UP: hung_up, "query_string": query}  # ASCII: the adapter takes no other
        run = self._adapter(heard, receive_all, send_in_time)  # type: ignore[arg-type]  # ASGI, typed otherwise
        task = asyncio.ensure_future(run)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            # A thread cannot be canceled: it is told to stop, and the adapter goes on taking what it still sends.
            await asyncio.shield(task)
        except asyncio.CancelledError:
            hung_up.set()
            # Nobody else ends a wait for a client that is gone.
            if sending is not None and not sending.expired():
                sending.reschedule(asyncio.get_running_loop().time())
            raise

    def _call(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """The Flask app, whose answer ends where nobody takes it any more."""
        hung_up: threading.Event = environ["asgi.scope"][HUNG_UP]
        if OVERDUE in environ["asgi.scope"]:
            environ[OVERDUE] = True
        environ["wsgi.input_terminated"] = True  # the body ends by itself, also where no length was announced
        answer = self._flask(environ, start_response)
        try:
            for block in answer:
                if hung_up.is_set():
                    break
                yield block
        finally:
            if (close := getattr(answer, "close", None)) is not None:
                close()


def _parts(message: Message) -> Iterator[Message]:
    """The same message in parts, if its body is long."""
    body = message.get("body", b"")
    if len(body) <= PART_BYTES:
        yield message
        return
    for start in range(0, len(body), PART_BYTES):
        is_last = start + PART_BYTES >= len(body)
        more = message.get("more_body", False) or not is_last
        yield {**message, "body": body[start : start + PART_BYTES], "more_body": more}
