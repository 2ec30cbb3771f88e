"""The runner: claims chunks, runs them on its executor, and commits their results under the claim's fence.

One thread, the loop, talks to the database; a second renews leases; the executor only turns payloads into
answers. No transaction is open while a model predicts.
"""

import queue as queues
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.cache.asking import recall
from app.config import Settings
from app.data import exact
from app.data.objects import Storage
from app.db import Database, is_away
from app.errors import Unavailable
from app.executors import ChunkExecutor, make_executor
from app.executors.outcomes import result_of, storable
from app.executors.supply import LINGER_SECONDS, Supply
from app.executors.work import Work, work_of
from app.jobs import control, presence, queue, rescue
from app.jobs.claims import TRANSIENT, Broken, Claim, Done, Failed, Trained
from app.jobs.ids import new_id
from app.jobs.leases import Leases
from app.jobs.manifests import ManifestWriter
from app.jobs.retry import is_on_trial
from app.jobs.states import version_of
from app.jobs.upkeep import Upkeep
from app.jobs.wakeup import Wakeup
from app.metrics import count_looked_up
from app.models.registry import Registry
from app.models.served import ServedModel
from app.tables import JobKind
from app.tasks.kinds import TaskAnswer, limit_seconds
from app.tasks.predict import Stopwatch

log = structlog.get_logger(__name__)

