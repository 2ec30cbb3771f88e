"""Upkeep: what has to be done from time to time, by whichever runner comes to it first."""

import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime

import structlog
from sqlalchemy.exc import DBAPIError

from app.cache.eviction import evict
from app.config import Settings
from app.db import Database, is_away
from app.errors import ServingError
from app.jobs import control, history, retention, schedules
from app.models.registry import Registry

log = structlog.get_logger(__name__)

UPKEEP_SECONDS = 30.0
EVICT_SECONDS = 300.0
"""To see what is too much, all cached predictions are counted; a million of them takes some 0.8 seconds, in steps."""
BATCH = 100
"""Jobs or inputs per transaction: small, so that no claim waits long for it."""


class Upkeep:
    """A runner's share of upkeep. All of it is guarded by statements that take each row once."""

    def __init__(self, database: Database, registry: Registry, settings: Settings, runner_id: str) -> None:
        self._database = database
        self._registry = registry
        self._settings = settings
        self._runner_id = runner_id
        self._sweep_at = 0.0
        self._fire_at = 0.0
        self._has_leftovers = True
        self._evict_at = 0.0
        self._evicting: Iterator[int] = iter(())
        self._resume_at = 0.0

    def tend(self) -> float:
        """Does what is due, a small batch of it; returns the seconds until something is due again.

        It shall not keep jobs from running: what fails, though the database is there, is logged, and all rests a while.
        """
        if (rest := self._resume_at - time.monotonic()) > 0:
            return rest
        try:
            return self._tend()
        except DBAPIError as error:
            if is_away(error):
                raise
            log.exception("upkeep_failed", runner_id=self._runner_id)
            self._resume_at = time.monotonic() + UPKEEP_SECONDS
            return UPKEEP_SECONDS

    def _tend(self) -> float:
        if time.monotonic() >= self._fire_at:
            self._fire_at = time.monotonic() + self.fire_schedules()
        if time.monotonic() >= self._sweep_at:
            counts = sweep(self._database, self._settings.retention_days)
            self._has_leftovers = True  # or may have: nobody tells when the last job over an input is deleted
            if counts:
                log.info("swept", runner_id=self._runner_id, **counts)
            else:
                self._sweep_at = time.monotonic() + random.uniform(0.5, 1.0) * UPKEEP_SECONDS
        if time.monotonic() >= self._evict_at and next(self._evicting, None) is None:
            self._evict_at = time.monotonic() + random.uniform(0.5, 1.0) * EVICT_SECONDS
            declarations = [served.declaration for served in self._registry.models()]
            self._evicting = evict(self._database, declarations, self._settings.cache_days)
        if self._has_leftovers:
            with self._database.writing() as session:
                self._has_leftovers = retention.clear(session)
            return 0.0
        return max(0.0, min(self._fire_at, self._sweep_at, self._evict_at) - time.monotonic())

    def fire_schedules(self) -> float:
        """Fires the schedules that are due and whose models are here; returns the seconds until the next look."""
        versions = self._registry.defaults()
        with self._database.reading() as session:
            following = schedules.next_due(session)
            if following is None:
                return self._settings.poll_seconds
            seconds = (following - history.database_time(session)).total_seconds()
            due = schedules.due(session, versions) if seconds <= 0 else []
        for schedule_id, fire_at in due:
            self._fire(schedule_id, fire_at, versions)
        return min(max(seconds, 0.0), self._settings.poll_seconds) or self._settings.poll_seconds

    def _fire(self, schedule_id: str, fire_at: datetime, versions: Mapping[str, str]) -> None:
        try:
            with self._database.writing() as session:
                job_id = schedules.fire(
                    session, schedule_id, fire_at, versions=versions, window=self._settings.job_window
                )
        except ServingError as error:  # deleted meanwhile; or a time zone that this host does not know
            log.error("schedule_not_fired", schedule_id=schedule_id, error=error.detail)
        except DBAPIError as error:
            if is_away(error):
                raise
            log.exception("schedule_not_fired", schedule_id=schedule_id)  # and the others are
        else:
            log.info("schedule_fired", schedule_id=schedule_id, fire_at=fire_at.isoformat(), job_id=job_id)


def sweep(database: Database, retention_days: float | None) -> Counter[str]:
    """Stops jobs whose time is over and marks what is to be pruned, a batch of each; how many of which, if any."""
    counts: Counter[str] = Counter()
    with database.writing() as session:
        counts["jobs_expired"] = control.expire(session, BATCH)
    with database.writing() as session:
        counts["jobs_pruned"] = retention.prune_jobs(session, retention_days=retention_days, limit=BATCH)
        counts["inputs_pruned"] = retention.prune_inputs(session, retention_days=retention_days, limit=BATCH)
        counts["uploads_dropped"] = retention.drop_abandoned_uploads(session, limit=BATCH)
    return +counts


def sweep_all(database: Database, retention_days: float | None) -> Counter[str]:
    """All that `sweep` finds, batch by batch, with all that it leaves over; how many of which."""
    total: Counter[str] = Counter()
    while counts := sweep(database, retention_days):
        total += counts
    is_clearing = True
    while is_clearing:
        with database.writing() as session:
            is_clearing = retention.clear(session)
    return total
