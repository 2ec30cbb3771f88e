"""Online predictions, in their stages: a question is read, asked of its model, and answered. The lanes share them."""

import re
from collections import deque
from dataclasses import dataclass
from functools import partial

from flask import Response, request
from werkzeug.http import parse_dict_header

from app.api import jobs
from app.api.bodies import items_of, parse_json, require_json
from app.api.requests import limits, read_body
from app.api.services import services
from app.errors import Overdue
from app.models import JsonObject
from app.models.served import ServedModel
from app.predictions import accept, encode, predict

LOAD_WAIT_SECONDS = 30.0
_SECONDS = re.compile("[0-9]{1,9}")
OVERDUE = "twofold.overdue"
"""In the environment of a request that a lane has given up: it is to become a job at once."""


@dataclass(slots=True)  # not frozen: made for each request
class Question:
    """Items that a model accepts: as their client sent them, and as the model gets them."""

    served: ServedModel
    items: list[JsonObject]
    loaded: list[JsonObject]
    is_article: bool

    def answered(self, predictions: list[JsonObject]) -> bytes:
        """The body that answers it; once, since the items become the answers."""
        deque(map(dict.update, self.items, predictions), maxlen=0)
        answer: JsonObject = {"prediction": self.items}
        if not self.is_article:
            declared = self.served.declaration
            answer |= {"model": declared.name, "version": declared.version}
        return encode(self.served, answer)


@dataclass(frozen=True, slots=True)
class Preference:
    """What a `Prefer` header asks for: an answer within so many seconds, or a job at once."""

    wait_seconds: int | None = None
    is_async: bool = False

    def seconds(self, most: float) -> float:
        """How long the model may take."""
        return most if self.wait_seconds is None else min(most, self.wait_seconds)


NO_PREFERENCE = Preference()


def question_of(body: bytes, served: ServedModel, max_depth: int, *, is_article: bool) -> Question:
    """The question in a request's body; raises what is wrong with it."""
    items = items_of(parse_json(body, max_depth))
    return Question(served, items, accept(served, items), is_article)


def preference_of(header: str | None) -> Preference:
    """RFC 7240, section 2: what is not understood is ignored."""
    if not header:
        return NO_PREFERENCE
    wanted = {name.lower(): value for name, value in parse_dict_header(header).items()}
    wait = _SECONDS.fullmatch(wanted.get("wait") or "")
    return Preference(int(wait[0]) if wait else None, "respond-async" in wanted)


def overdue(served: ServedModel, seconds: float) -> Overdue:
    """The error of a request that waited for so long, and what to ask for next time."""
    return Overdue(
        f"{served} did not answer within {seconds:g} seconds: send `Prefer: wait=10` to get a job instead of this "
        "error, `Prefer: respond-async` to get one at once, or post the items to /v1/jobs"
    )


def answer_online(served: ServedModel, *, is_article: bool = False) -> Response:
    """Answers the current request: with predictions, or with the job that it prefers to a late answer.

    It is one that no lane takes. One that comes while the model loads for the first time waits for it rather than fail.
    """
    here = services()
    if not is_article:
        require_json(request.mimetype)
    body = read_body()
    served.wait_ready(min(LOAD_WAIT_SECONDS, here.settings.online_timeout_seconds))
    question = question_of(body, served, limits(here.settings).max_depth, is_article=is_article)
    preference = preference_of(request.headers.get("Prefer"))
    if preference.is_async:
        return _as_job(question, "respond-async")
    seconds = preference.seconds(here.settings.online_timeout_seconds)
    try:
        if OVERDUE in request.environ:
            raise overdue(served, seconds)
        batcher = here.registry.batcher(served)
        ask = partial(batcher.predict, seconds=seconds)
        predictions = predict(served, question.items, question.loaded, ask, here.cache)
    except Overdue:
        if preference.wait_seconds is None:
            raise overdue(served, seconds) from None
        return _as_job(question, f"wait={preference.wait_seconds}")
    return Response(question.answered(predictions), mimetype="application/json")


def _as_job(question: Question, applied: str) -> Response:
    return jobs.accepted(question.served.declaration, question.items, {"Preference-Applied": applied})
