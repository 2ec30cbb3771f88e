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
from app.models.registry import Registry
from app.models.served import ServedModel
from app.tables import ModelVersion
from app.versions import events, trained

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
@blueprint.problems(404, 503)
def list_versions(model: str) -> dict[str, Any]:
    """All versions of a model: those that are served here, and trained ones that were never promoted ("unserved")."""
    return {"data": _describe_versions(model)}


@blueprint.get("/v1/models/<model>/versions/<version>")
@blueprint.response(200, ModelSchema)
@blueprint.problems(404, 503)
def get_version(model: str, version: str) -> dict[str, Any]:
    """One version of a model; of a trained one, its metrics and where it came from."""
    found = [each for each in _describe_versions(model) if each["version"] == version]
    return found[0] if found else _describe(services().registry.get(model, version))


@blueprint.delete("/v1/models/<model>/versions/<version>")
@blueprint.response(204)
@blueprint.problems(404, 409, 410, 503)
def delete_version(model: str, version: str) -> Response:
    """Removes a trained version that is not the default, and its artifact; every process serves it no more.

    What is known of it stays in the database, and its name does not come again.
    """
    here = services()
    here.database.require_current_schema()
    with here.database.writing() as session:
        # First, for it locks the row: who promotes it waits, or has done so.
        trained.remove(session, model, version)
        promotion = events.promotions(session).get(model)
        if promotion is not None and promotion.version == version:
            raise Conflict(f"version {version} is the default of {model}: promote another one first")
        if here.registry.defaults().get(model) == version:
            raise Conflict(
                f"version {version} is the default of {model} until the one promoted since is ready"
            )
        events.tell_reload(session)
    return Response(status=204)


@blueprint.post("/v1/models/<model>/versions/<version>/promote")
@blueprint.response(202, PromotionSchema)
@blueprint.problems(404, 409, 410, 503)
def promote_version(model: str, version: str) -> tuple[dict[str, str], int]:
    """Makes a version the model's default, in every process of every host that uses this database.

    Each follows within about two seconds, as soon as it has the version ready; until then it serves the default it
    had. The last promotion of a model holds, whatever `models.toml` calls the default. A trained version is served from
    its first promotion on.
    """
    here = services()
    here.database.require_current_schema()
    _require_sound_file(here.settings.models_file)
    with here.database.writing() as session:
        made = trained.find(session, model, version)
        _require_promotable(here.registry, model, version, made)
        if made is not None:
            trained.serve(session, model, version)
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


def _require_promotable(registry: Registry, model: str, version: str, made: ModelVersion | None) -> None:
    """`NotFound` if there is no such version, or no entry for it; `Conflict` if it is served and cannot predict."""
    if made is not None:
        registry.get(model, made.entry)  # nothing else says which class it is of
        if version not in [served.declaration.version for served in registry.versions(model)]:
            return
    served = registry.get(model, version)
    if served.state == "failed":
        raise Conflict(f"{served} failed to load: {served.reason}")
    if served.state == "untrained":
        raise Conflict(served.untrained)


def _describe_versions(model: str) -> list[dict[str, Any]]:
    here = services()
    here.registry.get(model)
    here.database.require_current_schema()
    with here.database.reading() as session:
        made = {row.version: row for row in trained.list_versions(session, model)}
    served = [
        _describe(each) | {"trained": made.pop(each.declaration.version, None)}
        for each in here.registry.versions(model)
    ]
    return served + [
        {"name": model, "version": row.version, "default": False, "state": "unserved", "trained": row}
        for row in made.values()
    ]


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
