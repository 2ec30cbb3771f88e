"""Preloading: models that are loaded once, before a process forks, so that its children share their memory."""

import gc
from collections.abc import Sequence
from pathlib import Path

from app.models.declarations import Declaration
from app.models.served import ServedModel

_preloaded: list[ServedModel] = []


def preload(declarations: Sequence[Declaration], artifact_cache: Path) -> None:
    """Loads these, one after the other, in the calling thread, for all children forked later.

    One that fails is left to the children, who try for themselves and say why not. The rest is hidden from the garbage
    collector, which would write into every object that it looks at, and so copy the page that it is on.
    """
    for declared in declarations:
        served = ServedModel(declared, artifact_cache)
        served.load()
        if served.state == "ready":
            _preloaded.append(served)
    gc.collect()
    gc.freeze()


def preloaded(declared: Declaration) -> ServedModel | None:
    """The model of this declaration that was loaded before the fork, if there is one."""
    return next((served for served in _preloaded if served.declaration == declared), None)
