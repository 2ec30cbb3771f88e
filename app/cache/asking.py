"""How the cache is asked so that it is never in the way: without it, all is as if it knew nothing."""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.cache.recall import Recall, keys_of
from app.cache.rows import look_up, store
from app.db import Database
from app.errors import named
from app.models import JsonObject
from app.models.declarations import Declaration
from app.models.served import ServedModel

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
"""How long an online request waits for the cache. It answers in a millisecond, or its database is not well."""
AWAY_SECONDS = 5.0
"""How long online requests do without the cache once it did not answer."""
LOOKING_THREADS = 4
MOST_WAITING = 100
"""Requests whose predictions wait to be stored; those of others are forgotten."""


def recall(database: Database, served: ServedModel, items: Sequence[JsonObject]) -> Recall:
    """What the cache knows of a chunk's items; nothing, if the database is in trouble."""
    keys = keys_of(served, items)
    try:
        return Recall(keys, _look_up(database, keys))
    except SQLAlchemyError as error:
        _tell(error)
        return Recall(keys, {})


class OnlineCache:
    """The cache as online requests use it. Every method may be called from any thread, and none raises or waits long.

    A database that is away can keep a caller for as long as its network likes, so it is asked in threads that nobody
    has to wait for. What is new is stored when the request has been answered.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lookers = ThreadPoolExecutor(LOOKING_THREADS, thread_name_prefix="recall")
        self._storer = ThreadPoolExecutor(1, thread_name_prefix="remember")
        self._room = threading.BoundedSemaphore(MOST_WAITING)
        self._away_until = 0.0

    def recall(self, served: ServedModel, items: Sequence[JsonObject]) -> Recall:
        """What is known of these items."""
        keys = keys_of(served, items)
        known: Mapping[str, bytes] = {}
        if not self._is_away():
            try:
                known = self._lookers.submit(_look_up, self._database, keys).result(timeout=LOOK_SECONDS)
            except (SQLAlchemyError, FutureTimeout) as error:
                self._leave(error)
        return Recall(keys, known)

    def remember(self, served: ServedModel, predictions: Mapping[str, bytes]) -> None:
        """Stores predictions under their keys, soon; or not at all, where there is no getting on with it."""
        if predictions and not self._is_away() and self._room.acquire(blocking=False):
            self._storer.submit(self._store, served.declaration, predictions)

    def close(self) -> None:
        """Stores what waits, and takes no more: before its database is disposed of."""
        self._lookers.shutdown()
        self._storer.shutdown()

    def _store(self, declared: Declaration, predictions: Mapping[str, bytes]) -> None:
        try:
            with self._database.writing() as session:
                store(session, declared.name, declared.version, predictions)
        except SQLAlchemyError as error:
            self._leave(error)
        finally:
            self._room.release()

    def _is_away(self) -> bool:
        return time.monotonic() < self._away_until

    def _leave(self, error: Exception) -> None:
        self._away_until = time.monotonic() + AWAY_SECONDS
        _tell(error)


def _look_up(database: Database, keys: Sequence[str]) -> dict[str, bytes]:
    with database.reading() as session:
        return look_up(session, keys)


def _tell(error: Exception) -> None:
    log.warning("cache_skipped", error=named(error)[:300])
