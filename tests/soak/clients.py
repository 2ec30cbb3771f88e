"""Clients that repeat what was not answered, and remember what was: an answer is a promise."""

import http.client
import threading
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from random import Random
from typing import Any

import orjson
from sqlalchemy import text

from app.data.chunks import unpack
from app.db import Database
from app.jobs import history
from tests.crash.stories import BOOKS
from tests.waiting import wait_until

PAUSE_SECONDS = 0.2
MOST_UNDER_WAY = 6
"""Jobs of one client that have not ended: more would only pile up."""
NUMBERS_PER_JOB = 1_000_000
MOST_ITEMS = {"busy": 150, "brisk": 3000}
"""In a job, of each model."""
FAILING = 997
"""Multiples of it have no prediction."""


@dataclass(frozen=True, slots=True)
class Promise:
    """A job that the service accepted: `n_items` numbers from `first` on."""

    job_id: str
    first: int
    n_items: int


class Client:
    """Uploads and makes jobs from a thread of its own, over connections that break."""

    def __init__(self, port: int, chance: Random, number: int) -> None:
        self.port = port
        self.chance = chance
        self.promises: list[Promise] = []
        self.n_refused = 0
        self.oddities: list[str] = []
        self._next = number * NUMBERS_PER_JOB * 1000
        self._under_way: list[str] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"client {number}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stopping.is_set():
            if len(self._under_way) < MOST_UNDER_WAY:
                self._make_job()
            self._look()

    def _make_job(self) -> None:
        model = self.chance.choice(list(MOST_ITEMS))
        first, n_items = self._next, self.chance.randint(1, MOST_ITEMS[model])
        self._next += NUMBERS_PER_JOB
        body = b"".join(b'{"number":%d}\n' % number for number in range(first, first + n_items))
        uploaded = self._insist("POST", "/v1/inputs", body, {"Content-Type": "application/x-ndjson"})
        if uploaded is None:
            return
        wanted = orjson.dumps({"model": model, "input_id": uploaded["id"]})
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": str(uuid.UUID(int=self.chance.getrandbits(128))),
        }
        if (job := self._insist("POST", "/v1/jobs", wanted, headers)) is not None:
            self.promises.append(Promise(job["id"], first, n_items))
            self._under_way.append(job["id"])

    def _look(self) -> None:
        self._stopping.wait(self.chance.uniform(0, PAUSE_SECONDS))
        for job_id in self._under_way[:2]:
            job = self._insist("GET", f"/v1/jobs/{job_id}", None, {})
            if job is not None and job["done"]:
                self._under_way.remove(job_id)

    def _insist(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Any:
        """The answer, however often it takes; None once the client was told to stop."""
        while not self._stopping.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                content = response.read()
                if response.status in {200, 201, 202}:
                    return orjson.loads(content)
                if response.status != 503 or "Retry-After" not in response.headers:
                    self.oddities.append(f"{method} {path}: {response.status} {content.decode()}")
                self.n_refused += 1
            except (OSError, http.client.HTTPException):
                self.n_refused += 1
            finally:
                connection.close()
            self._stopping.wait(PAUSE_SECONDS)
        return None


@dataclass(frozen=True, slots=True)
class Findings:
    """What became of the promises; `n_refused` requests were repeated, and `oddities` answered as they should not."""

    n_jobs: int
    n_items: int
    n_refused: int
    n_rescued: int
    lost: int
    doubled: int
    wrong: int
    unfinished: int
    off_books: int
    oddities: Sequence[str]

    @classmethod
    def of(cls, clients: Sequence[Client], database: Database, settle_seconds: float) -> "Findings":
        """Waits for the jobs to end, and then looks at every item."""
        with suppress(AssertionError):  # they are counted below
            wait_until(lambda: not _unfinished(database), "all jobs to end", settle_seconds)
        promises = list(chain.from_iterable(client.promises for client in clients))
        lost = doubled = wrong = 0
        for promise in promises:
            expected = [
                {"number": number, "double": 2 * number} if number % FAILING else None
                for number in range(promise.first, promise.first + promise.n_items)
            ]
            found = [orjson.loads(item) for item in _outputs(database, promise.job_id)]
            numbers = [item["number"] for item in found if item is not None]
            lost += promise.n_items - expected.count(None) - len(set(numbers))
            doubled += len(numbers) - len(set(numbers))
            wrong += found != expected
        return cls(
            n_jobs=len(promises),
            n_items=sum(promise.n_items for promise in promises),
            n_refused=sum(client.n_refused for client in clients),
            n_rescued=len(_rows(database, "SELECT id FROM job_events WHERE event = 'rescued'")),
            lost=lost,
            doubled=doubled,
            wrong=wrong,
            unfinished=len(_unfinished(database)),
            off_books=len(_rows(database, BOOKS)),
            oddities=list(chain.from_iterable(client.oddities for client in clients)),
        )

    @property
    def is_well(self) -> bool:
        return not (
            self.lost or self.doubled or self.wrong or self.unfinished or self.off_books or self.oddities
        )

    def __str__(self) -> str:
        return (
            f"{self.n_jobs} jobs, {self.n_items} items, {self.n_rescued} chunks rescued, {self.n_refused} requests"
            f" repeated; lost {self.lost}, doubled {self.doubled}, jobs with wrong outputs {self.wrong},"
            f" jobs unfinished {self.unfinished}, counters wrong {self.off_books}, oddities {self.oddities[:3]}"
        )


def _outputs(database: Database, job_id: str) -> Iterable[bytes]:
    return chain.from_iterable(unpack(payload) for payload, _ in history.iterate_outputs(database, job_id))


def _unfinished(database: Database) -> list[Any]:
    return _rows(database, "SELECT id FROM jobs WHERE finished_at IS NULL")


def _rows(database: Database, sql: str) -> list[Any]:
    with database.reading() as session:
        return list(session.execute(text(sql)).all())
