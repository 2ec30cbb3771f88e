"""The Flask app: settings, database, models and blueprints, wired together."""

import threading

import click
from flask import Flask, request
from flask.helpers import get_debug_flag
from flask_swagger_ui import get_swaggerui_blueprint
from werkzeug.serving import is_running_from_reloader

from app.api import article, health, inputs, jobs, models, outputs, problems, requests, schedules
from app.api.openapi import Api
from app.api.services import EXTENSION, Services, services
from app.cache.asking import OnlineCache
from app.config import Settings, load_settings
from app.data.objects import Storage
from app.db import Database
from app.lanes.loop import LoopLane
from app.lanes.threads import ThreadLane
from app.log import configure_logging
from app.models.current import current_declarations
from app.models.registry import Registry
from app.runner import Runner
from app.versions.follower import Follower

NEEDS_NO_TABLES = {"health", "models", "swagger_ui", "api-docs"}


def create_app(settings: Settings | None = None) -> Flask:
    """The app, by the environment's settings if none are given; `ConfigurationError` if something there is wrong.

    Safe to call before a fork: connections are made, and models loaded, in the process that first needs them.
    """
    settings = settings or load_settings()
    configure_logging(settings)
    app = Flask(__name__, static_folder=None)
    app.config.update(
        API_TITLE="Twofold",
        API_VERSION="v1",
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX="/",
        OPENAPI_JSON_PATH="openapi.json",
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of the default provider: fields in the schemas' order
    registry = Registry(current_declarations(settings.models_file), settings.artifact_cache)
    database = Database(settings.database_url)
    storage = Storage.of(settings.storage_prefixes)
    app.extensions[EXTENSION] = Services(
        settings,
        database,
        registry,
        storage,
        OnlineCache(database),
        threading.Semaphore(settings.web_threads // 2),
        threading.Semaphore(max(1, settings.web_threads // 2)),
    )
    requests.register(app)
    app.before_request(_require_tables)
    api = Api(app)
    for module in (models, inputs, jobs, outputs, schedules, article, health):
        api.register_blueprint(module.blueprint)
    app.register_blueprint(get_swaggerui_blueprint("/docs", "/openapi.json", config={"app_name": "Twofold"}))
    problems.register(app)
    app.wsgi_app = ThreadLane(app.wsgi_app, app.extensions[EXTENSION])  # type: ignore[method-assign]  # as Flask's documentation has it
    if _runs_under_flask_run():
        follow(app)
        if settings.runner == "embedded":
            runner = Runner(database, registry, settings)
            threading.Thread(target=runner.run, name="runner", daemon=True).start()
    return app


def follow(app: Flask | LoopLane) -> None:
    """Has this process follow reloads and promotions; for each that serves, after the fork that made it.

    Under gunicorn and `flask run` it is called. Any other server serves what was declared when it started, unless it
    does the same.
    """
    here: Services = app.extensions[EXTENSION]
    Follower(here.database, here.registry, here.settings.models_file).start()


def _require_tables() -> None:
    """Answers 503, with the command that mends it, where a request needs tables that are not there or are old."""
    if request.blueprint not in NEEDS_NO_TABLES and request.endpoint != "article.online":
        services().database.require_current_schema()


def _runs_under_flask_run() -> bool:
    """Whether this is the process in which `flask run` serves: with its reloader, the child and not the parent."""
    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "run":
        return False
    reloads = context.params.get("reload")
    return is_running_from_reloader() or not (get_debug_flag() if reloads is None else reloads)
