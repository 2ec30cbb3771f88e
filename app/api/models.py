"""Models: what there is, and online predictions."""

from pathlib import Path
from typing import Any

from flask import Response

from app.api.blueprints import Blueprint
from app.api.online import answer_online
from app.api.schemas import Items, JobSchema, ModelList, ModelSchema, Predictions, Preferred, PromotionSchema
from app.api.services import services
from app.errors import ConfigurationError, Conflict
from app.models.declarations import read_declarations
from app.models.served import ServedModel
from app.versions import events

ITEMS = {"required": True, "content": {"application/json": {"schema": Items}}}

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


@blueprint.get("/v1/models/<model>/versions")
@blueprint.response(200, ModelList)
@blueprint.problems(404)
def list_versions(model: str) -> dict[str, Any]:
    """All versions of a model that are served here."""
    registry = services().registry
    registry.get(model)
    return {"data": [_describe(served) for served in registry.versions(model)]}


@blueprint.get("/v1/models/<model>/versions/<version>")
@blueprint.response(200, ModelSchema)
@blueprint.problems(404)
def get_version(model: str, version: str) -> dict[str, Any]:
    """One version of a model."""
    return _describe(services().registry.get(model, version))


@blueprint.post("/v1/models/<model>/versions/<version>/promote")
@blueprint.response(202, PromotionSchema)
@blueprint.problems(404, 409, 503)
def promote_version(model: str, version: str) -> tuple[dict[str, str], int]:
    """Makes a version the model's default, in every process of every host that uses this database.

    Each follows within about two seconds, as soon as it has the version ready; until then it serves the default it
    had. The last promotion of a model holds, whatever `models.toml` calls the default.
    """
    here = services()
    here.database.require_current_schema()
    _require_sound_file(here.settings.models_file)
    served = here.registry.get(model, version)
    if served.state == "failed":
        raise Conflict(f"{served} failed to load: {served.reason}")
    with here.database.writing() as session:
        events.promote(session, model, version)
    return {"model": model, "version": version}, 202


@blueprint.post("/v1/models/<model>/predict")
@blueprint.arguments(Preferred, location="headers")
@blueprint.doc(requestBody=ITEMS)
@blueprint.response(200, Predictions)
@blueprint.alt_response(202, schema=JobSchema, description="The job that was made of the items instead")
@blueprint.problems(400, 404, 413, 415, 422, 500, 503, 504)
def predict_online(_headers: dict[str, str], model: str) -> Response:
    """Predictions for these items, now. All of them, or an error that points at each bad item.

    By the model's default version, which the answer names. `Prefer: wait=10` makes a job of the items if they are not
    predicted in 10 seconds; `Prefer: respond-async` does at once (RFC 7240).
    """
    return answer_online(services().registry.get(model))


@blueprint.post("/v1/models/<model>/versions/<version>/predict")
@blueprint.arguments(Preferred, location="headers")
@blueprint.doc(requestBody=ITEMS)
@blueprint.response(200, Predictions)
@blueprint.alt_response(202, schema=JobSchema, description="The job that was made of the items instead")
@blueprint.problems(400, 404, 413, 415, 422, 500, 503, 504)
def predict_online_by_version(_headers: dict[str, str], model: str, version: str) -> Response:
    """The same by one version, whichever is the default: to compare it before it is promoted."""
    return answer_online(services().registry.get(model, version))


def _require_sound_file(models_file: Path) -> None:
    """`Conflict` while the models' file is wrong: nobody would follow, since to follow is to read it again."""
    try:
        read_declarations(models_file)
    except ConfigurationError as error:
        raise Conflict(f"no version can be promoted before this is mended: {error}") from error


def _describe(served: ServedModel) -> dict[str, Any]:
    registry = services().registry
    return {
        "name": served.declaration.name,
        "version": served.declaration.version,
        "default": registry.is_default(served),
        "state": served.state,
        "reason": served.reason,
        "successor": registry.successor(served),
        "item": served.item_json_schema,
        "prediction": served.prediction_json_schema,
    }
