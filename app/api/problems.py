"""Every error as RFC 9457 problem details, rendered here and nowhere else."""

import orjson
import structlog
from flask import Flask, Response, g, request
from sqlalchemy.exc import DBAPIError
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from app import errors
from app.db import is_away
from app.errors import ServingError, Unavailable

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
AWAY_RETRY_SECONDS = "5"
MAX_ERRORS = 100
"""How many places a problem lists: a body of a million bad items is not answered by a million complaints."""
OF_STATUS: dict[int, type[ServingError]] = {
    kind.status: kind
    for kind in (
        errors.BadRequest,
        errors.NotFound,
        errors.MethodNotAllowed,
        errors.NotAcceptable,
        errors.TooLarge,
        errors.UnsupportedMediaType,
        errors.Invalid,
    )
}


def register(app: Flask) -> None:
    """Makes the app answer any error of a view, and of the routing itself, with a problem."""
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(Exception, _answer)


def as_served(error: Exception) -> ServingError:
    """What a client is told of any error; of a bug, no more than that there is one. Logs what was not expected."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, DBAPIError) and is_away(error):
        log.error("database_away", error=" ".join(str(error.orig).split()))
        return Unavailable(
            "the database does not answer: try again soon", headers={"Retry-After": AWAY_RETRY_SECONDS}
        )
    log.error("unexpected_error", exc_info=error)
    return ServingError("an unexpected error; the log has its trace under this request_id")


def document(error: ServingError, *, path: str, request_id: str | None) -> bytes:
    """The problem document of an error: the body to send with its status and headers."""
    problem = {
        "type": f"urn:twofold:problem:{error.slug}",
        "title": error.title,
        "status": error.status,
        "detail": _legible(error.detail),
        "instance": path,
        "request_id": request_id,
    }
    if error.errors:
        problem["errors"] = [
            {"pointer": _legible(each.pointer), "detail": _legible(each.detail)}
            for each in error.errors[:MAX_ERRORS]
        ]
    if error.status >= 500:
        log.warning("problem", slug=error.slug, detail=error.detail, exc_info=error.__cause__)
    return orjson.dumps(problem)


def _legible(text: str) -> str:
    """A model's message may hold half characters, such as a file name that is not UTF-8: JSON cannot."""
    return text.encode(errors="backslashreplace").decode()


def _answer(error: Exception) -> Response:
    served = as_served(error)
    body = document(served, path=request.path, request_id=g.get("request_id"))
    return Response(body, status=served.status, headers=served.headers, mimetype=MEDIA_TYPE)


def _of_http(error: HTTPException) -> Response:
    """Werkzeug's own refusals: no such path, no such method, a body over its limit."""
    if error.code is None or error.code < 400:
        return Response(status=error.code, headers=error.get_headers())  # a redirect, as it is
    kind = OF_STATUS.get(error.code, errors.BadRequest if error.code < 500 else ServingError)
    headers = {}
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return _answer(kind(_detail(error), headers=headers))


def _detail(error: HTTPException) -> str:
    if error.code == 404:
        return f"there is nothing at {request.path}: GET /openapi.json lists what there is"
    if error.code == 413:
        return f"the body is over {request.max_content_length} bytes: upload it with POST /v1/inputs instead"
    return error.description or "the request could not be read"
