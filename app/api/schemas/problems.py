"""The shape of problems (RFC 9457)."""

from marshmallow import fields

from app.api.schemas.fields import Schema


class ProblemError(Schema):
    pointer = fields.String(metadata={"description": "a JSON pointer, a `?parameter`, a `Header:` or a line"})
    detail = fields.String()


class Problem(Schema):
    """RFC 9457 problem details."""

    type = fields.String()
    title = fields.String()
    status = fields.Integer()
    detail = fields.String()
    instance = fields.String()
    request_id = fields.String()
    errors = fields.List(fields.Nested(ProblemError))
