"""The shapes of jobs."""

from typing import Any

from marshmallow import ValidationError, fields, validate, validates_schema

from app.api.schemas.fields import (
    MAX_INTEGER,
    VISIBLE,
    Page,
    Schema,
    Timestamp,
    check_id,
    check_model,
    check_time,
)
from app.tables import JobKind, JobState


class JobQuery(Page):
    status = fields.String(validate=validate.OneOf([state.value for state in JobState]))
    model = fields.String(validate=check_model)
    input_id = fields.String(validate=check_id)


class JobRequest(Schema):
    kind = fields.Enum(
        JobKind,
        by_value=True,
        load_default=JobKind.PREDICT,
        metadata={"description": "train: make a new version of the model from the items"},
    )
    options = fields.Dict(
        keys=fields.String(),
        metadata={"description": "of a train job: what the model's train is given besides the items"},
    )
    model = fields.String(required=True, metadata={"description": "a name from GET /v1/models"})
    version = fields.String(metadata={"description": "the model's default version if left out"})
    input_id = fields.String(validate=check_id, metadata={"description": "from POST /v1/inputs"})
    data = fields.List(
        fields.Dict(),
        validate=validate.Length(min=1),
        metadata={"description": "items, instead of `input_id`"},
    )
    priority = fields.Integer(
        strict=True,
        load_default=0,
        validate=validate.Range(-100, 100),
        metadata={"description": "10 minutes of patience a step; lower is sooner"},
    )
    run_at = Timestamp(
        allow_none=True,
        load_default=None,
        validate=check_time,
        metadata={"description": "not before this time"},
    )
    max_errors = fields.Integer(
        strict=True,
        allow_none=True,
        load_default=None,
        validate=validate.Range(0, MAX_INTEGER),
        metadata={"description": "with more item errors it ends early, as failed; its outputs are kept"},
    )
    expires_at = Timestamp(
        allow_none=True,
        load_default=None,
        validate=check_time,
        metadata={"description": "after this time what has not run is not run, and its outputs go"},
    )

    output_url = fields.String(
        allow_none=True,
        load_default=None,
        metadata={
            "description": "a folder of an object store to write the outputs to, in parts listed by manifest.json"
        },
    )

    @validates_schema
    def fits_kind(self, data: dict[str, Any], **_: Any) -> None:
        if data["kind"] is JobKind.PREDICT and "options" in data:
            raise ValidationError("are for kind train: a model's predict has none", "options")
        if data["kind"] is JobKind.TRAIN and data["max_errors"] is not None:
            raise ValidationError(
                "is for kind predict: a training ends at the first wrong item", "max_errors"
            )
        if data["kind"] is JobKind.TRAIN and data["output_url"] is not None:
            raise ValidationError("is for kind predict: a training has no outputs", "output_url")

    @validates_schema
    def one_source(self, data: dict[str, Any], **_: Any) -> None:
        if ("input_id" in data) == ("data" in data):
            raise ValidationError(
                "give either input_id, of an upload, or data, the items themselves", "input_id"
            )


class Counts(Schema):
    total = fields.Integer(attribute="n_items")
    succeeded = fields.Integer(attribute="n_succeeded")
    errored = fields.Integer(attribute="n_errored")
    canceled = fields.Integer(attribute="n_canceled")
    cached = fields.Integer(
        attribute="n_cached",
        metadata={"description": "of those that succeeded, how many the result cache spared the model"},
    )


class TrainedVersion(Schema):
    version = fields.String()
    metrics = fields.Dict(metadata={"description": "what the model's train returned"})


class JobSchema(Schema):
    id = fields.String()
    kind = fields.String(metadata={"enum": [kind.value for kind in JobKind]})
    model = fields.String()
    version = fields.String()
    input_id = fields.String()
    status = fields.String(metadata={"enum": [state.value for state in JobState]})
    done = fields.Boolean(metadata={"description": "whether the status is final"})
    counts = fields.Nested(Counts)
    progress = fields.Float(metadata={"description": "share of the items that have ended, 0 to 1"})
    eta_seconds = fields.Float(
        allow_none=True, metadata={"description": "at the rate so far; null if unknown"}
    )
    priority = fields.Integer()
    run_at = Timestamp(allow_none=True)
    error = fields.String(allow_none=True, metadata={"description": "why the job as a whole failed"})
    created_at = Timestamp()
    started_at = Timestamp(allow_none=True)
    finished_at = Timestamp(allow_none=True)
    max_errors = fields.Integer(allow_none=True)
    options = fields.Dict(allow_none=True, metadata={"description": "null for kind predict"})
    trained = fields.Nested(
        TrainedVersion,
        allow_none=True,
        metadata={"description": "the version that a train job made"},
    )
    expires_at = Timestamp(allow_none=True)
    pruned_at = Timestamp(allow_none=True, metadata={"description": "when its outputs and errors went"})
    output_url = fields.String(
        allow_none=True, metadata={"description": "the folder its outputs are written to; null: kept here"}
    )
    manifest_url = fields.String(
        allow_none=True, metadata={"description": "lists them; null until it is there, just after the end"}
    )


class JobList(Schema):
    data = fields.List(fields.Nested(JobSchema))


class Repeatable(Schema):
    """What lets a client send the same request again and have one job."""

    key = fields.String(
        data_key="Idempotency-Key",
        validate=validate.Regexp(VISIBLE, error="must be 1 to 255 visible ASCII characters"),
        load_default=None,
        metadata={"description": "same key and body: the same job, with `Idempotency-Replayed: true`"},
    )


class JobEventSchema(Schema):
    at = Timestamp()
    event = fields.String(metadata={"description": "created, started, retried, rescued, finished …"})
    first_item = fields.Integer(allow_none=True, metadata={"description": "of the chunk that it concerns"})
    runner_id = fields.String(allow_none=True)
    runner = fields.String(allow_none=True, metadata={"description": "host:pid of the runner that did it"})
    detail = fields.String(allow_none=True)


class JobStory(Schema):
    data = fields.List(fields.Nested(JobEventSchema))


class JobWait(Schema):
    wait = fields.Float(
        load_default=0.0,
        validate=validate.Range(0, 60),
        metadata={"description": "seconds to wait for the job to end before answering"},
    )
