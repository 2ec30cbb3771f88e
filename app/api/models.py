"""Models: what there is, and online predictions."""

from typing import Any

from flask import Response

from app.api.blueprints import Blueprint
from app.api.requests import read_data
from app.api.schemas import Items, ModelList, ModelSchema, Predictions
from app.api.services import services
from app.models.served import ServedModel
from app.predictions import encode, predict

blueprint = Blueprint("models", __name__, description="Models and online predictions")

LOAD_WAIT_SECONDS = 30.0


@blueprint.get("/v1/models")
@blueprint.response(200, ModelList)
def list_models() -> dict[str, Any]:
    """All model versions that are served here."""
    return {"data": [_describe(served) for served in services().registry.models()]}


@blueprint.get("/v1/models/<model>")
@blueprint.response(200, ModelSchema)
@blueprint.problems(404)
def get_model(model: str) -> dict[str, Any]:
    """A model's default version, with the JSON Schemas of its items and predictions."""
    return _describe(services().registry.get(model))


@blueprint.post("/v1/models/<model>/predict")
@blueprint.doc(requestBody={"required": True, "content": {"application/json": {"schema": Items}}})
@blueprint.response(200, Predictions)
@blueprint.problems(400, 404, 413, 415, 422, 500, 503)
def predict_online(model: str) -> Response:
    """Predictions for these items, now. All of them, or an error that points at each bad item."""
    served = services().registry.get(model)
    answered = predict(ready(served), read_data())
    body = {
        "prediction": answered,
        "model": served.declaration.name,
        "version": served.declaration.version,
    }
    return Response(encode(served, body), mimetype="application/json")


def ready(served: ServedModel) -> ServedModel:
    """The model, once it is loaded: a request that comes too early waits for it rather than fail."""
    served.wait_ready(LOAD_WAIT_SECONDS)
    return served


def _describe(served: ServedModel) -> dict[str, Any]:
    return {
        "name": served.declaration.name,
        "version": served.declaration.version,
        "default": served.declaration.default,
        "state": served.state,
        "reason": served.reason,
        "item": served.item_json_schema,
        "prediction": served.prediction_json_schema,
    }
