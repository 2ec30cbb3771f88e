"""The registry: every model version that is served, loaded once in this process."""

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.errors import NotFound
from app.models.artifacts import DEFAULT_CACHE
from app.models.batcher import Batcher
from app.models.declarations import Declaration
from app.models.garbage import freeze
from app.models.lineup import Lineup
from app.models.served import Bring, ServedModel


class Registry:
    """The models of `declarations`, and later of those that replace them. Safe to make before a fork and to call from
    any thread.

    Nothing is imported or loaded until the first call of a method, in whichever process makes it: a process
    forked from one that has loaded loads again, because threads, locks and GPU handles do not survive a fork.
    What was preloaded (`app.models.preloading`) is there at once.
    """

    def __init__(self, declarations: Sequence[Declaration], artifact_cache: Path = DEFAULT_CACHE) -> None:
        self._declarations = tuple(declarations)
        self.artifact_cache = artifact_cache
        self.bring: Bring = lambda _: None
        """Called by the thread that loads a model, before it does: for artifacts that come from no address."""
        self._by_process: dict[int, Lineup] = {}
        self._batchers: dict[ServedModel, Batcher] = {}

    def start(self) -> None:
        """Begins to load all versions, each in a daemon thread of its own, and returns at once.

        It never raises for a model: one that cannot be loaded has a `reason`.
        """
        self._lineup()

    def replace(self, declarations: Sequence[Declaration]) -> None:
        """Has these served from now on, in this process, without a gap; returns at once.

        What is new or declared differently is loaded beside what answers, and takes its place when it is ready; who
        began with the old one ends with it. May be called again at any time: the last call holds.
        """
        self._declarations = tuple(declarations)
        self._lineup().replace(self._declarations)

    def freeze_when_loaded(self) -> None:
        """Loads all, then hides it from the garbage collector, and what comes later when it is there; returns at once.

        For a process that serves until it ends: see `app.models.garbage`.
        """
        threading.Thread(target=self._freeze_when_loaded, name="freeze", daemon=True).start()

    def _freeze_when_loaded(self) -> None:
        for served in self.models():
            served.wait_ready()
        self._lineup().is_frozen = True
        freeze()

    def get(self, name: str, version: str | None = None) -> ServedModel:
        """That version, or the default one; loading, ready or failed. `NotFound` names what exists."""
        served = self._lineup().names.get((name, version))
        if served is None:
            raise self._not_found(name, version)
        return served

    def _not_found(self, name: str, version: str | None) -> NotFound:
        versions = self.versions(name)
        if not versions:
            return NotFound(f"No model is named {name!r}: there is {', '.join(self.defaults())}")
        known = ", ".join(served.declaration.version for served in versions)
        return NotFound(f"Model {name!r} has no version {version!r}: there is {known}")

    def default(self, name: str | None = None) -> ServedModel:
        """The default version of that model; of the first model declared, if none is named."""
        return self._lineup().names[None, None] if name is None else self.get(name)

    def defaults(self) -> Mapping[str, str]:
        """The default version of each name."""
        return self._lineup().defaults()

    def batcher(self, served: ServedModel) -> Batcher:
        """The queue of online requests in front of a model of this process."""
        return self._batchers.get(served) or self._lineup().add_batcher(served)

    def models(self) -> list[ServedModel]:
        """Every version that answers, in the order of its declaration."""
        return self._lineup().models()

    def versions(self, name: str) -> list[ServedModel]:
        """Those of one name; none if there is no such model."""
        return [served for served in self.models() if served.declaration.name == name]

    def is_default(self, served: ServedModel) -> bool:
        """Whether it answers for its name. Its own declaration tells only what was meant when it was loaded."""
        return self._lineup().names.get((served.declaration.name, None)) is served

    def successor(self, served: ServedModel) -> ServedModel | None:
        """What is to take the place of `served` and has not: it is loading, or it failed, with a `reason`."""
        return self._lineup().successor(served)

    def unready(self) -> list[ServedModel]:
        """Of the versions that this process began with, those that are loading or failed; `reason` says why."""
        return self._lineup().unready()

    def _bring(self, declared: Declaration) -> None:
        self.bring(declared)

    def _lineup(self) -> Lineup:
        """This process's models; the first call here starts to load them.

        No lock guards it, since a fork could copy a lock that another thread holds: `setdefault` lets one
        lineup win, and only the thread that made that one starts its loads.
        """
        process = os.getpid()
        lineup = self._by_process.get(process)
        if lineup is None:
            made = Lineup(self._declarations, self.artifact_cache, self._bring, self._batchers)
            lineup = self._by_process.setdefault(process, made)
            if lineup is made:
                lineup.start()
        return lineup
