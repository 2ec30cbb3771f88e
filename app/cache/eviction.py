"""Eviction: what the cache keeps no longer goes, the oldest first, in transactions so short that no claim waits."""

from collections.abc import Generator, Iterable, Iterator
from datetime import datetime

from sqlalchemy import ColumnElement, Select, Tuple, delete, exists, literal, select, tuple_
from sqlalchemy.orm import Session

from app.columns import Digest, UtcDateTime, utc_now
from app.config import DAY_SECONDS
from app.db import UNSYNCHRONIZED, Database
from app.models.declarations import Declaration
from app.tables import CachedPrediction

ROWS_AT_ONCE = 200
"""SQLite deletes them in some 20 ms, while every writer waits."""
ROWS_PASSED_AT_ONCE = 20_000
"""Counted in some 20 ms, while nobody waits but the one who counts."""
FORGOTTEN_DAYS = 1.0
"""For so long nothing new of a version that is not declared here; perhaps another host declares it."""

Version = tuple[str, str]
Age = tuple[datetime, str]
_row = CachedPrediction
_age = tuple_(_row.created_at, _row.key)


def evict(database: Database, declarations: Iterable[Declaration], cache_days: float) -> Iterator[int]:
    """Deletes a few rows at each step and tells how many, perhaps none, until there is nothing left to evict.

    It keeps of each version the newest `cache_max_items`, none for longer than `cache_days`, and none of versions
    that are not declared any more.
    """
    most = {(each.name, each.version): each.cache_max_items for each in declarations if each.cache}
    for version in _versions(database):
        too_old = _newest_too_old(database, version, cache_days, is_declared=version in most)
        too_many = (
            (yield from _newest_too_many(database, version, most[version])) if version in most else None
        )
        last = max((age for age in (too_old, too_many) if age is not None), default=None)
        while last is not None:
            with database.writing() as session:
                n_rows = _delete(session, version, last)
            yield n_rows
            if n_rows < ROWS_AT_ONCE:
                break


def _versions(database: Database) -> Iterator[Version]:
    """All versions that have rows, each by a look for the next one in the index."""
    version = tuple_(_row.model, _row.version)
    last: Version | None = ("", "")
    while last is not None:
        with database.reading() as session:
            row = session.execute(
                select(_row.model, _row.version)
                .where(version > tuple_(*last))
                .order_by(_row.model, _row.version)
                .limit(1)
            ).one_or_none()
        last = None if row is None else (row.model, row.version)
        if last is not None:
            yield last


def _newest_too_old(
    database: Database, version: Version, cache_days: float, *, is_declared: bool
) -> Age | None:
    """The newest of the rows whose time is over; the newest of all, if nobody declares the version any more."""
    is_over = _row.created_at < utc_now(-cache_days * DAY_SECONDS)
    is_in_use = exists().where(_is_of(version), _row.created_at >= utc_now(-FORGOTTEN_DAYS * DAY_SECONDS))
    with database.reading() as session:
        return _age_of(
            session, _newest_first(version).where(is_over if is_declared else is_over | ~is_in_use)
        )


def _newest_too_many(database: Database, version: Version, most: int) -> Generator[int, None, Age | None]:
    """The newest of the rows that are beyond the newest `most`, if there are so many.

    It counts them along the index, in steps that each tell of no row, so that a loop has time for other things.
    """
    last, n_passed = None, 0
    while True:
        n_more = min(ROWS_PASSED_AT_ONCE, most - n_passed)
        older = _newest_first(version).offset(n_more)
        with database.reading() as session:
            last = _age_of(session, older if last is None else older.where(_age <= _literal(last)))
        n_passed += n_more
        if last is None or n_passed == most:
            return last
        yield 0


def _newest_first(version: Version) -> Select[datetime, str]:
    oldest_last = (_row.created_at.desc(), _row.key.desc())
    return select(_row.created_at, _row.key).where(_is_of(version)).order_by(*oldest_last).limit(1)


def _age_of(session: Session, selected: Select[datetime, str]) -> Age | None:
    row = session.execute(selected).one_or_none()
    return None if row is None else (row.created_at, row.key)


def _delete(session: Session, version: Version, last: Age) -> int:
    """Deletes the oldest rows of a version, none of them newer than `last`; how many."""
    oldest = (
        select(_row.key)
        .where(_is_of(version), _age <= _literal(last))
        .order_by(_row.created_at, _row.key)
        .limit(ROWS_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    gone = session.scalars(
        delete(_row).where(_row.key.in_(oldest)).returning(_row.key),
        execution_options=UNSYNCHRONIZED,
    )
    return len(gone.all())


def _is_of(version: Version) -> ColumnElement[bool]:
    return (_row.model == version[0]) & (_row.version == version[1])


def _literal(age: Age) -> Tuple:
    return tuple_(literal(age[0], UtcDateTime), literal(age[1], Digest))
