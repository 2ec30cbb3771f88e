"""Train jobs in the queue: one chunk over the whole input, and exactly one version of each that succeeds."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from app.db import Database
from app.errors import Conflict, Gone, NotFound
from app.jobs import history, queue
from app.jobs.claims import TRANSIENT, Broken, Claim, Failed, Trained
from app.jobs.ids import new_id
from app.models.packing import PackedArtifact
from app.tables import JobKind
from app.versions import trained
from tests.jobs.conftest import Workshop

TRAIN_QUEUE = "train:sentiment@1"
ARTIFACT = PackedArtifact("ab" * 32, "file", [b"first\0", b"second"])


@pytest.fixture
def enqueue(workshop: Workshop) -> Callable[..., str]:
    def enqueue(n_items: int = 5, **options: Any) -> str:
        return workshop.enqueue(n_items, chunk_items=2, kind=JobKind.TRAIN, options=options)

    return enqueue


def take(workshop: Workshop) -> Claim:
    (claim,) = workshop.claim(10, queue_name=TRAIN_QUEUE)
    return claim


def trained_by(claim: Claim, **metrics: Any) -> Trained:
    return Trained(claim, ARTIFACT, metrics)


def test_a_training_is_one_chunk_with_all_items_and_the_options(
    workshop: Workshop, enqueue: Callable[..., str]
) -> None:
    enqueue(n_items=5, depth=3)

    assert workshop.claim(10) == []  # they are no predictions
    claim = take(workshop)

    assert (claim.kind, claim.options, claim.first_item, claim.n_items) == (JobKind.TRAIN, {"depth": 3}, 0, 5)
    assert [item["id"] for item in orjson.loads(claim.payload)] == [0, 1, 2, 3, 4]


def test_its_end_makes_a_version_that_tells_where_it_came_from(
    workshop: Workshop, enqueue: Callable[..., str], database: Database
) -> None:
    job_id = enqueue(n_items=5, depth=3)
    assert workshop.finish(trained_by(take(workshop), accuracy=0.5)) == set()

    job = workshop.job(job_id)
    assert (job["status"], job["n_succeeded"]) == ("succeeded", 5)
    assert workshop.events(job_id) == ["created", "started", "trained", "finished"]
    with database.reading() as session:
        (row,) = trained.list_versions(session, "sentiment")
        assert trained.versions_of_jobs(session, [job_id]).keys() == {job_id}
    assert (row.version, row.parent, row.entry) == ("t1", "1", "1")
    assert (row.job_id, row.input_id, row.n_items) == (job_id, str(job["input_id"]), 5)
    assert (row.options, row.metrics) == ({"depth": 3}, {"accuracy": 0.5})
    assert (row.sha256, row.form, row.n_bytes) == ("ab" * 32, "file", 12)
    assert (row.promoted_at, row.removed_at) == (None, None)
    assert list(trained.iterate_parts(database, "sentiment", "t1")) == [b"first\0", b"second"]
    workshop.check_books()


def test_two_that_end_at_once_are_two_versions(workshop: Workshop, enqueue: Callable[..., str]) -> None:
    enqueue()
    enqueue()
    claims = workshop.claim(10, queue_name=TRAIN_QUEUE)
    workshop.finish(*map(trained_by, claims))

    rows = workshop.select_all("SELECT version, job_id FROM model_versions ORDER BY version")
    assert [row["version"] for row in rows] == ["t1", "t2"]
    assert {str(row["job_id"]) for row in rows} == {claim.job_id for claim in claims}


def test_a_stale_runner_makes_no_version(workshop: Workshop, enqueue: Callable[..., str]) -> None:
    job_id = enqueue()
    stale = take(workshop)
    workshop.let_leases_run_out()
    assert workshop.rescue() == 1
    workshop.end_backoff()
    fresh = take(workshop)

    assert workshop.finish(trained_by(stale)) == {stale.key}
    assert workshop.select_all("SELECT version FROM model_versions") == []
    workshop.finish(trained_by(fresh))

    assert workshop.select_all("SELECT version FROM model_versions") == [{"version": "t1"}]
    assert workshop.job(job_id)["status"] == "succeeded"
    workshop.check_books()


def test_a_training_tells_how_far_it_is_for_as_long_as_it_is_held(
    workshop: Workshop, enqueue: Callable[..., str], database: Database
) -> None:
    job_id = enqueue()
    claim = take(workshop)
    for held, share in ((claim, 0.25), (claim, 0.5), (replace(claim, epoch=claim.epoch - 1), 0.75)):
        with database.writing() as session:
            queue.tell_progress(session, held, share, runner_id=new_id())

    with database.reading() as session:
        assert history.training_progress(session, [job_id, enqueue()]) == {job_id: 0.5}


@pytest.mark.parametrize("code", ["runner_crashed", TRANSIENT])
def test_what_breaks_off_is_tried_again_whole_and_given_up_with_its_reason(
    workshop: Workshop, enqueue: Callable[..., str], code: str
) -> None:
    job_id = enqueue(n_items=5)
    for _ in range(3):
        claim = take(workshop)
        assert claim.n_items == 5
        workshop.break_off(Broken(claim, code, "it went out"))
        workshop.end_backoff()

    job = workshop.job(job_id)
    assert (job["status"], job["error"], job["n_errored"]) == ("failed", "it went out", 5)
    assert workshop.events(job_id) == ["created", "started", "retried", "retried", "finished"]
    assert workshop.errors(job_id) == {}
    workshop.check_books()


def test_crashes_of_a_training_count_as_such_when_leases_run_out(
    workshop: Workshop, enqueue: Callable[..., str]
) -> None:
    job_id = enqueue()
    for _ in range(3):
        take(workshop)
        workshop.let_leases_run_out()
        assert workshop.rescue() == 1
        workshop.end_backoff()

    job = workshop.job(job_id)
    assert (job["status"], job["error"] is not None) == ("failed", True)
    assert "died or stalled" in job["error"]
    assert len(workshop.chunks(job_id)) == 1


def test_a_failed_training_may_be_retried_and_one_that_succeeded_may_not(
    workshop: Workshop, enqueue: Callable[..., str]
) -> None:
    job_id = enqueue()
    workshop.finish(Failed(take(workshop), "one label is not enough"))
    assert workshop.job(job_id)["error"] == "one label is not enough"

    workshop.retry(job_id)
    assert workshop.job(job_id)["error"] is None
    workshop.finish(trained_by(take(workshop)))

    assert workshop.job(job_id)["status"] == "succeeded"
    with pytest.raises(Conflict):
        workshop.retry(job_id)
    workshop.check_books()


def test_a_version_trained_by_a_trained_one_has_the_same_entry(
    workshop: Workshop, database: Database
) -> None:
    for number, parent in enumerate(("1", "t1"), start=1):
        workshop.enqueue(1, version=parent, kind=JobKind.TRAIN)
        (claim,) = workshop.claim(queue_name=f"train:sentiment@{parent}")
        workshop.finish(trained_by(claim))
        with database.reading() as session:
            row = trained.list_versions(session, "sentiment")[-1]
            assert (row.version, row.parent, row.entry) == (f"t{number}", parent, "1")


def test_a_removed_version_loses_its_artifact_and_its_name_never_comes_again(
    workshop: Workshop, enqueue: Callable[..., str], database: Database
) -> None:
    enqueue()
    workshop.finish(trained_by(take(workshop)))
    with database.writing() as session:
        trained.serve(session, "sentiment", "t1")
    with database.reading() as session:
        assert [row.version for row in trained.served_versions(session)] == ["t1"]

    with database.writing() as session:
        trained.remove(session, "sentiment", "t1")

    with database.reading() as session:
        assert trained.list_versions(session, "sentiment") == trained.served_versions(session) == []
    assert workshop.select_all("SELECT seq FROM artifact_parts") == []
    with pytest.raises(Gone, match="was removed"):
        list(trained.iterate_parts(database, "sentiment", "t1"))
    with database.writing() as session, pytest.raises(Gone):
        trained.serve(session, "sentiment", "t1")
    with database.writing() as session, pytest.raises(NotFound):
        trained.remove(session, "sentiment", "t7")
    enqueue()
    workshop.finish(trained_by(take(workshop)))
    with database.reading() as session:
        assert [row.version for row in trained.list_versions(session, "sentiment")] == ["t2"]


def test_a_version_that_a_job_needs_is_not_removed(workshop: Workshop, enqueue: Callable[..., str]) -> None:
    enqueue()
    workshop.finish(trained_by(take(workshop)))
    job_id = workshop.enqueue(1, version="t1")
    with workshop.database.writing() as session, pytest.raises(Conflict, match=job_id):
        trained.remove(session, "sentiment", "t1")
