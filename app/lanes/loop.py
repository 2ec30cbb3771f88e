"""The lane of `asgi:app`: an event loop has all requests, and one thread for each model does nothing but predict.

Requests that wait cost no thread each. What is not for a lane runs in the threads of `app.lanes.adapter`.
"""

import asyncio

from flask import Flask

from app.api.bodies import receiving
from app.api.online import OVERDUE, Question
from app.api.services import EXTENSION, Services
from app.errors import BadRequest, Overdue
from app.lanes import HEADERS, NO_HEADERS, Answer, Asked, Lane
from app.lanes.adapter import CUT_SHORT, Message, Receive, Scope, Send, SlowLane
from app.lanes.express import Express
from app.lanes.mailbox import Mailbox
from app.models import JsonObject
from app.models.batcher import Batcher, Call

PROBES, PROBE_THREADS = ("/livez", "/readyz", "/metrics"), 2
"""What an orchestrator asks, each in threads of its own: it shall not end a worker because all threads are at slow
uploads, or because the database, which `/readyz` asks, does not answer."""
MAX_LOOP_BYTES = 256 * 1024
"""Longer bodies are parsed by a thread: on the loop, every other request would wait a millisecond for each of them."""


class LoopLane:
    """The ASGI application around a Flask app, whose every route it serves. For HTTP alone."""

    def __init__(self, flask: Flask) -> None:
        self.extensions = flask.extensions
        here: Services = flask.extensions[EXTENSION]
        self._lane = Lane(here, min(MAX_LOOP_BYTES, here.settings.max_request_bytes))
        self._patience_seconds = here.settings.client_timeout_seconds
        self._slow_lane = SlowLane(flask, here.settings.web_threads, self._patience_seconds)
        self._probes = {path: SlowLane(flask, PROBE_THREADS, self._patience_seconds) for path in PROBES}
        self._mailboxes: dict[asyncio.AbstractEventLoop, Mailbox] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": f"{scope['type']}.close"})  # of a WebSocket: there are none here
            return
        asked = self._lane.asked(scope["method"], scope["path"], **_headers(scope))
        if asked is None:
            await self._probes.get(scope["path"], self._slow_lane)(scope, receive, send)
            return
        body = b""
        try:
            body = await _body(receive, self._patience_seconds)
            answer = await self._answer(asked, body)
        except Exception as error:  # noqa: BLE001 — logged by `problem` if nobody expected it
            if isinstance(error, Overdue) and asked.preference.wait_seconds is not None:
                await self._slow_lane({**scope, OVERDUE: True}, _again(body, receive), send)
                return
            answer = self._lane.problem(asked, error)
        headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    def express(self, loop: asyncio.AbstractEventLoop) -> Express:
        """The express of this lane, for what serves connections on that loop."""
        return Express(self._lane, self._mailbox(loop))

    async def _answer(self, asked: Asked, body: bytes) -> Answer:
        question = self._lane.question(asked, body)
        mailbox = self._mailbox(asyncio.get_running_loop())
        predictions = await _predict(mailbox, self._lane.batcher(asked), question, asked.seconds)
        return self._lane.answer(asked, question.answered(predictions))

    def _mailbox(self, loop: asyncio.AbstractEventLoop) -> Mailbox:
        return self._mailboxes.get(loop) or self._mailboxes.setdefault(
            loop, Mailbox(loop.call_soon_threadsafe, loop.call_later)
        )


async def _predict(
    mailbox: Mailbox, batcher: Batcher, question: Question, seconds: float
) -> list[JsonObject]:
    """As `Batcher.predict`. If this coroutine is canceled, because its client hung up, the call is withdrawn."""
    if (predictions := batcher.predict_quickly(question.items, question.loaded)) is not None:
        return predictions
    future = asyncio.get_running_loop().create_future()

    def settled(_call: Call) -> None:
        if not future.done():  # canceled, and this coroutine has not come to its end yet
            future.set_result(None)

    call = mailbox.submit(batcher, question, seconds, settled)
    try:
        await future
    finally:
        mailbox.withdraw(call)
    return call.result()


def _headers(scope: Scope) -> dict[str, str]:
    """Those that a lane looks at; of one that is there several times, all values."""
    headers = NO_HEADERS.copy()
    for name, value in scope["headers"]:
        if (key := HEADERS.get(name)) is not None:
            text = value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if headers[key] else text
    return headers


async def _body(receive: Receive, patience_seconds: float) -> bytes:
    parts = []
    with receiving(patience_seconds):
        while True:
            async with asyncio.timeout(patience_seconds):
                message = await receive()
            if message["type"] != "http.request":
                raise BadRequest(CUT_SHORT)
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` for a reader that comes second: the body that was read already, then what follows it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again
