"""The lane of `wsgi:app`: each request has a thread of the server's, which sleeps while the model runs.

Under gunicorn, plain requests on connections that are kept do without (`app.lanes.thread_connections`).
"""

import io
import socket
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Any

from app.api.bodies import cut_short, receiving
from app.api.online import OVERDUE
from app.api.services import Services
from app.errors import Overdue
from app.lanes import Answer, Asked, Lane
from app.lanes.express import Express
from app.lanes.mailbox import Mailbox
from app.models.batcher import never

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class ThreadLane:
    """WSGI middleware: answers online predictions, and has `flask` answer all else."""

    def __init__(self, flask: App, here: Services) -> None:
        self._flask = flask
        self._lane = Lane(here, here.settings.max_request_bytes)
        self._patience_seconds = here.settings.client_timeout_seconds

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        text = environ.get
        asked = self._lane.asked(
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"],
            content_length=text("CONTENT_LENGTH") or "",
            content_encoding=text("HTTP_CONTENT_ENCODING", ""),
            content_type=text("CONTENT_TYPE") or "",
            prefer=text("HTTP_PREFER", ""),
            request_id=text("HTTP_X_REQUEST_ID", ""),
        )
        if asked is None or OVERDUE in environ:
            return self._flask(environ, start_response)
        body = b""
        try:
            body = self._body(environ, asked.n_bytes)
            answer = self._answer(asked, body, environ)
        except Exception as error:  # noqa: BLE001 — logged by `problem` if nobody expected it
            if isinstance(error, Overdue) and asked.preference.wait_seconds is not None:
                again = {**environ, OVERDUE: True, "wsgi.input": io.BytesIO(body)}
                return self._flask(again, start_response)
            answer = self._lane.problem(asked, error)
        start_response(STATUS_LINES[answer.status], answer.headers)
        return [answer.body]

    def express(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> Express:
        """The express of this lane, for what serves connections on a loop, as a `Mailbox` wants it told."""
        return Express(self._lane, Mailbox(call_soon, call_later))

    def _body(self, environ: Environ, n_bytes: int) -> bytes:
        with receiving(self._patience_seconds):
            body: bytes = environ["wsgi.input"].read(n_bytes)
        if len(body) < n_bytes:
            raise cut_short(len(body), n_bytes)
        return body

    def _answer(self, asked: Asked, body: bytes, environ: Environ) -> Answer:
        question = self._lane.question(asked, body)
        predictions = self._lane.batcher(asked).predict(
            question.items, question.loaded, seconds=asked.seconds, is_gone=_hang_up(environ)
        )
        return self._lane.answer(asked, question.answered(predictions))


def _hang_up(environ: Environ) -> Callable[[], bool]:
    """Whether the client of a request has hung up, where the server shows its socket."""
    connection = environ.get("gunicorn.socket")
    if type(connection) is not socket.socket:  # none, or TLS, which cannot be peeked at
        return never
    return partial(is_gone, connection)


def is_gone(connection: socket.socket) -> bool:
    """Whether the client has hung up, told without waiting."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
