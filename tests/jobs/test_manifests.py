"""Manifests: whoever writes one, and whatever happens meanwhile, the last word is that of the job's last end."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from app.columns import utc_now
from app.config import DAY_SECONDS
from app.data.addresses import Address
from app.data.chunks import ItemChunk
from app.data.extents import Extent
from app.data.objects import Storage, StoreAway
from app.db import Database
from app.errors import Conflict, Forbidden
from app.jobs import control, inputs, manifests, retention
from app.jobs.claims import Claim, Done
from app.jobs.ids import new_id
from app.jobs.manifests import ManifestWriter
from app.jobs.upkeep import sweep
from app.models.served import ServedModel
from app.tables import Job, JobKind
from app.tasks.chunk import answer_chunk
from tests.jobs.conftest import Workshop, done
from tests.models.specimens import declare

SelectAll = Callable[..., list[dict[str, Any]]]


class Ok:
    def load(self, artifact: Path | None) -> None: ...

    def predict(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"ok": True} for _ in items]


class Shelf:
    """A folder that jobs write to, as the runs of their chunks and the writers of manifests do."""

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        self.workshop = workshop
        self.folder = folder
        self.url = f"file://{folder}/out"
        self.storage = Storage.of([f"file://{folder}"])
        self.served = ServedModel(declare(Ok))
        self.served.load()

    def enqueue(self, n_items: int = 4, chunk_items: int = 2, url: str | None = None) -> str:
        job_id, input_id = new_id(), self.workshop.upload(n_items, chunk_items)
        with self.workshop.database.writing() as session:
            control.enqueue(
                session,
                job_id=job_id,
                model="sentiment",
                version="1",
                input_id=input_id,
                window=100,
                output_url=url or self.url,
            )
        return job_id

    def run(self, claim: Claim) -> Done:
        """What a runner reports of a chunk, whose answers are in the folder then."""
        answer = answer_chunk(self.served, claim, self.storage)
        return Done(
            claim, answer.items, answer.columns, answer.failures, is_whole=True, written=answer.written
        )

    def run_all(self) -> None:
        self.workshop.finish(*map(self.run, self.workshop.claim(limit=100)))

    def write(self, job_id: str) -> bool:
        return manifests.write(self.workshop.database, self.storage, job_id)

    def due(self) -> list[str]:
        with self.workshop.database.reading() as session:
            return list(manifests.due(session))

    def manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = orjson.loads((self.folder / "out" / "manifest.json").read_bytes())
        return manifest


@pytest.fixture
def shelf(workshop: Workshop, tmp_path: Path) -> Shelf:
    return Shelf(workshop, tmp_path)


def test_a_manifest_is_due_from_the_end_of_a_job_until_it_is_written(
    shelf: Shelf, workshop: Workshop
) -> None:
    job_id = shelf.enqueue()
    workshop.enqueue()  # one whose outputs are in the database
    assert shelf.due() == []
    shelf.run_all()
    assert shelf.due() == [job_id]

    assert shelf.write(job_id)

    assert shelf.due() == []
    assert [part["first_item"] for part in shelf.manifest()["parts"]] == [0, 2]
    assert workshop.events(job_id)[-2:] == ["finished", "manifest_written"]
    seen = workshop.select_all("SELECT prediction FROM predictions WHERE job_id = :id", id=job_id)
    assert seen == [{"prediction": None}] * 4


def test_two_that_write_it_write_the_same_and_it_is_told_once(shelf: Shelf, workshop: Workshop) -> None:
    job_id = shelf.enqueue()
    shelf.run_all()
    shelf.write(job_id)
    before = (shelf.folder / "out" / "manifest.json").read_bytes()

    shelf.write(job_id)

    assert (shelf.folder / "out" / "manifest.json").read_bytes() == before
    assert workshop.events(job_id).count("manifest_written") == 1
    assert shelf.due() == []


def test_the_part_of_a_stale_runner_is_beside_the_right_one_and_in_no_manifest(
    shelf: Shelf, workshop: Workshop
) -> None:
    job_id = shelf.enqueue(n_items=2)
    (stale,) = workshop.claim()
    workshop.let_leases_run_out(stale)
    workshop.rescue()
    workshop.end_backoff()
    (claim,) = workshop.claim()
    right = shelf.run(claim)
    workshop.finish(right)

    late = shelf.run(stale)
    assert workshop.finish(late) == {stale.key}
    shelf.write(job_id)

    assert right.written is not None
    assert late.written is not None
    assert late.written.name != right.written.name
    assert [part["object"] for part in shelf.manifest()["parts"]] == [right.written.name]


def test_a_halved_chunk_has_a_part_for_each_half_and_none_for_its_guilty_item(
    shelf: Shelf, workshop: Workshop
) -> None:
    job_id = shelf.enqueue(n_items=2)
    for _ in range(8):
        claims = workshop.claim(limit=2)
        guilty = [claim for claim in claims if claim.first_item == 0]
        workshop.finish(*(shelf.run(claim) for claim in claims if claim.first_item))
        workshop.let_leases_run_out(*guilty)
        workshop.rescue()
        workshop.end_backoff()
    shelf.write(job_id)

    assert workshop.job(job_id)["status"] == "partial"
    assert [part["first_item"] for part in shelf.manifest()["parts"]] == [1]
    assert shelf.manifest()["counts"]["errored"] == 1
    workshop.check_books()


def test_a_retry_counts_the_predictions_of_its_new_parts_once(shelf: Shelf, workshop: Workshop) -> None:
    job_id = shelf.enqueue()
    first, second = workshop.claim(limit=2)
    answered = shelf.run(first)
    failures = done(first, 1).failures
    with_error = Done(first, b"", ["id"], failures, is_whole=True, written=answered.written, n_cached=1)
    workshop.finish(with_error, replace(shelf.run(second), n_cached=2))
    assert (workshop.job(job_id)["n_succeeded"], workshop.job(job_id)["n_cached"]) == (3, 3)

    workshop.retry(job_id)

    workshop.check_books()
    assert (workshop.job(job_id)["n_succeeded"], workshop.job(job_id)["n_cached"]) == (2, 2)
    assert workshop.job(job_id)["manifest_at"] is None
    shelf.run_all()
    workshop.check_books()
    assert (workshop.job(job_id)["status"], workshop.job(job_id)["n_succeeded"]) == ("succeeded", 4)


def test_a_manifest_of_an_end_that_is_over_does_not_have_the_last_word(
    shelf: Shelf, workshop: Workshop, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = shelf.enqueue()
    (claim,) = workshop.claim()
    workshop.finish(shelf.run(claim))
    workshop.cancel(job_id)
    write = Storage.write

    def write_after_another_end(storage: Storage, *arguments: Any) -> Any:
        monkeypatch.setattr(Storage, "write", write)
        workshop.retry(job_id)
        shelf.run_all()
        with database.writing() as session:  # both ends may have come in one millisecond
            session.execute(update(Job).values(finished_at=utc_now(5.0)))
        shelf.write(job_id)
        return write(storage, *arguments)

    monkeypatch.setattr(Storage, "write", write_after_another_end)
    shelf.write(job_id)

    assert shelf.manifest()["status"] == "canceled"
    assert shelf.due() == [job_id]
    shelf.write(job_id)
    assert (shelf.manifest()["status"], shelf.due()) == ("succeeded", [])


def test_a_job_that_expires_is_pruned_when_its_manifest_is_written(
    shelf: Shelf, workshop: Workshop, database: Database
) -> None:
    job_id = shelf.enqueue()
    (claim,) = workshop.claim()
    workshop.finish(shelf.run(claim))
    with database.writing() as session:
        session.execute(update(Job).values(expires_at=utc_now(-1.0)))

    assert sweep(database, None) == {"jobs_expired": 1}
    assert not sweep(database, None)
    assert ManifestWriter(database, shelf.storage, 1.0).write_due() == 1
    assert sweep(database, None) == {"jobs_pruned": 1}

    assert (shelf.manifest()["status"], len(shelf.manifest()["parts"])) == ("expired", 1)
    assert workshop.events(job_id)[-2:] == ["manifest_written", "pruned"]


def test_a_job_without_a_manifest_may_be_deleted(shelf: Shelf, database: Database) -> None:
    job_id = shelf.enqueue()
    shelf.run_all()

    with database.writing() as session:
        control.remove(session, job_id)

    assert shelf.due() == []
    assert not shelf.write(job_id)


def test_a_job_whose_manifest_nobody_wrote_for_a_day_is_pruned_and_gets_none(
    shelf: Shelf, database: Database
) -> None:
    job_id = shelf.enqueue()
    shelf.run_all()
    for seconds, n_pruned in ((-60.0, 0), (1.0, 1)):
        with database.writing() as session:
            session.execute(update(Job).values(finished_at=utc_now(-DAY_SECONDS - seconds)))
            assert retention.prune_jobs(session, retention_days=0.5, limit=10) == n_pruned

    assert shelf.due() == []
    assert not shelf.write(job_id)


def test_a_manifest_that_cannot_be_written_waits_for_who_can_write_it(
    shelf: Shelf, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = shelf.enqueue()
    shelf.run_all()
    refusing = ManifestWriter(workshop.database, Storage(), 1.0)
    with pytest.raises(Forbidden):
        manifests.write(workshop.database, Storage(), job_id)

    assert refusing.write_due() == 0
    monkeypatch.setattr(manifests, "write", lambda *_: pytest.fail("it was to wait"))
    assert refusing.write_due() == 0

    monkeypatch.undo()
    assert ManifestWriter(workshop.database, shelf.storage, 1.0).write_due() == 1
    assert shelf.due() == []


def test_a_store_that_is_away_is_asked_once_in_a_round_and_does_not_hold_up_others(
    shelf: Shelf, workshop: Workshop, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = ("s3://away/a", "s3://away/b", "s3://there/c", "gs://away/d")
    job_ids = [shelf.enqueue(n_items=1, url=url) for url in urls]
    for job_id in job_ids:
        workshop.cancel(job_id)
    asked: list[str] = []

    def write_unless_away(storage: Storage, address: Address, body: bytes) -> None:
        asked.append(f"{address.protocol}://{address.steps[0]}")
        if asked[-1] == "s3://away":
            raise StoreAway("the store does not answer")

    monkeypatch.setattr(Storage, "write", write_unless_away)
    writer = ManifestWriter(database, Storage.of(urls), 1.0)

    assert writer.write_due() == 2
    assert sorted(asked) == ["gs://away", "s3://away", "s3://there"]
    assert sorted(shelf.due()) == sorted(job_ids[:2])

    assert writer.write_due() == 0
    assert asked[3:] == ["s3://away"], "for the other one, which may be better off"


def test_a_training_needs_all_items_of_its_input_in_the_database(
    workshop: Workshop, database: Database
) -> None:
    input_id = new_id()
    with database.writing() as session:  # as a schedule gathers them: one uploaded, one in an object
        inputs.begin(session, input_id, "ndjson")
        inputs.fill(session, input_id, [ItemChunk(0, 1, b"[{}]")], 0)
        inputs.point(session, input_id, [Extent(1, 1, 0, 3, None, "0" * 64)], 1, url="s3://data/x")
        inputs.seal(session, input_id, n_bytes=6, sha256="0" * 64)
    with pytest.raises(Conflict, match="are in s3://data/x: to train"), database.writing() as session:
        control.enqueue(
            session,
            job_id=new_id(),
            model="sentiment",
            version="1",
            input_id=input_id,
            window=1,
            kind=JobKind.TRAIN,
            options={},
        )


def test_a_place_of_items_or_the_items_must_be_there(workshop: Workshop, select_all: SelectAll) -> None:
    workshop.upload(1)
    for change in ("items = NULL", "url = 'x', byte_offset = 0, n_bytes = 1, sha256 = 'x'"):
        with pytest.raises(IntegrityError, match="items_or_place"), workshop.database.writing() as session:
            session.connection().exec_driver_sql(f"UPDATE input_chunks SET {change}")
    assert select_all("SELECT url FROM input_chunks WHERE items IS NOT NULL") == [{"url": None}]
