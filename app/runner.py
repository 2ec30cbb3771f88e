"""The runner: claims chunks, runs them on its executor, and commits their results under the claim's fence.

One thread, the loop, talks to the database; the executor's threads only turn payloads into answers. No
transaction is open while a model predicts.
"""

import queue as queues
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import Database, is_away
from app.errors import ServingError, Unavailable
from app.jobs import control, presence, queue
from app.jobs.claims import Claim, Done, Failed
from app.jobs.ids import new_id
from app.jobs.states import queue_of
from app.jobs.wakeup import Wakeup
from app.models.registry import Registry
from app.models.served import ServedModel
from app.tasks.predict import ChunkAnswer, predict_chunk

log = structlog.get_logger(__name__)

AWAY_SECONDS = 1.0
"""How long to wait before a database that did not answer is tried again."""
HEARTBEAT_SECONDS = 1.0
CLAIMS_PER_SLOT, MOST_CLAIMS_PER_SLOT = 2, 8
"""One chunk in the model and one waiting, so that it never idles while the loop commits; more of short ones."""
LINGER_SECONDS = 0.2
"""How long results may gather while the models have work ahead. A commit and a claim take the loop some 5 ms, whether
for one chunk or for ten, and ask a model in pure Python for the GIL at each of their statements."""


