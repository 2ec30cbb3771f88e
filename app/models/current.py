"""What is declared at the moment, also while the file that declares it is broken."""

from pathlib import Path

import structlog

from app.errors import ConfigurationError
from app.models.declarations import Declaration, read_declarations

log = structlog.get_logger(__name__)

_last_read: dict[Path, tuple[Declaration, ...]] = {}


def remember_declarations(path: Path) -> tuple[Declaration, ...]:
    """What `path` declares, for this process and its forks to fall back on; errors are those of `read_declarations`."""
    _last_read[path] = read_declarations(path)
    return _last_read[path]


def current_declarations(path: Path) -> tuple[Declaration, ...]:
    """What `path` declares; while it is broken, what it declared when this process read it last, or the one that this
    was forked from, so that a worker which takes the place of a dead one can serve.

    `ConfigurationError` if nobody has read it before.
    """
    try:
        return remember_declarations(path)
    except ConfigurationError as error:
        if path not in _last_read:
            raise
        log.error("models_not_reloaded", reason=str(error))
        return _last_read[path]
