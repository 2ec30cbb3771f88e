"""A gateway that calls an ASGI app as gunicorn's worker does, for a test client that speaks WSGI."""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from flask import Flask

from app.lanes.loop import LoopLane

BLOCK_BYTES = 16 * 1024


class Gateway:
    """The loop's lane around a Flask app, in a thread of its own. Whoever closes a response hangs up."""

    def __init__(self, flask: Flask) -> None:
        self.config, self.extensions = flask.config, flask.extensions
        self._app = LoopLane(flask)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="event loop", daemon=True).start()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

        async def run() -> None:
            async def send(message: Any) -> None:
                messages.put(message)

            try:
                await self._app(_scope(environ), _Body(environ).receive, send)
            finally:
                messages.put(None)

        running = asyncio.run_coroutine_threadsafe(run(), self._loop)
        start = messages.get(timeout=60)
        if start is None:
            raise running.exception() or AssertionError("it ended without an answer")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
        start_response(f"{start['status']} as it is", headers)
        return self._rest(messages, running)

    def _rest(self, messages: "queue.SimpleQueue[dict[str, Any] | None]", running: Any) -> Iterator[bytes]:
        try:
            while (message := messages.get(timeout=60)) is not None:
                yield message.get("body", b"")
                if not message.get("more_body"):
                    return
            raise running.exception() or AssertionError("it ended in the middle of its answer")
        finally:
            running.cancel()


class _Body:
    """What a client sends; once that breaks off, it is gone."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._stream = environ["wsgi.input"]
        self._is_chunked = environ.get("wsgi.input_terminated", False)
        self._n_left = int(environ.get("CONTENT_LENGTH") or 0)
        self._is_over = False

    async def receive(self) -> dict[str, Any]:
        if self._is_over:
            await asyncio.get_running_loop().create_future()  # until it is canceled
        try:
            block = await asyncio.to_thread(self._read)
        except OSError:
            return {"type": "http.disconnect"}
        self._n_left -= len(block)
        self._is_over = not block if self._is_chunked else self._n_left <= 0
        if not block and self._n_left > 0:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": block, "more_body": not self._is_over}

    def _read(self) -> bytes:
        block: bytes = self._stream.read(BLOCK_BYTES if self._is_chunked else min(BLOCK_BYTES, self._n_left))
        return block


def _scope(environ: dict[str, Any]) -> dict[str, Any]:
    named = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
    }
    return {
        "type": "http",
        "http_version": "1.1",
        "method": environ["REQUEST_METHOD"],
        "scheme": environ["wsgi.url_scheme"],
        "path": environ["PATH_INFO"].encode("latin-1").decode(errors="replace"),
        "query_string": environ["QUERY_STRING"].encode("latin-1"),
        "root_path": "",
        "headers": [(name.encode(), str(value).encode("latin-1")) for name, value in named.items()],
        "server": (environ["SERVER_NAME"], int(environ["SERVER_PORT"])),
        "client": ("127.0.0.1", 1),
    }
