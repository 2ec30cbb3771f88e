"""The intake of a runner: which chunks it takes from the queue, how many of each model, and what it gives back."""

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.cache.asking import recall
from app.config import Settings
from app.data import exact
from app.db import Database
from app.executors import ChunkExecutor
from app.executors.outcomes import storable
from app.executors.supply import LEAST_PER_SLOT
from app.executors.underway import Underway
from app.executors.work import Work, work_of
from app.jobs import control, queue, rescue
from app.jobs.claims import TRANSIENT, Broken, Claim
from app.jobs.leases import Leases
from app.jobs.retry import is_on_trial
from app.models.registry import Registry
from app.models.served import ServedModel
from app.tables import JobKind

REFUSED_AT_ONCE = 32
"""Chunks that are given back in one transaction where a model could not be loaded."""

RECONSIDER_SECONDS = 1.0


class Intake:
    """Claims for the models of a registry what its runner's executor has room for. For the runner's loop alone."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        settings: Settings,
        executor: ChunkExecutor,
        underway: Underway,
        leases: Leases,
    ) -> None:
        self._database = database
        self._registry = registry
        self._settings = settings
        self._executor = executor
        self._underway = underway
        self._leases = leases
        self._reconsider_at = 0.0
        self._claimed: list[tuple[ServedModel, Claim]] = []  # in a transaction that is not committed yet
        self.unwanted: list[Claim] = []
        """What is to be given back unrun."""

    def claim(self) -> None:
        """Claims what is due and has room."""
        if (room := self._room(self._works())) and self._is_due(room):
            with self.claiming() as session:
                self.claim_due(session)

    @contextmanager
    def claiming(self) -> Iterator[Session]:
        """A transaction that claims, by `claim_due`; what it claimed is begun when it is committed."""
        try:
            with self._database.writing() as session:
                yield session
        except DBAPIError:  # a connection that breaks during COMMIT leaves open whether it happened
            self.unwanted += [claim for _, claim in self._claimed]
            self._claimed = []
            raise
        claimed, self._claimed = self._claimed, []
        self._leases.hold(claim for _, claim in claimed)
        for served, claim in claimed:
            self._underway.begin(served, self._recalling(served, claim))

    def claim_due(self, session: Session) -> None:
        """Claims what there is room for, once from each queue, oldest first.

        Of short ones beyond the least at most half, so that another runner finds some too, and all of them come to the
        end of a job at about the same time. Where there are fewer than twice that room, more are queued of the jobs.
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
            elif self._underway.supply.is_short(head.queue):
                n_due = queue.n_due(session, head.queue, 2 * limit)
                lacking[head.queue] = 2 * limit - n_due
                spare = self._slots(works[head.queue]) * (
                    self._underway.supply.per_slot(head.queue) - LEAST_PER_SLOT
                )
                limit = min(limit, max(limit - spare, -(-n_due // 2)))
            taken = self._take(session, head.queue, limit)
            kept = self._up_to_a_trial(session, taken)
            self._claimed += [(works[head.queue].served, claim) for claim in kept]
            if len(kept) < len(taken):
                break  # one on trial is next
        queue.begin(session, [claim for _, claim in self._claimed], runner_id=self._leases.runner_id)
        for name, n_chunks in lacking.items():
            job_ids = {claim.job_id for _, claim in self._claimed if claim.queue == name}
            if n_chunks and job_ids and queue.widen(session, job_ids, n_chunks):
                control.wake(session, name)

    def refuse(self) -> bool:
        """Gives back what is queued for models that this runner has not, some at a time, so that others can write.

        Another runner may have them, so this is an attempt like any. Returns whether there was any, and may be more.
        """
        has_refused = False
        for name, work in self._works().items():
            if work.trouble is None or not self._is_due([name]):
                continue
            reason = storable(work.trouble)
            with self._database.writing() as session:
                claims = self._take(session, name, REFUSED_AT_ONCE)
                queue.begin(session, claims, runner_id=self._leases.runner_id)
                hopeless = {claim.job_id for claim in claims if claim.attempts >= self._settings.max_attempts}
                for job_id in sorted(hopeless):
                    control.abandon(session, job_id, reason)
                self.break_off(session, [Broken(claim, TRANSIENT, reason) for claim in claims])
            has_refused |= bool(claims)
        return has_refused

    def break_off(self, session: Session, broken: list[Broken]) -> None:
        """Gives back chunks that came to no result; that was an attempt."""
        rescue.break_off(
            session, broken, runner_id=self._leases.runner_id, max_attempts=self._settings.max_attempts
        )

    def reconsider(self) -> None:
        """Takes back, once a second, what has not begun of what should not be run here after all.

        That is of jobs that were canceled or the like since it was claimed, and, so that other runners find it, of
        short chunks that turn out to be long.
        """
        if time.monotonic() < self._reconsider_at:
            return
        self._reconsider_at = time.monotonic() + RECONSIDER_SECONDS
        self._take_back(self._underway.call_off_surplus(RECONSIDER_SECONDS))
        job_ids = {chunk.claim.job_id for chunk in self._underway.not_done}
        if not job_ids:
            return
        with self._database.reading() as session:
            stopped = queue.being_stopped(session, job_ids)
        if stopped:
            self._take_back(self._underway.call_off(stopped))

    def take_back(self) -> None:
        """Takes back all that has not begun."""
        self._take_back(self._underway.call_off())

    def give_back(self) -> None:
        """Releases what is `unwanted`; of what may have been claimed, what really was."""
        if not self.unwanted:
            return
        with self._database.writing() as session:
            queue.release(session, self.unwanted)
        self.unwanted.clear()

    def _take_back(self, called_off: list[Claim]) -> None:
        self._leases.drop(called_off)
        self.unwanted += called_off

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
                per_slot = 1 if work.kind is JobKind.TRAIN else self._underway.supply.per_slot(name)
                can_fill = free_threads >= slots[name] - taken[name]
                room[name] = slots[name] * per_slot - taken[name] if can_fill else free_threads
        return {name: n_chunks for name, n_chunks in room.items() if n_chunks > 0}

    def _slots(self, work: Work) -> int:
        """How many of its chunks run at once. Of trainings one, for a claim brings a whole input, which another runner
        might begin with now."""
        slots = self._executor.slots(work.served)
        return min(1, slots) if work.kind is JobKind.TRAIN else slots

    def _is_due(self, queues: Collection[str]) -> bool:
        """Whether there is anything to claim; asked first, for on SQLite a claim would stop all who write."""
        with self._database.reading() as session:
            return bool(queue.heads(session, queues))

    def _take(self, session: Session, name: str, limit: int) -> list[Claim]:
        return queue.claim(
            session,
            queue=name,
            runner_id=self._leases.runner_id,
            limit=limit,
            lease_seconds=self._settings.lease_seconds,
        )

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
        return [chunk.claim for chunk in self._underway.not_done] + [claim for _, claim in self._claimed]

    def _is_on_trial(self, chunk: Claim | queue.Head) -> bool:
        """Whether a chunk must run alone. Where each has a child to itself, only if a runner died on its job."""
        if self._executor.dies_alone and not chunk.was_rescued:
            return False
        return is_on_trial(chunk.crashes, chunk.n_items, self._settings.max_attempts)

    def _recalling(self, served: ServedModel, claim: Claim) -> Claim:
        """The claim with what the cache knows of its items, if its model has a cache and the claim its items."""
        if not (served.declaration.cache and claim.payload) or claim.kind is JobKind.TRAIN:
            return claim
        return replace(claim, recall=recall(self._database, served, exact.loads(claim.payload)))
