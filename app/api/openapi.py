"""The published API: the routes, and the items and predictions of the models that are served here."""

from copy import deepcopy
from typing import Any

import flask_smorest
import orjson
from flask import Response

from app.api.services import services
from app.models.registry import Registry


class Api(flask_smorest.Api):
    """Writes `/openapi.json` for each request, since models come and go."""

    def _openapi_json(self) -> Response:
        document = deepcopy(self.spec.to_dict())
        _describe_models(document["components"]["schemas"], services().registry)
        return Response(orjson.dumps(document), mimetype="application/json")


def _describe_models(schemas: dict[str, Any], registry: Registry) -> None:
    """Adds what each model version says of its items and predictions, where a body may hold those of any of them."""
    items: list[dict[str, str]] = []
    predictions: list[dict[str, str]] = []
    for served in registry.models():
        declared = served.declaration
        for part, schema, found in (
            ("item", served.item_json_schema, items),
            ("prediction", served.prediction_json_schema, predictions),
        ):
            if schema is not None:
                name = f"{declared.name}.{declared.version}.{part}"
                schemas[name] = schema | {"title": f"{part} of {served}"}
                found.append({"$ref": f"#/components/schemas/{name}"})
    anything = {"type": "object"}
    schemas["Items"]["properties"]["data"]["items"] = {"anyOf": [*items, anything]}
    schemas["Predictions"]["properties"]["prediction"]["items"] = {"anyOf": [*predictions, anything]}
