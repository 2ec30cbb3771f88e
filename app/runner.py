"""The runner: claims chunks, runs them on its executor, and commits their results under the claim's fence.

One thread, the loop, talks to the database; a second renews leases; the executor only turns payloads into
answers. No transaction is open while a model predicts.
"""

import queue as queues
import random
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.config import Settings
from app.data.objects import Storage
from app.db import Database, is_away
from app.errors import Unavailable
from app.executors import ChunkExecutor, make_executor
from app.executors.outcomes import result_of
from app.executors.supply import LINGER_SECONDS
from app.executors.underway import Underway
from app.intake import Intake
from app.jobs import presence, queue, rescue
from app.jobs.claims import Broken, Done, Failed, Trained
from app.jobs.ids import new_id
from app.jobs.leases import Leases
from app.jobs.manifests import ManifestWriter
from app.jobs.states import version_of
from app.jobs.upkeep import Upkeep
from app.jobs.wakeup import Wakeup
from app.metrics import count_looked_up
from app.models.registry import Registry

log = structlog.get_logger(__name__)

AWAY_SECONDS = 1.0
"""How long to wait before a database that did not answer is tried again."""
HEARTBEAT_SECONDS = 1.0
PROGRESS_STEP = 0.05
"""Of a training, what is worth a line in its job's story."""


