"""The shapes of requests and responses: what marshmallow checks, what it writes, what OpenAPI shows."""

import re
from datetime import UTC, datetime
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from app.data.formats import Format
from app.jobs.ids import is_id
from app.models.declarations import NAME
from app.tables import JobKind, JobState

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
        if value is None:
            return None
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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


class Items(Schema):
    data = fields.List(fields.Dict(), required=True, metadata={"description": "items, at least one"})


class Predictions(Schema):
    prediction = fields.List(
        fields.Dict(),
        metadata={"description": "each item's own fields plus the model's, in the order of the items"},
    )
    model = fields.String()
    version = fields.String()


class Preferred(Schema):
    prefer = fields.String(
        data_key="Prefer",
        metadata={"description": "`wait=N` and `respond-async` (RFC 7240): a job instead of a late answer"},
    )


class ArticlePredictions(Schema):
    prediction = fields.List(fields.Dict())


class Successor(Schema):
    state = fields.String(metadata={"enum": ["loading", "failed"]})
    reason = fields.String(allow_none=True, metadata={"description": "why it failed to load"})


class Origin(Schema):
    """Where a trained version came from."""

    metrics = fields.Dict(metadata={"description": "what the model's train returned"})
    parent = fields.String(metadata={"description": "the version whose class trained it"})
    job_id = fields.String()
    input_id = fields.String(metadata={"description": "the items that it was trained on"})
    n_items = fields.Integer()
    options = fields.Dict(metadata={"description": "what train was given besides them"})
    sha256 = fields.String(metadata={"description": "hex digest of its artifact"})
    n_bytes = fields.Integer()
    created_at = Timestamp()
    promoted_at = Timestamp(
        allow_none=True, metadata={"description": "since when it is served; null: it was never promoted"}
    )


class ModelSchema(Schema):
    name = fields.String()
    version = fields.String()
    default = fields.Boolean(metadata={"description": "whether requests that name no version get this one"})
    state = fields.String(metadata={"enum": ["loading", "ready", "failed", "untrained", "unserved"]})
    reason = fields.String(allow_none=True, metadata={"description": "why it failed to load"})
    successor = fields.Nested(
        Successor,
        allow_none=True,
        metadata={"description": "the same version as it is declared now, which has not taken its place yet"},
    )
    trained = fields.Nested(
        Origin,
        allow_none=True,
        metadata={"description": "where it came from; null: from models.toml. Told by /versions"},
    )
    item = fields.Dict(allow_none=True, metadata={"description": "JSON Schema of one item"})
    prediction = fields.Dict(allow_none=True, metadata={"description": "JSON Schema of what predict adds"})


class ModelList(Schema):
    data = fields.List(fields.Nested(ModelSchema))


class PromotionSchema(Schema):
    model = fields.String()
    version = fields.String(metadata={"description": "the default from now on"})


class Page(Schema):
    """Newest first. The `Link` header with rel="next" leads to the following page."""

    limit = fields.Integer(load_default=100, validate=validate.Range(1, MAX_PAGE))
    cursor = fields.String(
        validate=check_id, metadata={"description": "from the Link header; as it stands there"}
    )


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
    pruned_at = Timestamp(allow_none=True, metadata={"description": "when its items went"})


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


class JobWait(Schema):
    wait = fields.Float(
        load_default=0.0,
        validate=validate.Range(0, 60),
        metadata={"description": "seconds to wait for the job to end before answering"},
    )


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
