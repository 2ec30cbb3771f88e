"""The published API: the routes, and the items and predictions of the models that are served here."""

import threading
from copy import deepcopy
from typing import Any

import flask_smorest
import orjson
from flask import Flask, Response
from flask_smorest.spec import openapi_cli

from app.api.blueprints import Blueprint
from app.api.services import services
from app.models.registry import Registry


class Api(flask_smorest.Api):
    """Writes `/openapi.json` for each request, since models come and go; the routes are described at the first one.

    To describe them takes four times as long as all else that makes an app, and few processes are ever asked.
    """

    def __init__(self, app: Flask) -> None:
        self._blueprints: list[Blueprint] = []
        self._describing = threading.RLock()  # the description asks for `spec` itself
        self._is_described = False
        super().__init__(app)

    @property
    def spec(self) -> Any:
        """The routes' description, complete; to be asked for when all blueprints are registered. Any thread may."""
        with self._describing:
            if not self._is_described:
                self._is_described = True
                try:
                    self._describe()
                except BaseException:
                    self._is_described = False  # or the next one would be shown half of it
                    raise
            return self._spec

    @spec.setter
    def spec(self, spec: Any) -> None:
        self._spec = spec

    def register_blueprint(self, blueprint: Blueprint) -> None:
        self._app.extensions["flask-smorest"]["blp_name_to_api"][blueprint.name] = self
        self._app.register_blueprint(blueprint)
        self._blueprints.append(blueprint)

    def _init_spec(self, **options: Any) -> None:
        """Called by `init_app`, which is too early for anything but the command that prints what is described."""
        self._app.cli.add_command(openapi_cli)

    def _describe(self) -> None:
        super()._init_spec()
        for each in self._blueprints:
            each.register_views_in_doc(self, self._app, self.spec, name=each.name, parameters=None)
            self.spec.tag({"name": each.name, "description": each.description})

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
