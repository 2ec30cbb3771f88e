"""Fields and checks that several shapes share."""

import re
from datetime import UTC, datetime
from typing import Any, Self

import marshmallow
from marshmallow import ValidationError, fields, validate

from app.columns import written
from app.jobs.ids import is_id
from app.models.declarations import NAME

MAX_PAGE = 1000
MAX_NAME = 255
MAX_INTEGER = 2**31 - 1
RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})"
)
OBJECT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
VISIBLE = re.compile(r"[\x21-\x7e]{1,255}\Z")
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)
"""Python's years end in 9999: times that clients name stay clear of it, since priorities and offsets move them."""


class Schema(marshmallow.Schema):
    """A shape, which nobody changes once it is made; flask-smorest copies all that is published for each app it makes,
    and spent half of its time on copies of these."""

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self


class Timestamp(fields.AwareDateTime):
    """RFC 3339, written in UTC with a Z and milliseconds; read with any offset, but not without one."""

    default_error_messages = {  # noqa: RUF012 — marshmallow's own form
        "invalid": "is no RFC 3339 time with its offset, such as 2027-01-31T09:30:00Z"
    }

    def __init__(self, **options: Any) -> None:
        super().__init__(format="iso", **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> datetime:
        if not isinstance(value, str) or not RFC_3339.fullmatch(value):
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **options)

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **options: Any) -> str | None:
        return None if value is None else written(value)


def check_id(text: str) -> None:
    """A marshmallow validator for ids in queries and bodies."""
    if not is_id(text):
        raise ValidationError("is no id: ids look like 01981f5e-7c4b-7d3a-9f10-2b6c8e0d4a71")


def check_model(text: str) -> None:
    """A marshmallow validator for names of models in queries."""
    if not NAME.fullmatch(text):
        raise ValidationError("is no model name: they are 1 to 63 of a-z, 0-9, '.', '_' and '-'")


def check_collection(text: str) -> None:
    """A marshmallow validator for names of collections."""
    if not (0 < len(text) <= MAX_NAME and text.isprintable()):
        raise ValidationError(f"is no collection: give 1 to {MAX_NAME} printable characters")


def check_time(time: datetime) -> None:
    """A marshmallow validator for times that clients name."""
    if not EARLIEST <= time <= LATEST:
        raise ValidationError("must be in the years 1970 to 9998")


class Page(Schema):
    """Newest first. The `Link` header with rel="next" leads to the following page."""

    limit = fields.Integer(load_default=100, validate=validate.Range(1, MAX_PAGE))
    cursor = fields.String(
        validate=check_id, metadata={"description": "from the Link header; as it stands there"}
    )
