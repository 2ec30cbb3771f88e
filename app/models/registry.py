"""The registry: every declared model version, loaded once in this process."""

import gc
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from app.errors import NotFound
from app.models.artifacts import DEFAULT_CACHE
from app.models.batcher import Batcher
from app.models.declarations import Declaration
from app.models.served import ServedModel

Versions = dict[tuple[str, str], ServedModel]


class Registry:
    """The models of `declarations`, at least one. Safe to make before a fork and to call from any thread.

    Nothing is imported or loaded until the first call of a method, in whichever process makes it: a process
    forked from one that has loaded loads again, because threads, locks and GPU handles do not survive a fork.
    """

    def __init__(self, declarations: Sequence[Declaration], artifact_cache: Path = DEFAULT_CACHE) -> None:
        self.declarations = tuple(declarations)
        self._defaults = {d.name: (d.name, d.version) for d in self.declarations if d.default}
        self._artifact_cache = artifact_cache
        self._by_process: dict[int, Versions] = {}
        self._batchers: dict[ServedModel, Batcher] = {}

    def start(self) -> None:
        """Begins to load all versions, each in a daemon thread of its own, and returns at once.

        It never raises for a model: one that cannot be loaded is "failed", with a reason.
        """
        self._versions()

    def freeze_when_loaded(self) -> None:
        """Loads all, then takes all there is out of the garbage collector's sight; returns at once.

        For a process that serves until it ends: libraries and weights are walked no more. With hundreds of thousands
        of objects to walk, a job of a model in pure Python took a tenth longer, and the slowest of a hundred online
        requests several times as long. What is young is looked at after 50,000 new objects instead of 700: a request
        of a hundred items makes three hundred, and none of them in a cycle.
        """
        threading.Thread(target=self._freeze_when_loaded, name="freeze", daemon=True).start()

    def _freeze_when_loaded(self) -> None:
        for served in self.models():
            served.wait_ready()
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)

    def get(self, name: str, version: str | None = None) -> ServedModel:
        """That version, or the default one; loading, ready or failed. `NotFound` names what exists."""
        wanted = self._defaults.get(name) if version is None else (name, version)
        served = self._versions().get(wanted) if wanted else None
        if served is None:
            raise self._not_found(name, version)
        return served

    def _not_found(self, name: str, version: str | None) -> NotFound:
        versions = [declared.version for declared in self.declarations if declared.name == name]
        if not versions:
            return NotFound(f"No model is named {name!r}: there is {', '.join(self._defaults)}")
        return NotFound(f"Model {name!r} has no version {version!r}: there is {', '.join(versions)}")

    def default(self, name: str | None = None) -> ServedModel:
        """The default version of that model; of the first model declared, if none is named."""
        return self.get(self.declarations[0].name if name is None else name)

    def batcher(self, served: ServedModel) -> Batcher:
        """The queue of online requests in front of a model of this process."""
        return self._batchers.get(served) or self._batchers.setdefault(served, Batcher(served))

    def models(self) -> list[ServedModel]:
        """Every version, in the order of its declaration."""
        return list(self._versions().values())

    def unready(self) -> list[ServedModel]:
        """Those that are loading or failed; `state` and `reason` say which and why."""
        return [served for served in self.models() if served.state in ("loading", "failed")]

    def _versions(self) -> Versions:
        """This process's models; the first call here starts to load them.

        No lock guards it, since a fork could copy a lock that another thread holds: `setdefault` lets one
        dictionary win, and only the thread that made that one starts its loads.
        """
        process = os.getpid()
        versions = self._by_process.get(process)
        if versions is None:
            made = {(d.name, d.version): ServedModel(d, self._artifact_cache) for d in self.declarations}
            versions = self._by_process.setdefault(process, made)
            if versions is made:
                for served in made.values():
                    threading.Thread(target=served.load, name=f"load {served}", daemon=True).start()
        return versions
