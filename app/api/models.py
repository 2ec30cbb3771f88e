"""Models: what there is, and online predictions."""

from typing import Any

from flask import Response

from app.api.blueprints import Blueprint
from app.api.online import answer_online
from app.api.schemas import Items, JobSchema, ModelList, ModelSchema, Predictions, Preferred
from app.api.services import services
from app.models.served import ServedModel

blueprint = Blueprint("models", __name__, description="Models and online predictions")


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
@blueprint.arguments(Preferred, location="headers")
@blueprint.doc(requestBody={"required": True, "content": {"application/json": {"schema": Items}}})
@blueprint.response(200, Predictions)
@blueprint.alt_response(202, schema=JobSchema, description="The job that was made of the items instead")
@blueprint.problems(400, 404, 413, 415, 422, 500, 503, 504)
def predict_online(_headers: dict[str, str], model: str) -> Response:
    """Predictions for these items, now. All of them, or an error that points at each bad item.

    `Prefer: wait=10` makes a job of the items if they are not predicted in 10 seconds; `Prefer: respond-async`
    does at once (RFC 7240).
    """
    return answer_online(services().registry.get(model))


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