AWAY_SECONDS = 1.0
"""How long to wait before a database that did not answer is tried again."""
HEARTBEAT_SECONDS = 1.0
OTHERS_SHARE = 16
"""Where short chunks were too few, what is queued beyond the room for them, so that another runner finds some too."""
REFUSED_AT_ONCE = 32
"""Chunks that are given back in one transaction where a model could not be loaded."""
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
        self._leases = Leases(database, self.id, settings.lease_seconds)
        self._upkeep = Upkeep(database, registry, settings, self.id)
        self._wakeup = Wakeup(database, self.wake)
        storage = Storage.of(settings.storage_prefixes)
        self._manifests = ManifestWriter(database, storage, settings.poll_seconds)
        self._heartbeat = heartbeat
        self._running: dict[Future[TaskAnswer], Claim] = {}
        self._stopwatches: dict[Future[TaskAnswer], Stopwatch] = {}
        self._limits: dict[str, float | None] = {}  # of the queues that chunks were taken from
        self._supply = Supply()
        self._committed_at = 0.0
        self._claimed: list[tuple[ServedModel, Claim]] = []  # in a transaction that is not committed yet
        self._unwanted: list[Claim] = []
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
                if self._is_away or not self._supply.has_results:
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
            if not has_claimed and (room := self._room(self._works())) and self._is_due(room):
                with self._claiming() as session:
                    self._claim_due(session)
            self._refuse()
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
            while not self._is_stopping and self._supply.is_ahead and (left := until - time.monotonic()) > 0:
                self._rest(left)

    def _works(self) -> dict[str, Work]:
        """What there is to do for the models of this process at the moment: others may take their place at any time."""
        return work_of(self._registry.models())

    def _room(self, works: Mapping[str, Work]) -> dict[str, int]:
        """How many chunks could be claimed to run, from each queue, now; empty if none could."""
        held = self._held()
        if any(map(self._is_on_trial, held)):
            return {}
        taken = Counter(claim.queue for claim in held)
        slots = {name: self._slots(work) for name, work in works.items()}
        n_busy = sum(min(n_chunks, slots.get(name, n_chunks)) for name, n_chunks in taken.items())
        free_threads = self._settings.runner_threads - n_busy
        room = {}
        for name, work in works.items():
            if work.served.state != "loading" and work.trouble is None:
                ahead = slots[name] * (1 if work.kind is JobKind.TRAIN else self._supply.per_slot(name))
                can_fill = free_threads >= slots[name] - taken[name]
                room[name] = ahead - taken[name] if can_fill else free_threads
        return {name: n_chunks for name, n_chunks in room.items() if n_chunks > 0}

    def _slots(self, work: Work) -> int:
        """How many of its chunks run at once. Of trainings one, for a claim brings a whole input, which another runner
        might begin with now."""
        slots = self._executor.slots(work.served)
        return min(1, slots) if work.kind is JobKind.TRAIN else slots

    def _is_due(self, room: Collection[str]) -> bool:
        """Whether there is anything to claim; asked first, for on SQLite a claim would stop all who write."""
        with self._database.reading() as session:
            return bool(queue.heads(session, room))

    @contextmanager
    def _claiming(self) -> Iterator[Session]:
        """A transaction that claims, by `_claim_due`; what it claimed is started when it is committed."""
        try:
            with self._database.writing() as session:
                yield session
        except DBAPIError:  # a connection that breaks during COMMIT leaves open whether it happened
            self._unwanted += [claim for _, claim in self._claimed]
            self._claimed = []
            raise
        started, self._claimed = self._claimed, []
        self._leases.hold(claim for _, claim in started)
        for served, bare_claim in started:
            claim = self._recalling(served, bare_claim)
            stopwatch = Stopwatch()
            future = self._executor.submit(served, claim, stopwatch)
            self._running[future] = claim
            self._limits[claim.queue] = limit_seconds(served.declaration, claim.kind)
            self._stopwatches[future] = stopwatch
            # Nothing waits behind a training, so nothing has to be ahead of it.
            is_training = claim.kind is JobKind.TRAIN
            self._supply.begin(claim.queue, 0 if is_training else self._executor.slots(served))
            future.add_done_callback(partial(self._end, claim.queue))

    def _end(self, queue: str, _: Future[TaskAnswer]) -> None:
        """Called by whichever thread has done a chunk."""
        if self._supply.end(queue):
            self.wake()

    def _recalling(self, served: ServedModel, claim: Claim) -> Claim:
        """The claim with what the cache knows of its items, if its model has a cache and the claim its items."""
        if not (served.declaration.cache and claim.payload) or claim.kind is JobKind.TRAIN:
            return claim
        return replace(claim, recall=recall(self._database, served, exact.loads(claim.payload)))

    def _claim_due(self, session: Session) -> None:
        """Claims what there is room for, once from each queue, oldest first.

        Where there are fewer short ones than that, more are queued of the same jobs: for us, and for others.
        """
        works = self._works()
        lacking: dict[str, int] = {}
        for head in queue.heads(session, self._room(works)):
            limit = self._room(works).get(head.queue, 0)
            if not limit:
                continue  # what was claimed before has taken it
            if self._is_on_trial(head):
                if self._held():
                    break  # it is to run alone, and waits until nothing else does
                limit = 1
            taken = self._take(session, head.queue, limit)
            kept = self._up_to_a_trial(session, taken)
            self._claimed += [(works[head.queue].served, claim) for claim in kept]
            if len(kept) < len(taken):
                break  # one on trial is next
            if len(taken) < limit and self._supply.is_short(head.queue):
                lacking[head.queue] = limit - len(taken)
        queue.begin(session, [claim for _, claim in self._claimed], runner_id=self.id)
        for name, n_chunks in lacking.items():
            job_ids = {claim.job_id for _, claim in self._claimed if claim.queue == name}
            if job_ids and queue.widen(session, job_ids, n_chunks + OTHERS_SHARE):
                control.wake(session, name)

    def _take(self, session: Session, name: str, limit: int) -> list[Claim]:
        return queue.claim(
            session,
            queue=name,
            runner_id=self.id,
            limit=limit,
            lease_seconds=self._settings.lease_seconds,
        )

    def _refuse(self) -> None:
        """Gives back what is queued for models that this runner has not, some at a time, so that others can write.

        Another runner may have them, so this is an attempt like any.
        """
        for name, work in self._works().items():
            if work.trouble is None or not self._is_due([name]):
                continue
            reason = storable(work.trouble)
            with self._database.writing() as session:
                claims = self._take(session, name, REFUSED_AT_ONCE)
                queue.begin(session, claims, runner_id=self.id)
                hopeless = {claim.job_id for claim in claims if claim.attempts >= self._settings.max_attempts}
                for job_id in sorted(hopeless):
                    control.abandon(session, job_id, reason)
                self._break_off(session, [Broken(claim, TRANSIENT, reason) for claim in claims])
            if claims:
                self.wake()

    def _up_to_a_trial(self, session: Session, claims: list[Claim]) -> list[Claim]:
        """Of new claims, in the order of their queue, those that may run now; gives back the rest.

        A chunk on trial runs alone. What comes after it in the queue waits too, so that its turn comes.
        """
        on_trial = [place for place, claim in enumerate(claims) if self._is_on_trial(claim)]
        if not on_trial:
            return claims
        n_kept = on_trial[0] or int(not self._held())
        queue.release(session, claims[n_kept:])
        return claims[:n_kept]

    def _held(self) -> list[Claim]:
        """What runs or waits for a thread, and what is about to."""
        running = [claim for future, claim in self._running.items() if not future.done()]
        return running + [claim for _, claim in self._claimed]

    def _is_on_trial(self, chunk: Claim | queue.Head) -> bool:
        """Whether a chunk must run alone; not where each has a child process to itself."""
        if self._executor.dies_alone:
            return False
        return is_on_trial(chunk.crashes, chunk.n_items, self._settings.max_attempts)

    def _commit(self) -> bool:
        """Writes down what became of chunks, all that are done, and claims what takes their place, in one transaction.

        They stay with us until it is committed. Returns whether it claimed, so that there is nothing to claim now.
        """
        done = [future for future in self._running if future.done()]
        if not done:
            return False
        results = [result_of(future, self._running[future]) for future in done]
        kept = [result for result in results if not self._leases.is_lost(result.claim)]
        broken = [result for result in kept if isinstance(result, Broken)]
        ended = [result for result in kept if not isinstance(result, Broken)]
        may_claim = bool(kept) and not self._is_stopping and self._leases.is_trusted
        if kept:
            with self._claiming() as session, self._interlude(session):
                if broken:
                    queue.hold(session, [result.claim for result in kept])
                lost = queue.finish(session, ended) if ended else set()
                self._break_off(session, broken)
                if may_claim:
                    self._claim_due(session)
                finished = [result for result in ended if result.claim.key not in lost]
                queue.remember(session, finished)
            _count_looked_up(finished)
            for chunk_id, epoch in lost:
                log.warning("chunk_lost", chunk_id=chunk_id, epoch=epoch)
        elapsed, self._committed_at = time.monotonic() - self._committed_at, time.monotonic()
        self._supply.set_pace([self._forget(future) for future in done], elapsed)
        return may_claim

    def _interlude(self, session: Session) -> AbstractContextManager[None]:
        """SQLite does its work in this thread, best between two chunks. On Postgres its server does, beside them."""
        if self._database.is_postgres:
            return nullcontext()
        session.connection()  # first, for it waits until nobody else writes
        return self._executor.interlude()

    def _break_off(self, session: Session, broken: list[Broken]) -> None:
        rescue.break_off(session, broken, runner_id=self.id, max_attempts=self._settings.max_attempts)

    def _forget(self, future: Future[TaskAnswer]) -> Claim:
        self._stopwatches.pop(future)
        claim = self._running.pop(future)
        self._supply.forget(claim.queue)
        self._leases.drop(claim)
        return claim

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
        for future, claim in self._running.items():
            limit = self._limits.get(claim.queue)
            if limit is not None and not future.done() and self._stopwatches[future].seconds > limit:
                self._leases.abandon(claim)
                self.trouble = f"{claim.queue} has been in predict for over {limit:g} seconds"
        if self.trouble is not None and not self._is_stopping:
            log.error("chunk_hangs", runner_id=self.id, trouble=self.trouble)
            with self._database.writing() as session:
                presence.confess(session, self.id, self.trouble)
            self.stop()

    def _tell_progress(self) -> None:
        """Writes into the stories of jobs how far their trainings are, a step at a time."""
        for future, claim in self._running.items():
            stopwatch = self._stopwatches[future]
            if future.done() or stopwatch.progress - stopwatch.told_progress < PROGRESS_STEP:
                continue
            share = stopwatch.told_progress = stopwatch.progress
            with self._database.writing() as session:
                queue.tell_progress(session, claim, share, runner_id=self.id)

    def _give_back(self) -> None:
        """Releases what this runner claimed and will not run; of what it may have claimed, what it really did."""
        if not self._unwanted:
            return
        with self._database.writing() as session:
            queue.release(session, self._unwanted)
        self._unwanted.clear()

    def _drain(self, deadline: float) -> bool:
        """Commits what ends before the deadline, or a call to hurry; gives back the rest; True if nothing runs on."""
        self._unwanted += [self._forget(future) for future in list(self._running) if _call_off(future)]
        delay = self._survive(self._keep_on)
        while (self._running or self._unwanted) and (left := deadline - time.monotonic()) > 0:
            if self._is_hurried or self._only_hung_are_left():
                break
            self._rest(min(delay, left))
            delay = self._survive(self._keep_on)
        self._unwanted += [claim for claim in self._running.values() if not self._leases.is_abandoned(claim)]
        self._survive(self._leave)
        self._executor.shutdown()
        return not self._running

    def _only_hung_are_left(self) -> bool:
        return all(map(self._leases.is_abandoned, [*self._running.values(), *self._unwanted]))

    def _keep(self) -> bool:
        """Commits what is done, gives back what will not be run, and lets go of what hangs; whether it claimed, too."""
        # First, for after a COMMIT that was rolled back a new claim of the same chunk has the same epoch.
        self._give_back()
        has_claimed = self._commit()
        self._tell_progress()
        self._leave_hung_chunks()
        return has_claimed

    def _keep_on(self) -> float:
        self._keep()
        return HEARTBEAT_SECONDS

    def _leave(self) -> float:
        self._give_back()
        with self._database.writing() as session:
            presence.leave(session, self.id)
        return 0.0


def _count_looked_up(finished: Iterable[Done | Trained | Failed]) -> None:
    for result in finished:
        if result.claim.recall is not None:
            count_looked_up(*version_of(result.claim.queue), "batch", result.claim.n_items, result.n_cached)


def _call_off(future: Future[TaskAnswer]) -> bool:
    """Cancels what has not begun; a process pool's `cancel` would also kill what has."""
    return not future.running() and future.cancel()
