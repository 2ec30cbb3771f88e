"""The follower: keeps the models of a process at what is to be served, as events tell it."""

import threading
from collections.abc import Mapping
from pathlib import Path

import structlog
from sqlalchemy.exc import DBAPIError

from app.db import Database, is_away
from app.errors import Unavailable
from app.models.artifacts import ArtifactAway
from app.models.declarations import Declaration
from app.models.registry import Registry
from app.tables import ModelVersion
from app.versions import events
from app.versions.serving import served_declarations
from app.versions.trained import bring_artifact, served_versions

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
FIRST_LOOK_SECONDS = 3.0
"""How long the models wait for a database that does not answer, to learn of promotions, before they are loaded."""


class Follower:
    """Looks for new model events about once a second, from a daemon thread of its own; made after a fork.

    A database that is away, or has not our tables, changes nothing: what is served is served on.
    """

    def __init__(self, database: Database, registry: Registry, models_file: Path) -> None:
        self._database = database
        self._registry = registry
        self._models_file = models_file
        self._seen: events.Mark | None = None
        self._trained: Mapping[tuple[str, str], ModelVersion] = {}
        registry.bring = self._bring
        self._trouble: str | None = None
        self._has_looked = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        """Begins; returns when promotions are known, so that a process does not begin with what they have replaced."""
        self._thread.start()
        self._has_looked.wait(FIRST_LOOK_SECONDS)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def look(self) -> None:
        """Has the registry serve what is to be served, if anything has happened since the last look."""
        self._database.require_current_schema()
        with self._database.reading() as session:
            newest = events.latest_event(session)
            if newest == self._seen:
                return
            declarations = served_declarations(session, self._models_file, self._registry.artifact_cache)
            versions = served_versions(session)
        self._trained = {(version.model, version.version): version for version in versions}
        self._seen = newest
        self._registry.replace(declarations)

    def _bring(self, declared: Declaration) -> None:
        """Has the artifact of a trained version on this host; `ArtifactAway` if the database is, which has it."""
        version = self._trained.get((declared.name, declared.version))
        if version is None or version.sha256 != declared.sha256:
            return
        try:
            bring_artifact(self._database, version, self._registry.artifact_cache)
        except DBAPIError as error:
            if not is_away(error):
                raise
            told = " ".join(str(error.orig).split())
            raise ArtifactAway(f"the database, which has its artifact, does not answer: {told}") from None

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
                self._trouble = None
            except (DBAPIError, Unavailable) as error:
                # Requests and the runner meet the same outage, and report it.
                log.debug("models_not_followed", error=" ".join(str(error).split()))
            except Exception as error:  # noqa: BLE001 — whatever it is, this thread is the only one that follows
                self._tell(error)
            self._has_looked.set()
            self._stopping.wait(LOOK_SECONDS)

    def _tell(self, error: Exception) -> None:
        """Logs it, once as long as it stays the same."""
        if (trouble := repr(error)) != self._trouble:
            log.error("models_not_followed", error=trouble, exc_info=error)
        self._trouble = trouble
