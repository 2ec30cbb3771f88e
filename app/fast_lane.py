"""The fast lane: an ASGI app that answers online predictions on the event loop, and hands all else to the Flask app.

One event loop and one batcher thread per model are all that a process needs: requests that come while the model runs
cost no thread each, and are predicted together. What is rare (a body that is compressed or large, a model that still
loads, a job instead of an answer) the Flask app does, by the same functions.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from a2wsgi import WSGIMiddleware
from flask import Flask
from structlog.contextvars import bound_contextvars

from app.api import problems
from app.api.bodies import require_json
from app.api.online import OVERDUE, Preference, Question, overdue, preference_of, question_of
from app.api.requests import limits, request_id_of
from app.api.services import EXTENSION, Services
from app.errors import BadRequest, NotFound, Overdue, ServingError
from app.models import JsonObject
from app.models.batcher import Batcher, Call
from app.models.served import ServedModel

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

ARTICLE_PATH = "/prediction/online"
BEFORE_MODEL, AFTER_MODEL = "/v1/models/", "/predict"
MAX_LOOP_BYTES = 256 * 1024
"""Longer bodies are parsed by a thread: on the loop, every other request would wait a millisecond for each of them."""
HUNG_UP = "twofold.hung_up"


class FastLane:
    """The ASGI application around a Flask app, whose every route it serves. For HTTP alone."""

    def __init__(self, flask: Flask) -> None:
        self.extensions = flask.extensions
        self._here: Services = flask.extensions[EXTENSION]
        self._max_depth = limits(self._here.settings).max_depth
        self._max_bytes = min(MAX_LOOP_BYTES, self._here.settings.max_request_bytes)
        self._slow_lane = SlowLane(flask, self._here.settings.web_threads)
        self._mailboxes: dict[asyncio.AbstractEventLoop, Mailbox] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": f"{scope['type']}.close"})  # of a WebSocket: there are none here
            return
        is_article = scope["path"] == ARTICLE_PATH
        served = self._model(scope["path"], is_article) if scope["method"] == "POST" else None
        if served is not None and served.state == "ready":
            headers = _headers(scope)
            preference = preference_of(headers.get(b"prefer"))
            if self._is_short(headers) and not preference.is_async:
                await self._answer(served, scope, receive, send, headers, preference, is_article)
                return
        await self._slow_lane(scope, receive, send)

    def _model(self, path: str, is_article: bool) -> ServedModel | None:
        """The model that a path names; None if there is no such model, or no model in the path."""
        try:
            if is_article:
                return self._here.registry.default()
            if path.startswith(BEFORE_MODEL) and path.endswith(AFTER_MODEL):
                return self._here.registry.get(path[len(BEFORE_MODEL) : -len(AFTER_MODEL)])
        except NotFound:
            pass
        return None

    def _is_short(self, headers: Mapping[bytes, str]) -> bool:
        """Whether the body is plain, and short enough for the loop."""
        length = headers.get(b"content-length", "")
        return length.isdecimal() and int(length) <= self._max_bytes and b"content-encoding" not in headers

    async def _answer(
        self,
        served: ServedModel,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Mapping[bytes, str],
        preference: Preference,
        is_article: bool,
    ) -> None:
        request_id = request_id_of(headers.get(b"x-request-id", ""))
        try:
            body = await _body(receive)
            if not is_article:
                require_json(headers.get(b"content-type", "").partition(";")[0].strip().lower())
            question = question_of(body, served, self._max_depth, is_article=is_article)
            seconds = preference.seconds(self._here.settings.online_timeout_seconds)
            try:
                predictions = await self._predict(question, seconds)
            except Overdue:
                if preference.wait_seconds is not None:
                    await self._slow_lane({**scope, OVERDUE: True}, _again(body, receive), send)
                    return
                raise overdue(served, seconds) from None
            await _send(send, 200, request_id, b"application/json", question.answered(predictions))
        # As in a Flask app: whatever a view raises becomes a problem.
        except Exception as error:  # noqa: BLE001 — logged by as_served if nobody expected it
            with bound_contextvars(request_id=request_id):
                told = problems.as_served(error)
                document = problems.document(told, path=scope["path"], request_id=request_id)
            await _send(send, told.status, request_id, problems.MEDIA_TYPE.encode(), document, told)

    async def _predict(self, question: Question, seconds: float) -> list[JsonObject]:
        loop = asyncio.get_running_loop()
        mailbox = self._mailboxes.get(loop) or self._mailboxes.setdefault(loop, Mailbox(loop))
        batcher = self._here.registry.batcher(question.served)
        return await mailbox.predict(batcher, question, seconds)


class Mailbox:
    """Where the threads of batchers put what the coroutines of one loop wait for.

    However many answers a batch has, the loop is woken once for them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._arrived: deque[asyncio.Future[None]] = deque()
        self._is_awaited = False

    async def predict(self, batcher: Batcher, question: Question, seconds: float) -> list[JsonObject]:
        """As `Batcher.predict`. If this coroutine is canceled, because its client hung up, the call is withdrawn."""
        answered: asyncio.Future[None] = self._loop.create_future()
        call = Call(
            question.items,
            question.loaded,
            seconds=seconds,
            wake=lambda: self._put(answered),
        )
        batcher.submit(call)
        timer = self._loop.call_later(seconds, _settle, answered)
        try:
            await answered
        finally:
            timer.cancel()
            if not call.is_answered:
                batcher.withdraw(call)
        return call.result()

    def _put(self, answered: asyncio.Future[None]) -> None:
        """For threads. The answer is in before the flag is read, and `_deliver` lowers the flag before it looks."""
        self._arrived.append(answered)
        if not self._is_awaited:
            self._is_awaited = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_awaited = False
        while self._arrived:
            _settle(self._arrived.popleft())


class SlowLane:
    """The Flask app behind ASGI, in threads; uploads and downloads are streamed, and end when their client hangs up."""

    def __init__(self, flask: Flask, threads: int) -> None:
        self._flask = flask
        self._adapter = WSGIMiddleware(self._call, workers=threads)
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hung_up = threading.Event()

        async def receive_all() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":  # the adapter would take it for the end of the body
                hung_up.set()
                raise BrokenPipeError("the client hung up")
            return message

        run = self._adapter({**scope, HUNG_UP: hung_up}, receive_all, send)  # type: ignore[arg-type]  # ASGI, typed otherwise
        task = asyncio.ensure_future(run)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            # A thread cannot be canceled: it is told to stop, and the adapter goes on taking what it still sends.
            await asyncio.shield(task)
        except asyncio.CancelledError:
            hung_up.set()
            raise

    def _call(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """The Flask app, whose answer ends where nobody takes it any more."""
        hung_up: threading.Event = environ["asgi.scope"][HUNG_UP]
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


def _headers(scope: Scope) -> dict[bytes, str]:
    """By lower-case name; of a header that is there several times, all values."""
    headers: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        text = value.decode("latin-1")
        headers[name] = f"{headers[name]}, {text}" if name in headers else text
    return headers


async def _body(receive: Receive) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return bytes(message.get("body", b""))
    parts = []
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()
    raise BadRequest("the connection closed before the whole body had arrived")


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` for a reader that comes second: the body that was read already, then what follows it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


async def _send(
    send: Send,
    status: int,
    request_id: str,
    media_type: bytes,
    body: bytes,
    error: ServingError | None = None,
) -> None:
    headers = [
        (b"content-type", media_type),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
    ]
    if error is not None:
        headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _settle(answered: asyncio.Future[None]) -> None:
    if not answered.done():
        answered.set_result(None)
