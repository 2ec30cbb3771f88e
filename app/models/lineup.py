"""The lineup: the models of one process, which of them answers for which name, and how one takes another's place."""

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import structlog

from app.models.batcher import Batcher
from app.models.declarations import Declaration
from app.models.garbage import freeze, freeze_when_gone
from app.models.preloading import preloaded
from app.models.served import Bring, ServedModel

log = structlog.get_logger(__name__)

FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 1.0, 60.0
"""Between two loads of a model that fails in passing: the first, and what it is doubled up to."""

Version = tuple[str, str]
Names = dict[tuple[str | None, str | None], ServedModel]


class Lineup:
    """Belongs to the process that made it. Every method may be called from any thread; what only reads takes no lock.

    A version that is declared anew is loaded beside the one that answers, and takes its place when it is ready; if it
    fails, the old one goes on. A name's default moves to another version when that is ready. A version that is no
    longer declared goes, but for one that is still its name's default, since the new one is not ready.
    """

    def __init__(
        self,
        declarations: Sequence[Declaration],
        artifact_cache: Path,
        bring: Bring,
        batchers: dict[ServedModel, Batcher],
    ) -> None:
        """`batchers` is filled and emptied here, and may be read by others."""
        self._artifact_cache = artifact_cache
        self._bring = bring
        self._batchers = batchers
        self._lock = threading.Lock()
        self._declared: Sequence[Declaration] = ()
        self._versions: dict[Version, ServedModel] = {}
        self._successors: dict[Version, ServedModel] = {}
        """Those declared anew whose predecessor answers, for they are loading, or failed to."""
        self._pausing: set[ServedModel] = set()
        """Those that failed in passing and wait for their next load."""
        self._defaults: dict[str, str] = {}
        self.names: Names = {}
        """What answers: by name and version; by name and None, its default; by None and None, the first name's."""
        self.is_frozen = False
        self._loading = self._declare(declarations)
        self._first = frozenset(self._versions)

    def start(self) -> None:
        """Begins to load; once."""
        loading, self._loading = self._loading, []
        self._load_each(loading)

    def replace(self, declarations: Sequence[Declaration]) -> None:
        """Has these served from now on; returns at once. What failed to load is tried again."""
        with self._lock:
            loading = self._declare(declarations)
        self._load_each(loading)

    def models(self) -> list[ServedModel]:
        """What answers, in the order of the declarations; what stays though it is not declared comes last."""
        return list(self._versions.values())

    def successor(self, served: ServedModel) -> ServedModel | None:
        """What is to take the place of `served` and has not: it is loading, or it failed."""
        return self._successors.get(_version(served.declaration))

    def unready(self) -> list[ServedModel]:
        """Of the versions that this process began with, those that do not answer; what came later keeps nobody out."""
        return [
            served
            for version, served in list(self._versions.items())
            if version in self._first and served.state in ("loading", "failed")
        ]

    def defaults(self) -> Mapping[str, str]:
        """The default version of each name."""
        return self._defaults

    def add_batcher(self, served: ServedModel) -> Batcher:
        """The queue of online requests in front of a model, made now if there is none."""
        with self._lock:
            if served in self._versions.values():
                return self._batchers.setdefault(served, Batcher(served))
        late = Batcher(served)  # the request came before another model took this one's place
        late.retire()
        return late

    def _declare(self, declarations: Sequence[Declaration]) -> list[ServedModel]:
        """Those that are to be loaded now."""
        self._declared = declarations
        made = [served for declared in declarations if (served := self._bring_in(declared)) is not None]
        self._settle()
        return [served for served in made if served.state == "loading"]

    def _bring_in(self, declared: Declaration) -> ServedModel | None:
        """The model of a declaration, if neither what answers nor its successor is just that."""
        version = _version(declared)
        answering, successor = self._versions.get(version), self._successors.pop(version, None)
        if answering is not None and self._is_served_by(declared, answering):
            return None
        if successor is not None and self._is_served_by(declared, successor):
            self._successors[version] = successor
            return None
        made = preloaded(declared) or ServedModel(declared, self._artifact_cache)
        has_predecessor = answering is not None and answering.state == "ready"
        if answering is not None and answering.state == "untrained":
            self._first -= {version}  # which kept nobody out, and neither does what comes in its place
        (self._successors if has_predecessor else self._versions)[version] = made
        return made

    def _is_served_by(self, declared: Declaration, served: ServedModel) -> bool:
        """Whether this is the model of a declaration, rather than one to be loaded anew."""
        return served.declaration == declared and served.state != "failed" and served not in self._pausing

    def _load_each(self, loading: list[ServedModel]) -> None:
        for served in loading:
            threading.Thread(target=self._load, args=[served], name=f"load {served}", daemon=True).start()

    def _load(self, served: ServedModel) -> None:
        """Loads it; what fails in passing again and again, until something else takes its place."""
        served.load(self._bring)
        for pause in _pauses():
            if served.state != "loading":
                break
            with self._lock:
                self._pausing.add(served)
            time.sleep(random.uniform(0.5, 1.0) * pause)  # not all processes at once
            with self._lock:
                self._pausing.discard(served)
                if served not in (*self._versions.values(), *self._successors.values()):
                    return
            served.load(self._bring)
        with self._lock:
            has_ended_another = self._settle()
        if self.is_frozen and not has_ended_another:
            freeze()

    def _settle(self) -> bool:
        """Puts everything into its place, as far as it is ready; whether anything has gone.

        What answers changes by one assignment, so that no request sees half of it.
        """
        declared = {_version(each): each for each in self._declared}
        for version in [version for version, served in self._successors.items() if served.state == "ready"]:
            self._versions[version] = self._successors.pop(version)
        self._successors = {
            version: self._successors[version] for version in self._successors if version in declared
        }
        self._move_defaults([each for each in self._declared if each.default])
        self._versions = {
            version: self._versions[version] for version in (*declared, *self._defaults.items())
        }
        names: Names = dict(self._versions.items())
        for name, version_of_name in self._defaults.items():
            names[name, None] = self._versions[name, version_of_name]
        if self._declared:
            names[None, None] = names[self._declared[0].name, None]
        gone = set(self.names.values()) - set(names.values())
        self.names = names
        for served in gone:
            self._retire(served)
        return bool(gone)

    def _move_defaults(self, wanted: Sequence[Declaration]) -> None:
        """Makes these the defaults of their names, but for those that are not ready while the one before is."""
        defaults = {}
        for declared in wanted:
            name, version = _version(declared)
            before = self._defaults.get(name, version)
            answering = self._versions.get((name, before))
            must_wait = answering is not None and answering.state == "ready"
            if must_wait and self._versions[name, version].state != "ready":
                version = before
            if version != before:
                log.info("default_moved", model=name, version=version, before=before)
            defaults[name] = version
        self._defaults = defaults

    def _retire(self, served: ServedModel) -> None:
        """Keeps no reference to a model; who has one still, a request or a chunk, goes on with it."""
        if (batcher := self._batchers.pop(served, None)) is not None:
            batcher.retire()
        if self.is_frozen:
            freeze_when_gone(served)
        log.info("model_retired", model=served.declaration.name, version=served.declaration.version)


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, MOST_PAUSE_SECONDS)


def _version(declared: Declaration) -> Version:
    return declared.name, declared.version
