"""The shapes of schedules."""

from marshmallow import fields, validate

from app.api.schemas.fields import MAX_NAME, Schema, Timestamp, check_collection


class ScheduleRequest(Schema):
    cron = fields.String(
        required=True,
        validate=validate.Length(max=MAX_NAME),
        metadata={"description": "minute, hour, day of month, month, day of week: `0 18 * * *`"},
    )
    time_zone = fields.String(
        load_default="UTC",
        validate=validate.Length(max=MAX_NAME),
        metadata={"description": "the IANA zone that cron is read in, such as Europe/Berlin"},
    )
    model = fields.String(required=True, metadata={"description": "a name from GET /v1/models"})
    version = fields.String(metadata={"description": "if left out, the default version when it fires"})
    collection = fields.String(
        required=True,
        validate=check_collection,
        metadata={"description": "what POST /v1/inputs?collection=… named"},
    )


class ScheduleSchema(Schema):
    id = fields.String()
    cron = fields.String()
    time_zone = fields.String()
    model = fields.String()
    version = fields.String(allow_none=True)
    collection = fields.String()
    paused = fields.Boolean()
    created_at = Timestamp()
    next_fire_at = Timestamp(allow_none=True, metadata={"description": "null while it is paused"})


class ScheduleList(Schema):
    data = fields.List(fields.Nested(ScheduleSchema))


class FireSchema(Schema):
    fire_at = Timestamp(metadata={"description": "the instant that was due"})
    fired_at = Timestamp(metadata={"description": "when it really fired"})
    job_id = fields.String(allow_none=True, metadata={"description": "null: the collection had nothing new"})


class ScheduleDetail(ScheduleSchema):
    fires = fields.List(fields.Nested(FireSchema), metadata={"description": "the last ten, newest first"})
