"""Whether this process lives, and whether it can serve."""

from typing import Any

from marshmallow import Schema, fields
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.api.blueprints import Blueprint
from app.api.services import services
from app.errors import Unavailable

blueprint = Blueprint("health", __name__, description="For load balancers and orchestrators")


class Liveness(Schema):
    status = fields.String()


class Readiness(Schema):
    ready = fields.Boolean()
    database = fields.String(metadata={"description": "ok, or what is wrong and which command mends it"})
    models = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        metadata={"description": "ready, loading, or why it failed"},
    )


@blueprint.get("/livez")
@blueprint.response(200, Liveness)
def livez() -> dict[str, str]:
    """200 as long as the process answers."""
    return {"status": "ok"}


@blueprint.get("/readyz")
@blueprint.response(200, Readiness)
@blueprint.alt_response(503, schema=Readiness)
def readyz() -> tuple[dict[str, Any], int]:
    """200 when all models are loaded, the database answers and its tables are current; else 503 and what is not."""
    here = services()
    database = _database()
    models = {
        f"{served.declaration.name} {served.declaration.version}": (
            f"failed: {served.reason}" if served.state == "failed" else served.state
        )
        for served in here.registry.models()
    }
    is_ready = database == "ok" and all(state == "ready" for state in models.values())
    return {"ready": is_ready, "database": database, "models": models}, 200 if is_ready else 503


def _database() -> str:
    database = services().database
    try:
        with database.reading() as session:
            session.execute(text("SELECT 1"))
        database.require_current_schema()
    except Unavailable as error:
        return error.detail
    except DBAPIError as error:
        return f"away: {' '.join(str(error.orig).split())}"
    return "ok"
