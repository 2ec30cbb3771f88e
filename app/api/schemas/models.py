"""The shapes of models, their versions and online predictions."""

from marshmallow import fields

from app.api.schemas.fields import Schema, Timestamp


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
    reason = fields.String(
        allow_none=True, metadata={"description": "why it failed to load; if it is loading, the last attempt"}
    )


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
    reason = fields.String(
        allow_none=True, metadata={"description": "why it failed to load; if it is loading, the last attempt"}
    )
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
