"""Whether this process lives, and whether it can serve."""

from typing import Any

from flask import Response
from marshmallow import fields
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from app.api.blueprints import Blueprint
from app.api.schemas.fields import Schema
from app.api.services import services
from app.columns import utc_now
from app.errors import Unavailable
from app.metrics import MEDIA_TYPE, exposition
from app.models.served import ServedModel
from app.tables import Runner

SILENT_SECONDS = 86_400.0
"""A runner that was not seen for a day is gone, whether or not it said so."""

blueprint = Blueprint("health", __name__, description="For load balancers and orchestrators")


class Liveness(Schema):
    status = fields.String()


class Readiness(Schema):
    ready = fields.Boolean()
    database = fields.String(metadata={"description": "ok, or what is wrong and which command mends it"})
    models = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        metadata={
            "description": "ready, loading, untrained or failed, and why; so too what is to take its place"
        },
    )
    runners_in_trouble = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        metadata={
            "description": "host:pid of runners that claim no more, and why; they do not make it unready"
        },
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
    """200 when the models that the process began with are loaded, the database takes writes and its tables are current.

    Else 503 and what is not. A version that came later and failed to load is named, and keeps nobody out: what was
    there before it is served.
    """
    here = services()
    database, troubles = _database()
    models = {
        f"{served.declaration.name} {served.declaration.version}": _state(
            served, here.registry.successor(served)
        )
        for served in here.registry.models()
    }
    is_ready = database == "ok" and not here.registry.unready()
    answer = {"ready": is_ready, "database": database, "models": models, "runners_in_trouble": troubles}
    return answer, 200 if is_ready else 503


def _state(served: ServedModel, successor: ServedModel | None) -> str:
    reason = served.reason
    told = served.state if reason is None else f"{served.state}: {reason}"
    return told if successor is None else f"{told}; as it is declared now: {_state(successor, None)}"


@blueprint.get("/metrics")
@blueprint.response(200, content_type="text/plain")
def metrics() -> Response:
    """What all processes here have counted, as Prometheus scrapes it."""
    return Response(exposition(), content_type=MEDIA_TYPE)


def _database() -> tuple[str, dict[str, str]]:
    """What is wrong with the database, or ok; and the runners in trouble that it knows of."""
    database = services().database
    try:
        database.require_writable()
        database.require_current_schema()
        with database.reading() as session:
            troubled = session.execute(
                select(Runner.host, Runner.pid, Runner.trouble).where(
                    Runner.trouble.is_not(None),
                    Runner.stopped_at.is_(None),
                    Runner.seen_at > utc_now(-SILENT_SECONDS),
                )
            ).all()
    except Unavailable as error:
        return error.detail, {}
    except DBAPIError as error:
        return f"away: {' '.join(str(error.orig).split())}", {}
    return "ok", {f"{runner.host}:{runner.pid}": runner.trouble for runner in troubled}
