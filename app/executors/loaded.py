"""The models of a process that runs chunks for a runner elsewhere: it learns of a model by its declaration."""

import threading
from pathlib import Path

from app.models.declarations import Declaration
from app.models.served import ServedModel
from app.tasks.predict import TransientFailure

_lock = threading.Lock()
_loaded: dict[tuple[str, str], ServedModel] = {}


def load_once(declaration: Declaration, artifact_cache: Path) -> ServedModel:
    """The model, which this process loads once; anew if it is declared differently now.

    `TransientFailure` if it fails to load, which is tried again with the next chunk.
    """
    version = (declaration.name, declaration.version)
    with _lock:
        served = _loaded.get(version)
        if served is None or served.declaration != declaration:
            served = ServedModel(declaration, artifact_cache)
            served.load()
            if served.reason is not None:
                raise TransientFailure(f"{served} failed to load where its chunks run: {served.reason}")
            _loaded[version] = served
    return served
