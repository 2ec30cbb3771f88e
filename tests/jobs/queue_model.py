"""What the queue should do, in plain Python: the reference that the state machine compares the database with."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from app.jobs.claims import Broken, Claim, Done, Failed
from app.jobs.retry import Retry, Split, decide

Key = tuple[int, int]
WAITING, RUNNING, PREDICTED, ERRORED, CANCELED = "waiting", "running", "predicted", "errored", "canceled"
TERMINAL = ("succeeded", "partial", "failed", "canceled", "expired")


@dataclass
class JobModel:
    """A job as what became of each of its items."""

    n_items: int
    max_errors: int | None
    expires_at: datetime | None
    status: str = "queued"
    has_error: bool = False
    items: list[str] = field(default_factory=list)
    codes: dict[int, str] = field(default_factory=dict)  # of items that have an error of their own

    def __post_init__(self) -> None:
        self.items = [WAITING] * self.n_items

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL

    def count(self, state: str) -> int:
        return self.items.count(state)

    def set(self, places: Iterable[int], state: str) -> None:
        for place in places:
            self.items[place] = state


@dataclass
class Hold:
    claim: Claim
    runner_id: str
    lease_until: datetime


class QueueModel:
    """Every verb as the queue's contract tells it. Times are given; nothing here reads a clock."""

    def __init__(self, max_attempts: int) -> None:
        self.max_attempts = max_attempts
        self.jobs: dict[str, JobModel] = {}
        self.held: dict[int, Hold] = {}

    def is_held(self, claim: Claim) -> bool:
        hold = self.held.get(claim.chunk_id)
        return hold is not None and hold.claim.key == claim.key

    def claim(self, claims: Iterable[Claim], runner_id: str, lease_until: datetime) -> None:
        for claim in claims:
            job = self.jobs[claim.job_id]
            assert claim.chunk_id not in self.held, "a chunk that a runner holds was given to another"
            assert {job.items[place] for place in places(claim)} == {WAITING}, "what has ended ran again"
            job.set(places(claim), RUNNING)
            self.held[claim.chunk_id] = Hold(claim, runner_id, lease_until)
            if job.status == "queued":
                job.status = "running"

    def finish(self, results: Iterable[Done | Failed], now: datetime) -> set[Key]:
        """Returns the keys of those that are not held."""
        lost: set[Key] = set()
        touched: set[str] = set()
        for result in results:
            claim = result.claim
            if not self.is_held(claim):
                lost.add(claim.key)
                continue
            del self.held[claim.chunk_id]
            job = self.jobs[claim.job_id]
            job.set(places(claim), PREDICTED if isinstance(result, Done) else ERRORED)
            if isinstance(result, Done):
                for failure in result.failures:
                    job.items[claim.first_item + failure.place] = ERRORED
                    job.codes[claim.first_item + failure.place] = failure.code
            touched.add(claim.job_id)
        for job in map(self.jobs.__getitem__, touched):
            self._end(job, now)
            too_many = job.max_errors is not None and job.count(ERRORED) > job.max_errors
            if job.status == "running" and too_many:
                job.has_error = True
                self._stop(job, now)
        return lost

    def break_off(self, broken: Iterable[Broken], now: datetime) -> None:
        jobs = set()
        for each in broken:
            claim = each.claim
            jobs.add(claim.job_id)
            if not self.is_held(claim):
                continue
            step = decide(
                each.n_failures, claim.n_items, self.max_attempts, blames_an_item=each.blames_an_item
            )
            if isinstance(step, Retry | Split):
                self._put_back(claim)
            elif each.blames_an_item:
                self.jobs[claim.job_id].codes[claim.first_item] = each.code
                self.finish([Failed(claim, each.reason)], now)
            else:
                self.finish([Failed(claim, each.reason)], now)
        self._stop_canceling(jobs, now)

    def release(self, claims: Iterable[Claim], now: datetime) -> None:
        given = list(claims)
        for claim in given:
            if self.is_held(claim):
                self._put_back(claim)
        self._stop_canceling({claim.job_id for claim in given}, now)

    def renew(self, runner_id: str, hung: Iterable[int], lease_until: datetime) -> set[Key]:
        kept = [
            hold
            for chunk_id, hold in self.held.items()
            if hold.runner_id == runner_id and chunk_id not in set(hung)
        ]
        for hold in kept:
            hold.lease_until = lease_until
        return {hold.claim.key for hold in kept}

    def rescue(self, now: datetime) -> int:
        expired = [hold.claim for hold in self.held.values() if hold.lease_until < now]
        self.break_off([Broken(claim, "runner_crashed", "") for claim in expired], now)
        return len(expired)

    def cancel(self, job_id: str, now: datetime) -> bool:
        """Whether it could still be canceled."""
        job = self.jobs[job_id]
        if job.is_terminal:
            return False
        if job.status != "canceling":
            self._stop(job, now)
        return True

    def abandon(self, job_id: str, now: datetime) -> None:
        job = self.jobs[job_id]
        if not job.is_terminal and not job.has_error:
            job.has_error = True
            self._stop(job, now)

    def expire(self, now: datetime) -> int:
        overdue = [
            job
            for job in self.jobs.values()
            if not job.is_terminal and job.status != "canceling" and job.expires_at and job.expires_at < now
        ]
        for job in overdue:
            self._stop(job, now)
        return len(overdue)

    def retry(self, job_id: str) -> bool:
        """Whether it had ended, and had something to run again."""
        job = self.jobs[job_id]
        if not job.is_terminal or job.count(PREDICTED) == job.n_items:
            return False
        job.items = [state if state == PREDICTED else WAITING for state in job.items]
        job.codes.clear()
        job.status, job.has_error, job.expires_at = "queued", False, None
        return True

    def _put_back(self, claim: Claim) -> None:
        del self.held[claim.chunk_id]
        self.jobs[claim.job_id].set(places(claim), WAITING)

    def _stop_canceling(self, job_ids: Iterable[str], now: datetime) -> None:
        for job in map(self.jobs.__getitem__, job_ids):
            if job.status == "canceling":
                self._stop(job, now)

    def _stop(self, job: JobModel, now: datetime) -> None:
        job.items = [CANCELED if state == WAITING else state for state in job.items]
        job.status = "canceling"
        self._end(job, now)

    def _end(self, job: JobModel, now: datetime) -> None:
        if job.count(WAITING) or job.count(RUNNING):
            return
        is_hopeless = job.max_errors is not None and job.count(ERRORED) > job.max_errors
        if job.has_error or (is_hopeless and not job.count(CANCELED)):
            job.status = "failed"
        elif job.count(CANCELED):
            job.status = "expired" if job.expires_at and job.expires_at <= now else "canceled"
        elif not job.count(ERRORED):
            job.status = "succeeded"
        else:
            job.status = "partial" if job.count(PREDICTED) else "failed"


def places(claim: Claim) -> range:
    return range(claim.first_item, claim.first_item + claim.n_items)
