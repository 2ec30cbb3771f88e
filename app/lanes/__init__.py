"""Lanes: how online predictions are answered without the framework, on gunicorn's threads or on an event loop.

A lane takes the plain request for an online prediction, and differs from the other in one step: how it waits for the
model. What is rare (a body that is compressed or very large, a model that still loads, one with a result cache, a job
instead of an answer) and every other request it hands to the Flask app, which answers by the same functions.
"""

from dataclasses import dataclass

from structlog.contextvars import bound_contextvars

from app.api import problems
from app.api.bodies import require_json
from app.api.online import Preference, Question, overdue, preference_of, question_of
from app.api.requests import limits, request_id_of
from app.api.services import Services
from app.errors import NotFound, Overdue
from app.models.batcher import Batcher
from app.models.served import ServedModel

ARTICLE_PATH = "/prediction/online"
BEFORE_MODEL, BEFORE_VERSION, AFTER_MODEL = "/v1/models/", "/versions/", "/predict"
HEADERS = {
    b"content-length": "content_length",
    b"content-encoding": "content_encoding",
    b"content-type": "content_type",
    b"prefer": "prefer",
    b"x-request-id": "request_id",
}
"""Those that a lane looks at, as HTTP and as `Lane.asked` call them."""
NO_HEADERS = dict.fromkeys(HEADERS.values(), "")


@dataclass(slots=True)  # not frozen: it is made for each request
class Asked:
    """An online prediction that a lane answers itself."""

    served: ServedModel
    path: str
    content_type: str
    n_bytes: int
    request_id: str
    preference: Preference
    seconds: float
    """How long the model may take."""

    @property
    def is_article(self) -> bool:
        return self.path == ARTICLE_PATH


@dataclass(slots=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Lane:
    """The stages of an online prediction but for the wait."""

    def __init__(self, here: Services, max_bytes: int) -> None:
        self._here = here
        self._max_depth = limits(here.settings).max_depth
        self._max_bytes = max_bytes

    def asked(
        self,
        method: str,
        path: str,
        *,
        content_length: str,
        content_encoding: str,
        content_type: str,
        prefer: str,
        request_id: str,
    ) -> Asked | None:
        """What a request asks for, by its headers; None if it is one for the Flask app."""
        served = self._model(path) if method == "POST" else None
        if served is None or served.state != "ready" or content_encoding or not content_length.isdecimal():
            return None
        if served.declaration.cache:  # the cache is in the database, for which a loop must not wait
            return None
        n_bytes, preference = int(content_length), preference_of(prefer)
        if n_bytes > self._max_bytes or preference.is_async:
            return None
        seconds = preference.seconds(self._here.settings.online_timeout_seconds)
        return Asked(served, path, content_type, n_bytes, request_id_of(request_id), preference, seconds)

    def question(self, asked: Asked, body: bytes) -> Question:
        if not asked.is_article:
            require_json(asked.content_type.partition(";")[0].strip().lower())
        return question_of(body, asked.served, self._max_depth, is_article=asked.is_article)

    def batcher(self, asked: Asked) -> Batcher:
        return self._here.registry.batcher(asked.served)

    def answer(self, asked: Asked, body: bytes) -> Answer:
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        return Answer(200, [*headers, ("X-Request-ID", asked.request_id)], body)

    def problem(self, asked: Asked, error: Exception) -> Answer:
        """As in a Flask app: whatever is raised becomes a problem."""
        if isinstance(error, Overdue):
            error = overdue(asked.served, asked.seconds)
        with bound_contextvars(request_id=asked.request_id):
            told = problems.as_served(error)
            body = problems.document(told, path=asked.path, request_id=asked.request_id)
        headers = [("Content-Type", problems.MEDIA_TYPE), ("Content-Length", str(len(body)))]
        return Answer(
            told.status, [*headers, ("X-Request-ID", asked.request_id), *told.headers.items()], body
        )

    def _model(self, path: str) -> ServedModel | None:
        """The model version that a path names; None if there is none, or no model in the path."""
        try:
            if path == ARTICLE_PATH:
                return self._here.registry.default()
            if path.startswith(BEFORE_MODEL) and path.endswith(AFTER_MODEL):
                name, has_version, version = path[len(BEFORE_MODEL) : -len(AFTER_MODEL)].partition(
                    BEFORE_VERSION
                )
                return self._here.registry.get(name, version if has_version else None)
        except NotFound:
            pass
        return None
