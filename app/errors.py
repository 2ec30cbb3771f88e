"""Every error the service answers with: a class carries its HTTP status and slug, an instance the particulars.

Layers below HTTP raise these; `app.api.problems` renders them as RFC 9457 problem details, and nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong with one place of a request.

    `pointer` is a JSON pointer (RFC 6901) into the body, such as `/data/3/text`; a query parameter is
    `?limit`, a header `Accept:`, a line of an NDJSON or CSV upload `line 17`, a row of a Parquet file `row 17`.
    """

    pointer: str
    detail: str


class ServingError(Exception):
    """What a client may be told: `detail` says what happened and what to change, `errors` say where."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self, detail: str, *, errors: Sequence[FieldError] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


class BadRequest(ServingError):
    """The request cannot be read: broken JSON, a broken header, a cursor that is not ours."""

    status, slug, title = 400, "bad-request", "Bad request"


class Forbidden(ServingError):
    """What this installation does not allow: an object outside of its allowed folders, say."""

    status, slug, title = 403, "forbidden", "Forbidden"


class NotFound(ServingError):
    """No model, input, job or page has that name."""

    status, slug, title = 404, "not-found", "Not found"


class MethodNotAllowed(ServingError):
    """The path exists; this verb does not."""

    status, slug, title = 405, "method-not-allowed", "Method not allowed"


class NotAcceptable(ServingError):
    """None of the media types in `Accept` can be produced."""

    status, slug, title = 406, "not-acceptable", "Not acceptable"


class Conflict(ServingError):
    """The row exists but its state forbids the request: outputs of a job that is not done, say."""

    status, slug, title = 409, "conflict", "Conflict"


class Gone(ServingError):
    """It was there, and has been pruned because its time was over."""

    status, slug, title = 410, "gone", "Gone"


class TooLarge(ServingError):
    """The body, or one item of it, is over its limit."""

    status, slug, title = 413, "too-large", "Content too large"


class UnsupportedMediaType(ServingError):
    """The body's `Content-Type` or `Content-Encoding` is none that this path reads."""

    status, slug, title = 415, "unsupported-media-type", "Unsupported media type"


class RangeNotSatisfiable(ServingError):
    """`Range` asks for items that are not there."""

    status, slug, title = 416, "range-not-satisfiable", "Range not satisfiable"


class Invalid(ServingError):
    """The request was read, and breaks a rule: `errors` point at each place."""

    status, slug, title = 422, "invalid", "Invalid content"


class ModelFailed(ServingError):
    """`predict` raised, or broke the contract of length, order or types."""

    status, slug, title = 500, "model-failed", "The model failed"


class ModelAway(ModelFailed):
    """What the model depends on failed, such as another server, and not an item: the same may succeed later."""

    status, slug, title = 503, "model-away", "The model cannot answer now"


class Unavailable(ServingError):
    """The service cannot answer now: a model is not loaded, the database is away or its schema is old."""

    status, slug, title = 503, "unavailable", "Service unavailable"


class Overloaded(Unavailable):
    """More is waiting for a model or an object store than may be kept waiting."""

    slug, title = "overloaded", "Overloaded"


class Overdue(ServingError):
    """The predictions were not there in time."""

    status, slug, title = 504, "overdue", "Prediction overdue"


class ConfigurationError(Exception):
    """A setting or `models.toml` is wrong, so the process does not start; one line says what to change."""


def named(error: BaseException) -> str:
    """An exception's type and message in one line; the type alone if it has no message, or one that cannot be had."""
    try:
        message = " ".join(str(error).split())
    except BaseException:  # noqa: BLE001 — a model's own exception may raise anything when it is asked
        message = ""
    return f"{type(error).__qualname__}: {message}" if message else type(error).__qualname__


E = TypeVar("E", bound=ServingError)


def refused(error: type[E], pointer: str, detail: str) -> E:
    """An error about one place, which both its message and its `errors` name."""
    return error(f"{pointer}: {detail}" if pointer else detail, errors=[FieldError(pointer, detail)])
