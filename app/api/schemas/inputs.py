"""The shapes of inputs."""

from marshmallow import fields, validate

from app.api.schemas.fields import OBJECT_NAME, Page, Schema, Timestamp, check_collection, check_time
from app.data.formats import Format


class InputSchema(Schema):
    id = fields.String()
    format = fields.String(metadata={"enum": ["json", "ndjson", "csv", "parquet"]})
    url = fields.String(
        allow_none=True, metadata={"description": "the object in which its items stay; null: uploaded"}
    )
    n_items = fields.Integer()
    n_bytes = fields.Integer(metadata={"description": "bytes of the body, after decompression"})
    sha256 = fields.String(
        allow_none=True,
        metadata={
            "description": "hex digest of the body, after decompression; null for what a schedule gathered"
        },
    )
    collection = fields.String(allow_none=True)
    created_at = Timestamp()
    sealed_at = Timestamp()
    expires_at = Timestamp(allow_none=True, metadata={"description": "its items go after this time"})
    pruned_at = Timestamp(
        allow_none=True, metadata={"description": "when its items went: no job can be made of it"}
    )


class UploadQuery(Schema):
    collection = fields.String(
        validate=check_collection,
        load_default=None,
        metadata={"description": "where schedules look for it"},
    )
    expires_at = Timestamp(
        validate=check_time,
        load_default=None,
        metadata={"description": "its items go after this time; a + in an offset must be sent as %2B"},
    )


class Registration(Schema):
    url = fields.String(
        required=True,
        metadata={
            "description": "an object of NDJSON or CSV that stays where it is: `s3://…`, `gs://…` or `file:///…`"
        },
    )
    format = fields.String(
        load_default=None,
        validate=validate.OneOf(list(Format)),
        metadata={"description": "by the object's name if left out", "enum": ["ndjson", "csv"]},
    )


class UploadTarget(Schema):
    folder = fields.String(required=True, metadata={"description": "where to: `s3://bucket/incoming`"})
    name = fields.String(
        required=True,
        validate=validate.Regexp(
            OBJECT_NAME, error="is no name: use 1 to 128 of letters, digits, '.', '_' and '-'"
        ),
        metadata={"description": "the object's name; an id is put before it"},
    )
    expires_in = fields.Integer(
        strict=True,
        load_default=3600,
        validate=validate.Range(1, 86_400),
        metadata={"description": "for how many seconds the upload may begin"},
    )


class PresignedUpload(Schema):
    url = fields.String(metadata={"description": "to register with `POST /v1/inputs` once it is uploaded"})
    upload_url = fields.String(metadata={"description": "where to send the object; anyone may who has this"})
    method = fields.String(metadata={"enum": ["PUT"]})
    headers = fields.Dict(metadata={"description": "to send with it"})
    expires_at = Timestamp()


class InputQuery(Page):
    collection = fields.String(validate=check_collection)


class InputList(Schema):
    data = fields.List(fields.Nested(InputSchema))
