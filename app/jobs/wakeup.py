"""Hints that a job may be waiting. Polling is the truth; a hint only makes the next poll come at once."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.db import Database
from app.jobs.control import WAKE_CHANNEL

log = structlog.get_logger(__name__)

RETRY_SECONDS = 1.0
LISTEN_SECONDS = 0.1
"""How long it listens to Postgres before it looks whether it should stop: a runner that drains has no time to lose."""
SQLITE_GLANCE_SECONDS = 0.025
"""How often a SQLite file is asked whether another process wrote to it: about 10 µs of work each time."""


class Wakeup:
    """Calls `wake` soon after another process committed a job, or more of one, from a daemon thread of its own.

    Postgres says so by NOTIFY. SQLite has no such thing, but `PRAGMA data_version` changes with every commit of
    another connection and costs one page read from the shared-memory index. That is not asked while a hint is of no
    use: each time takes the interpreter from a model.
    """

    def __init__(self, database: Database, wake: Callable[[], None]) -> None:
        self._database = database
        self._wake = wake
        self._stopping = threading.Event()
        self._of_use = threading.Event()
        self._of_use.set()
        self._thread = threading.Thread(target=self._run, name="wakeup", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, and waits for that moment."""
        self._stopping.set()
        self._thread.join(timeout=2 * RETRY_SECONDS)

    @contextmanager
    def spared(self) -> Iterator[None]:
        """Meanwhile, hints need not come; what is missed comes afterwards."""
        self._of_use.clear()
        try:
            yield
        finally:
            self._of_use.set()

    def _run(self) -> None:
        listen = self._listen if self._database.is_postgres else self._glance
        driver_error = self._database.engine.dialect.loaded_dbapi.Error  # below SQLAlchemy nobody wraps it
        while not self._stopping.is_set():
            try:
                listen()
            except (DBAPIError, driver_error) as error:
                # The runner's own polls go on meanwhile, and report the outage.
                log.debug("wakeup_lost", error=str(error))
                self._stopping.wait(RETRY_SECONDS)

    def _listen(self) -> None:
        """Waits for notifications on a connection of its own, outside any transaction."""
        with self._database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text(f"LISTEN {WAKE_CHANNEL}"))
            self._wake()  # for a job made before we listened
            listener: Any = connection.connection.driver_connection
            try:
                while not self._stopping.is_set():
                    for _ in listener.notifies(timeout=LISTEN_SECONDS, stop_after=1):
                        self._wake()
            finally:
                connection.invalidate()  # it must not go back to the pool: it would go on listening

    def _glance(self) -> None:
        """Asks for the file's data version on a bare connection: in a transaction it would never change."""
        with closing(self._database.engine.raw_connection()) as connection:
            cursor, seen = connection.cursor(), None
            while not self._stopping.wait(SQLITE_GLANCE_SECONDS):
                self._of_use.wait()
                (version,) = cursor.execute("PRAGMA data_version").fetchone()
                if version != seen:
                    seen = version
                    self._wake()