class Runner:
    """Runs jobs until told to stop. `run` is for one thread; `stop` and `wake` for any, or a signal handler."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        settings: Settings,
        *,
        executor: Executor | None = None,
        heartbeat: Callable[[], None] = lambda: None,
    ) -> None:
        self.id = new_id()
        self._database = database
        self._registry = registry
        self._settings = settings
        self._executor = executor or ThreadPoolExecutor(settings.runner_threads, thread_name_prefix="chunk")
        self._heartbeat = heartbeat
        self._running: dict[Future[ChunkAnswer], Claim] = {}
        self._lost: set[tuple[int, int]] = set()
        self._claims_per_slot: dict[str, int] = {}
        self._committed_at = 0.0
        self._claimed: list[tuple[ServedModel, Claim]] = []  # in a transaction that is not committed yet
        self._unwanted: list[Claim] = []
        self._renewed_at = time.monotonic()
        # A SimpleQueue, because its put may interrupt its own get, as a signal handler does; an Event's set may not.
        self._wakeups: queues.SimpleQueue[None] = queues.SimpleQueue()
        self._is_stopping = self._is_hurried = False

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
        wakeup = Wakeup(self._database, self.wake)
        wakeup.start()
        log.info("runner_started", runner_id=self.id, threads=self._settings.runner_threads)
        try:
            while not self._is_stopping:
                delay = self._survive(self.tick)
                ticked_at = time.monotonic()
                self._rest(delay)
                self._linger(ticked_at + LINGER_SECONDS)
        finally:
            wakeup.stop()
        is_idle = self._drain(time.monotonic() + drain_seconds)
        log.info("runner_stopped", runner_id=self.id, idle=is_idle)
        return is_idle

    def tick(self) -> float:
        """Commits what is done, keeps what runs, claims what there is room for; the next is due in so many seconds."""
        self._keep()
        if (room := self._room()) and self._is_due(room):
            with self._claiming() as session:
                self._claim_due(session)
        return self._settings.poll_seconds

    def _enter(self) -> float:
        """Registers this runner, once the database is there and its tables are ours."""
        self._database.require_current_schema()
        with self._database.writing() as session:
            presence.register(session, self.id, self._settings.runner_threads)
        return 0.0

    def _survive(self, step: Callable[[], float]) -> float:
        """Takes a step; if the database is away, the same step is due again a little later, and nothing is lost."""
        try:
            return step()
        except DBAPIError as error:
            if not is_away(error):
                raise
            log.warning("database_away", error=" ".join(str(error.orig).split()))
        except Unavailable as error:
            log.warning("database_not_ready", error=error.detail)
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
        """Waits for more results, as long as every model that runs has a chunk ahead and has no need of the loop."""
        while not self._is_stopping and self._has_work_ahead() and (left := until - time.monotonic()) > 0:
            self._rest(left)

    def _has_work_ahead(self) -> bool:
        open_chunks = Counter(claim.queue for future, claim in self._running.items() if not future.done())
        slots = {_queue_of(served): served.declaration.concurrency for served in self._registry.models()}
        return bool(open_chunks) and all(n_open > slots[name] for name, n_open in open_chunks.items())

    def _room(self) -> dict[str, int]:
        """How many chunks could be claimed from each queue now; empty if none could."""
        held = [claim for future, claim in self._running.items() if not future.done()]
        held += [claim for _, claim in self._claimed]
        free_threads = self._settings.runner_threads - len(held)
        taken = Counter(claim.queue for claim in held)
        room = {}
        for served in self._registry.models():
            if served.state != "loading":
                name = _queue_of(served)
                per_slot = self._claims_per_slot.get(name, CLAIMS_PER_SLOT)
                room[name] = min(free_threads, per_slot * served.declaration.concurrency - taken[name])
        return {name: n_chunks for name, n_chunks in room.items() if n_chunks > 0}

    def _is_due(self, room: Collection[str]) -> bool:
        """Whether there is anything to claim; asked first, for on SQLite a claim would stop all who write."""
        with self._database.reading() as session:
            return queue.oldest(session, room) is not None

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
        for served, claim in started:
            future = self._executor.submit(_run_chunk, served, claim)
            self._running[future] = claim
            future.add_done_callback(lambda _: self.wake())

    def _claim_due(self, session: Session) -> None:
        """Claims what there is room for, oldest first. The chunks of a model that failed to load end at once."""
        while (room := self._room()) and (name := queue.oldest(session, room)) is not None:
            claims = queue.claim(
                session,
                queue=name,
                runner_id=self.id,
                limit=room[name],
                lease_seconds=self._settings.lease_seconds,
            )
            if not claims:
                break  # others were faster
            served = next(served for served in self._registry.models() if _queue_of(served) == name)
            if served.state == "failed":
                reason = _storable(f"{served} failed to load: {served.reason}")
                for job_id in {claim.job_id for claim in claims}:
                    control.abandon(session, job_id, reason)
                queue.finish(session, [Failed(claim, reason) for claim in claims])
            else:
                self._claimed += [(served, claim) for claim in claims]

    def _commit(self) -> None:
        """Writes down all chunks that are done, and claims what takes their place, in one transaction.

        They stay with us until it is committed.
        """
        done = [future for future in self._running if future.done()]
        if not done:
            return
        results = [_result(future, self._running[future]) for future in done]
        kept = [result for result in results if result.claim.key not in self._lost]
        if kept:
            with self._claiming() as session:
                lost = queue.finish(session, kept)
                if not self._is_stopping:
                    self._claim_due(session)
            for chunk_id, epoch in lost:
                log.warning("chunk_lost", chunk_id=chunk_id, epoch=epoch)
        self._set_pace(Counter(self._running[future].queue for future in done))
        for future in done:
            self._lost.discard(self._running.pop(future).key)

    def _set_pace(self, n_done: Counter[str]) -> None:
        """Claims so far ahead that a model has work while results linger twice: few long chunks, many short ones."""
        elapsed, self._committed_at = time.monotonic() - self._committed_at, time.monotonic()
        for name, n_chunks in n_done.items():
            ahead = 1 + int(2 * LINGER_SECONDS * n_chunks / max(elapsed, 0.001))
            self._claims_per_slot[name] = min(MOST_CLAIMS_PER_SLOT, max(CLAIMS_PER_SLOT, ahead))

    def _renew(self) -> None:
        """Prolongs the leases when a third of them is over; the result of a chunk that is no longer ours is dropped."""
        if time.monotonic() - self._renewed_at < self._settings.lease_seconds / 3:
            return
        with self._database.writing() as session:
            presence.see(session, self.id)
            held = queue.renew(session, runner_id=self.id, lease_seconds=self._settings.lease_seconds)
        self._renewed_at = time.monotonic()
        self._lost |= {claim.key for claim in self._running.values()} - held

    def _give_back(self) -> None:
        """Releases what this runner claimed and will not run; of what it may have claimed, what it really did."""
        if not self._unwanted:
            return
        with self._database.writing() as session:
            held = queue.renew(session, runner_id=self.id, lease_seconds=self._settings.lease_seconds)
            queue.release(session, [claim for claim in self._unwanted if claim.key in held])
        self._unwanted.clear()

    def _drain(self, deadline: float) -> bool:
        """Commits what ends before the deadline, or a call to hurry; gives back the rest; True if nothing runs on."""
        self._unwanted += [self._running.pop(future) for future in list(self._running) if future.cancel()]
        delay = self._survive(self._keep)
        while (self._running or self._unwanted) and (left := deadline - time.monotonic()) > 0:
            if self._is_hurried:
                break
            self._rest(min(delay, left))
            delay = self._survive(self._keep)
        self._unwanted += self._running.values()
        self._survive(self._leave)
        self._executor.shutdown(wait=False, cancel_futures=True)
        return not self._running

    def _keep(self) -> float:
        """Commits what is done, gives back what will not be run, and keeps the rest."""
        self._commit()
        self._give_back()
        self._renew()
        return HEARTBEAT_SECONDS

    def _leave(self) -> float:
        self._give_back()
        with self._database.writing() as session:
            presence.leave(session, self.id)
        return 0.0


def _queue_of(served: ServedModel) -> str:
    return queue_of(served.declaration.name, served.declaration.version)


def _run_chunk(served: ServedModel, claim: Claim) -> ChunkAnswer:
    """Runs in a thread of the executor."""
    with structlog.contextvars.bound_contextvars(job_id=claim.job_id, first_item=claim.first_item):
        started = time.monotonic()
        answer = predict_chunk(served, claim.payload)
        log.debug(
            "chunk_run",
            n_items=claim.n_items,
            n_errored=len(answer.failures),
            seconds=round(time.monotonic() - started, 6),
        )
        return answer


def _result(future: Future[ChunkAnswer], claim: Claim) -> Done | Failed:
    """What became of a chunk: the task boundary, where any exception of a task ends as the chunk's error."""
    error = future.exception()
    if error is None:
        answer = future.result()
        failures = [replace(failure, message=_storable(failure.message)) for failure in answer.failures]
        return Done(claim, answer.items, answer.columns, failures)
    log.error("chunk_failed", job_id=claim.job_id, first_item=claim.first_item, exc_info=error)
    reason = error.detail if isinstance(error, ServingError) else f"{type(error).__name__}: {error}"
    return Failed(claim, _storable(reason))


def _storable(message: str) -> str:
    """What user code said, with escapes for what is no UTF-8 and for NUL, which Postgres keeps in no text."""
    return message.replace("\0", "\\x00").encode(errors="backslashreplace").decode()
