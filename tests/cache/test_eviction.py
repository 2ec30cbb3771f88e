"""Eviction: which rows go, and that no more do, on both databases."""

from typing import Any

import pytest

from app.cache.eviction import evict
from app.db import Database
from app.models.declarations import Declaration
from tests.cache import models
from tests.cache.rows import keep, kept
from tests.models.specimens import declare


def cached(max_items: int = 1000, **changes: Any) -> Declaration:
    return declare(models.Whole, cache=True, cache_max_items=max_items, **changes)


def test_the_oldest_beyond_the_limit_go_in_small_steps(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.cache.eviction.ROWS_AT_ONCE", 2)
    monkeypatch.setattr("app.cache.eviction.ROWS_PASSED_AT_ONCE", 1)
    keep(database, 1, 2, days_ago=3)
    keep(database, 3, days_ago=2)
    keep(database, 4, 5)
    keep(database, 6, 7, 8, version=("other", "1"))
    declared = [cached(2), cached(3, name="other")]

    assert list(evict(database, declared, cache_days=30)) == [0, 0, 0, 2, 1]

    assert kept(database) == [4, 5, 6, 7, 8]
    assert sum(evict(database, declared, cache_days=30)) == 0


def test_of_items_of_one_age_no_more_go_than_are_too_many(database: Database) -> None:
    keep(database, *range(10))
    assert sum(evict(database, [cached(4)], cache_days=30)) == 6
    assert len(kept(database)) == 4


def test_what_is_older_than_its_days_goes(database: Database) -> None:
    keep(database, 1, days_ago=8)
    keep(database, 2, days_ago=6)
    assert sum(evict(database, [cached()], cache_days=7)) == 1
    assert kept(database) == [2]


def test_versions_that_are_not_declared_go_when_nobody_adds_to_them(database: Database) -> None:
    keep(database, 1, version=("specimen", "old"), days_ago=2)
    keep(database, 2, 3, version=("elsewhere", "1"), days_ago=2)
    keep(database, 4, version=("elsewhere", "1"))  # by another host
    keep(database, 5, version=("specimen", "2"), days_ago=2)
    declared = [cached(), cached(version="2"), declare(models.Whole, version="old")]

    assert sum(evict(database, declared, cache_days=30)) == 1

    assert kept(database) == [2, 3, 4, 5]


def test_eviction_by_two_runners_at_once_takes_no_more_than_by_one(database: Database) -> None:
    keep(database, *range(10))
    one, other = (evict(database, [cached(5)], cache_days=30) for _ in range(2))
    assert sum(one) + sum(other) == 5
    assert len(kept(database)) == 5