class Runner:
    """Runs jobs until told to stop. `run` is for one thread; `stop` and `wake` for any, or a signal handler."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        settings: Settings,
        *,
        executor: ChunkExecutor | None = None,
        heartbeat: Callable[[], None] = lambda: None,
    ) -> None:
        self.id = new_id()
        self._database = database
        self._registry = registry
        self._settings = settings
        self._executor = executor or make_executor(settings, registry)
        self._underway = Underway(self._executor, self.wake)
        self._leases = Leases(database, self.id, settings.lease_seconds)
        self._intake = Intake(database, registry, settings, self._executor, self._underway, self._leases)
        self._upkeep = Upkeep(database, registry, settings, self.id)
        self._wakeup = Wakeup(database, self.wake)
        storage = Storage.of(settings.storage_prefixes)
        self._manifests = ManifestWriter(database, storage, settings.poll_seconds)
        self._heartbeat = heartbeat
        self._committed_at = 0.0
        self._rescue_at = 0.0
        # A SimpleQueue, because its put may interrupt its own get, as a signal handler does; an Event's set may not.
        self._wakeups: queues.SimpleQueue[None] = queues.SimpleQueue()
        self._is_stopping = self._is_hurried = False
        self._is_away = False  # the database, when it was last asked
        self.trouble: str | None = None
        """Why this process should be replaced by a fresh one: a model in it hangs."""

    def wake(self) -> None:
        """Makes the next tick come at once."""
        self._wakeups.put(None)

    def stop(self, *, hurry: bool = False) -> None:
        """Asks the loop to take no more work and to come to an end; in a hurry, without waiting for what runs."""
        self._is_stopping = True
        self._is_hurried |= hurry
        self.wake()

    def run(self, drain_seconds: float = 30.0) -> bool:
        """Claims and runs until `stop`. Then finishes what runs, for `drain_seconds` at most, and gives back the rest.

        Returns whether all of its threads are done; if not, only the end of the process ends them.
        """
        self._registry.start()
        while not self._is_stopping and (delay := self._survive(self._enter)):
            self._rest(delay)
        self._wakeup.start()
        self._leases.start()
        self._manifests.start()
        log.info("runner_started", runner_id=self.id, threads=self._settings.runner_threads)
        try:
            while not self._is_stopping:
                self._heartbeat()
                delay = self._survive(self.tick)
                ticked_at = time.monotonic()
                if self._is_away or not self._underway.supply.has_results:
                    self._rest(delay)
                self._linger(ticked_at + LINGER_SECONDS)
        finally:
            self._wakeup.stop()
        is_idle = self._drain(time.monotonic() + drain_seconds)
        self._leases.stop()
        self._manifests.stop()
        log.info("runner_stopped", runner_id=self.id, idle=is_idle, trouble=self.trouble)
        return is_idle

    def tick(self) -> float:
        """Commits what is done, claims what there is room for, does some upkeep; the next is due in so many seconds."""
        has_claimed = self._keep()
        self._rescue()
        if self._leases.is_trusted:
            if not has_claimed:
                self._intake.claim()
            if self._intake.refuse():
                self.wake()
        return min(self._settings.poll_seconds, self._upkeep.tend())

    def _enter(self) -> float:
        """Registers this runner, once the database is there and its tables are ours."""
        self._database.require_current_schema()
        with self._database.writing() as session:
            if not self._database.is_postgres:
                presence.refuse_other_hosts(session, self._settings.lease_seconds, socket.gethostname())
            presence.register(session, self.id, self._settings.runner_threads)
        return 0.0

    def _survive(self, step: Callable[[], float]) -> float:
        """Takes a step; if the database is away, the same step is due again a little later, and nothing is lost."""
        try:
            delay = step()
        except DBAPIError as error:
            if not is_away(error):
                raise
            log.warning("database_away", error=" ".join(str(error.orig).split()))
        except Unavailable as error:
            log.warning("database_not_ready", error=error.detail)
        else:
            self._is_away = False
            return delay
        self._is_away = True
        return AWAY_SECONDS

    def _rest(self, seconds: float) -> None:
        """Waits to be woken, for at most so long, and goes on telling that it lives."""
        until = time.monotonic() + seconds
        while True:
            self._heartbeat()
            try:
                self._wakeups.get(timeout=max(0.0, min(HEARTBEAT_SECONDS, until - time.monotonic())))
            except queues.Empty:
                if time.monotonic() < until:
                    continue
            break
        while not self._wakeups.empty():  # what woke us several times needs one look
            self._wakeups.get()

    def _linger(self, until: float) -> None:
        """Waits for more results, as long as every model that runs has enough ahead and has no need of the loop."""
        with self._wakeup.spared():
            while (
                not self._is_stopping
                and self._underway.supply.is_ahead
                and (left := until - time.monotonic()) > 0
            ):
                self._rest(left)

    def _commit(self) -> bool:
        """Writes down what became of chunks, all that are done, and claims what takes their place, in one transaction.

        They stay with us until it is committed. Returns whether it claimed, so that there is nothing to claim now.
        """
        done = self._underway.done
        if not done:
            return False
        results = [result_of(future, claim) for future, claim in done.items()]
        kept = [result for result in results if not self._leases.is_lost(result.claim)]
        broken = [result for result in kept if isinstance(result, Broken)]
        ended = [result for result in kept if not isinstance(result, Broken)]
        may_claim = bool(kept) and not self._is_stopping and self._leases.is_trusted
        if kept:
            with self._intake.claiming() as session, self._interlude(session):
                if broken:
                    queue.hold(session, [result.claim for result in kept])
                lost = queue.finish(session, ended) if ended else set()
                self._intake.break_off(session, broken)
                if may_claim:
                    self._intake.claim_due(session)
                finished = [result for result in ended if result.claim.key not in lost]
                queue.remember(session, finished)
            _count_looked_up(finished)
            for chunk_id, epoch in lost:
                log.warning("chunk_lost", chunk_id=chunk_id, epoch=epoch)
        self._leases.drop(self._underway.forget(done))
        elapsed, self._committed_at = time.monotonic() - self._committed_at, time.monotonic()
        self._underway.supply.set_pace(done.values(), elapsed)
        return may_claim

    def _interlude(self, session: Session) -> AbstractContextManager[None]:
        """SQLite does its work in this thread, best between two chunks. On Postgres its server does, beside them."""
        if self._database.is_postgres:
            return nullcontext()
        session.connection()  # first, for it waits until nobody else writes
        return self._executor.interlude()

    def _rescue(self) -> None:
        """Takes over what runners that are gone have left, now and then; not all runners at the same time."""
        if time.monotonic() < self._rescue_at:
            return
        with self._database.writing() as session:
            n_rescued = rescue.rescue(
                session,
                runner_id=self.id,
                max_attempts=self._settings.max_attempts,
                lease_seconds=self._settings.lease_seconds,
            )
        if n_rescued:
            log.warning("chunks_rescued", n_chunks=n_rescued)
        self._rescue_at = time.monotonic() + random.uniform(0.25, 0.5) * self._settings.lease_seconds

    def _leave_hung_chunks(self) -> None:
        """Lets go of chunks that run longer than their model allows: the thread cannot be ended, only this process."""
        if self._executor.ends_hung_chunks:
            return
        for chunk in self._underway.not_done:
            if chunk.is_overdue:
                self._leases.abandon(chunk.claim)
                self.trouble = (
                    f"{chunk.claim.queue} has been in predict for over {chunk.limit_seconds:g} seconds"
                )
        if self.trouble is not None and not self._is_stopping:
            log.error("chunk_hangs", runner_id=self.id, trouble=self.trouble)
            with self._database.writing() as session:
                presence.confess(session, self.id, self.trouble)
            self.stop()

    def _tell_progress(self) -> None:
        """Writes into the stories of jobs how far their trainings are, a step at a time."""
        for chunk in self._underway.not_done:
            stopwatch = chunk.stopwatch
            if stopwatch.progress - stopwatch.told_progress < PROGRESS_STEP:
                continue
            share = stopwatch.told_progress = stopwatch.progress
            with self._database.writing() as session:
                queue.tell_progress(session, chunk.claim, share, runner_id=self.id)

    def _drain(self, deadline: float) -> bool:
        """Commits what ends before the deadline, or a call to hurry; gives back the rest; True if nothing runs on."""
        self._intake.take_back()
        delay = self._survive(self._keep_on)
        while (self._underway or self._intake.unwanted) and (left := deadline - time.monotonic()) > 0:
            if self._is_hurried or self._only_hung_are_left():
                break
            self._rest(min(delay, left))
            delay = self._survive(self._keep_on)
        left_over = self._underway.claims
        self._intake.unwanted += [claim for claim in left_over if not self._leases.is_abandoned(claim)]
        self._survive(self._leave)
        self._executor.shutdown()
        return not self._underway

    def _only_hung_are_left(self) -> bool:
        return all(map(self._leases.is_abandoned, [*self._underway.claims, *self._intake.unwanted]))

    def _keep(self) -> bool:
        """Commits what is done, gives back what will not be run, and lets go of what hangs; whether it claimed, too."""
        self._intake.reconsider()
        # Before anything is claimed, for after a COMMIT that was rolled back a new claim of a chunk has the same epoch.
        self._intake.give_back()
        has_claimed = self._commit()
        self._tell_progress()
        self._leave_hung_chunks()
        return has_claimed

    def _keep_on(self) -> float:
        self._keep()
        return HEARTBEAT_SECONDS

    def _leave(self) -> float:
        self._intake.give_back()
        with self._database.writing() as session:
            presence.leave(session, self.id)
        return 0.0


def _count_looked_up(finished: Iterable[Done | Trained | Failed]) -> None:
    for result in finished:
        if result.claim.recall is not None:
            count_looked_up(*version_of(result.claim.queue), "batch", result.claim.n_items, result.n_cached)
