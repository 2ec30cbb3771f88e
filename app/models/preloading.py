"""Preloading: models that are loaded once, before a process forks, so that its children share their memory."""

from collections.abc import Sequence
from pathlib import Path

from app.models.declarations import Declaration
from app.models.served import ServedModel

_preloaded: list[ServedModel] = []


def preload(declarations: Sequence[Declaration], artifact_cache: Path) -> None:
    """Loads these, one after the other, in the calling thread, for all children forked later.

    One that fails is left to the children, who try for themselves and say why not.
    """
    for declared in declarations:
        served = ServedModel(declared, artifact_cache)
        served.load()
        if served.state == "ready":
            _preloaded.append(served)


def preloaded(declared: Declaration) -> ServedModel | None:
    """The model of this declaration that was loaded before the fork, if there is one."""
    return next((served for served in _preloaded if served.declaration == declared), None)
