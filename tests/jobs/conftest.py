"""A queue to play with: sealed inputs, jobs over them, and claims by named runners."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import pytest

from app.data.chunks import ItemChunk, pack
from app.db import Database
from app.jobs import again, control, history, inputs, queue, rescue
from app.jobs.claims import Broken, Claim, Done, Failed, ItemFailure, Trained
from app.jobs.ids import new_id
from app.tables import JobKind

QUEUE = "sentiment@1"


@dataclass
class Workshop:
    """Drives the queue's verbs, each in a transaction of its own, as the edges of the service do."""

    database: Database
    select_all: Callable[..., list[dict[str, Any]]]

    def upload(self, n_items: int, chunk_items: int = 1) -> str:
        """A sealed input of items `{"id": 0}`, `{"id": 1}` …"""
        input_id = new_id()
        starts = range(0, n_items, chunk_items)
        chunks = [self._chunk(start, min(chunk_items, n_items - start)) for start in starts]
        with self.database.writing() as session:
            inputs.begin(session, input_id, "ndjson")
            inputs.fill(session, input_id, chunks, 0)
            inputs.seal(session, input_id, n_bytes=n_items * 9, sha256="0" * 64)
        return input_id

    def enqueue(
        self,
        n_items: int = 1,
        chunk_items: int = 1,
        *,
        model: str = "sentiment",
        version: str = "1",
        window: int = 1000,
        priority: int = 0,
        run_at: datetime | None = None,
        owner: str = "",
        max_errors: int | None = None,
        expires_at: datetime | None = None,
        kind: JobKind = JobKind.PREDICT,
        options: dict[str, Any] | None = None,
    ) -> str:
        """A job over a new input, made in chunks of `chunk_items`."""
        job_id, input_id = new_id(), self.upload(n_items, chunk_items)
        with self.database.writing() as session:
            control.enqueue(
                session,
                job_id=job_id,
                model=model,
                version=version,
                input_id=input_id,
                window=window,
                kind=kind,
                options=options,
                priority=priority,
                run_at=run_at,
                owner=owner,
                max_errors=max_errors,
                expires_at=expires_at,
            )
        return job_id

    def claim(self, limit: int = 1, *, runner_id: str | None = None, queue_name: str = QUEUE) -> list[Claim]:
        runner_id = runner_id or new_id()
        with self.database.writing() as session:
            claims = queue.claim(
                session, queue=queue_name, runner_id=runner_id, limit=limit, lease_seconds=60
            )
            queue.begin(session, claims, runner_id=runner_id)
        return claims

    def finish(self, *results: Done | Trained | Failed) -> set[tuple[int, int]]:
        with self.database.writing() as session:
            return queue.finish(session, results)

    def release(self, *claims: Claim) -> None:
        with self.database.writing() as session:
            queue.release(session, claims)

    def renew(
        self, runner_id: str, lease_seconds: float = 60, hung: Collection[int] = ()
    ) -> set[tuple[int, int]]:
        with self.database.writing() as session:
            return queue.renew(session, runner_id=runner_id, lease_seconds=lease_seconds, hung=hung)

    def rescue(self, *, runner_id: str | None = None, max_attempts: int = 3) -> int:
        with self.database.writing() as session:
            return rescue.rescue(
                session, runner_id=runner_id or new_id(), max_attempts=max_attempts, lease_seconds=60
            )

    def break_off(self, *broken: Broken, max_attempts: int = 3) -> None:
        with self.database.writing() as session:
            rescue.break_off(session, broken, runner_id=new_id(), max_attempts=max_attempts)

    def cancel(self, job_id: str) -> None:
        with self.database.writing() as session:
            control.cancel(session, job_id)

    def retry(self, job_id: str, *, window: int = 1000) -> None:
        with self.database.writing() as session:
            again.retry(session, job_id, window=window)

    def expire(self) -> int:
        with self.database.writing() as session:
            return control.expire(session, limit=100)

    def let_leases_run_out(self, *claims: Claim) -> None:
        """Sets the leases of all running chunks, or of those claimed, into the past."""
        self._set_back("lease_until", "running", claims)

    def end_backoff(self) -> None:
        """Makes all queued chunks due, in the order of their places."""
        self._set_back("ready_at", "queued", ())

    def _set_back(self, column: str, status: str, claims: Collection[Claim]) -> None:
        ids = ", ".join(str(claim.chunk_id) for claim in claims)
        chosen = f" AND id IN ({ids})" if claims else ""
        with self.database.writing() as session:
            session.connection().exec_driver_sql(
                f"UPDATE chunks SET {column} = '2020-01-01T00:00:00.000Z' WHERE status = '{status}'{chosen}"
            )

    def job(self, job_id: str) -> dict[str, Any]:
        (row,) = self.select_all("SELECT * FROM jobs WHERE id = :id", id=job_id)
        return row

    def chunks(self, job_id: str) -> list[dict[str, Any]]:
        return self.select_all("SELECT * FROM chunks WHERE job_id = :id ORDER BY first_item", id=job_id)

    def errors(self, job_id: str) -> dict[int, str]:
        """The code of each item error, by the item's index."""
        rows = self.select_all("SELECT item_index, code FROM item_errors WHERE job_id = :id", id=job_id)
        return {row["item_index"]: row["code"] for row in rows}

    def answers(self, job_id: str) -> list[dict[str, Any] | None]:
        """What there is to read of a job, in the order of its items; None where an item failed."""
        payloads = [payload for payload, _ in history.iterate_outputs(self.database, job_id)]
        return [answer for payload in payloads for answer in orjson.loads(payload)]

    def predicted(self, job_id: str) -> list[int]:
        """The ids of the items that have a prediction, in their order."""
        return [answer["id"] for answer in self.answers(job_id) if answer is not None]

    def run_all(self, *bad_items: int, limit: int = 100) -> list[int]:
        """Runs what is queued until nothing is; items at the indices `bad_items` fail. The items run, in order."""
        ran: list[int] = []
        while claims := self.claim(limit):
            for claim in claims:
                items = range(claim.first_item, claim.first_item + claim.n_items)
                assert [item["id"] for item in orjson.loads(claim.payload)] == list(items)
                ran += items
                assert not self.finish(done(claim, *(bad - items.start for bad in bad_items if bad in items)))
        return ran

    def events(self, job_id: str) -> list[str]:
        rows = self.select_all("SELECT event FROM job_events WHERE job_id = :id ORDER BY id", id=job_id)
        return [row["event"] for row in rows]

    def check_books(self) -> None:
        """Invariants 1 and 3: one output per done chunk, and counters that equal the sums over the chunks."""
        wrong = self.select_all(
            "SELECT jobs.id, jobs.n_items, jobs.n_succeeded, jobs.n_errored, jobs.n_canceled, jobs.n_cached"
            " FROM jobs JOIN ("
            " SELECT job_id, sum(n_items) AS items, sum(n_succeeded) AS succeeded, sum(n_errored) AS errored,"
            " sum(n_cached) AS cached,"
            " sum(CASE WHEN status = 'canceled' THEN n_items ELSE 0 END) AS canceled"
            " FROM chunks GROUP BY job_id) sums ON sums.job_id = jobs.id"
            " WHERE (jobs.n_items, jobs.n_succeeded, jobs.n_errored, jobs.n_canceled, jobs.n_cached)"
            " <> (items, succeeded, errored, canceled, cached)"
        )
        assert wrong == []
        outputs = self.select_all("SELECT chunk_id FROM outputs ORDER BY chunk_id")
        done = self.select_all(
            "SELECT id AS chunk_id FROM chunks WHERE status = 'done' AND queue NOT LIKE 'train:%' ORDER BY id"
        )
        assert outputs == done
        versions = self.select_all("SELECT job_id FROM model_versions ORDER BY job_id")
        trained = self.select_all(
            "SELECT id AS job_id FROM jobs WHERE kind = 'train' AND status = 'succeeded' ORDER BY id"
        )
        assert versions == trained

    @staticmethod
    def _chunk(first_item: int, n_items: int) -> ItemChunk:
        items = [orjson.dumps({"id": index}) for index in range(first_item, first_item + n_items)]
        return ItemChunk(first_item, n_items, pack(items))


def done(claim: Claim, *bad_places: int) -> Done:
    """What a runner reports when it ran a chunk and the items at `bad_places` failed."""
    predictions = [b"null" if place in bad_places else b'{"ok":true}' for place in range(claim.n_items)]
    failures = [ItemFailure(place, "model_failed", "no") for place in bad_places]
    return Done(claim, pack(predictions), ["id", "ok"], failures, is_whole=False)


@pytest.fixture
def workshop(database: Database, select_all: Callable[..., list[dict[str, Any]]]) -> Workshop:
    return Workshop(database, select_all)
