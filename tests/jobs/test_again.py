"""A job that is retried runs what failed and nothing else, and its outputs come out whole and in order."""

import pytest

from app.errors import Conflict, Gone, NotFound
from app.jobs.claims import TRANSIENT, Broken, Failed
from app.jobs.ids import new_id
from tests.jobs.conftest import Workshop, done


def test_only_the_items_that_failed_run_again(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=10, chunk_items=5)
    assert workshop.run_all(0, 2, 3, 9) == list(range(10))
    assert workshop.job(job_id)["status"] == "partial"

    workshop.retry(job_id)
    job = workshop.job(job_id)
    assert (job["status"], job["finished_at"]) == ("queued", None)
    assert (job["n_succeeded"], job["n_errored"], job["n_canceled"]) == (6, 0, 0)
    assert workshop.errors(job_id) == {}
    workshop.check_books()
    assert workshop.run_all() == [0, 2, 3, 9]

    job = workshop.job(job_id)
    assert (job["status"], job["n_succeeded"], job["n_errored"]) == ("succeeded", 10, 0)
    assert workshop.predicted(job_id) == list(range(10))
    assert workshop.events(job_id) == ["created", "started", "finished", "reopened", "started", "finished"]
    workshop.check_books()


def test_a_job_is_retried_as_often_as_it_takes(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=8, chunk_items=8)
    failing = [0, 1, 4, 5, 6]
    workshop.run_all(*failing)
    while failing:
        still_failing = failing[1:]
        workshop.retry(job_id, window=1)
        assert workshop.run_all(*still_failing) == failing
        assert sorted(workshop.errors(job_id)) == still_failing
        assert workshop.predicted(job_id) == [index for index in range(8) if index not in still_failing]
        workshop.check_books()
        failing = still_failing

    assert workshop.job(job_id)["status"] == "succeeded"
    with pytest.raises(Conflict, match="nothing to retry"):
        workshop.retry(job_id)


def test_chunks_that_failed_or_were_canceled_run_again_as_they_were(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=6, chunk_items=2)
    first, second = workshop.claim(limit=2)
    workshop.cancel(job_id)
    workshop.finish(done(first), Failed(second, "no"))
    job = workshop.job(job_id)
    assert (job["status"], job["n_succeeded"], job["n_errored"], job["n_canceled"]) == ("canceled", 2, 2, 2)

    workshop.retry(job_id)
    workshop.check_books()
    assert workshop.finish(done(second)) == {second.key}, "the epoch of its old claim is over"
    assert workshop.run_all() == [2, 3, 4, 5]

    assert workshop.job(job_id)["status"] == "succeeded"
    assert workshop.predicted(job_id) == list(range(6))
    workshop.check_books()


def test_what_was_given_up_after_halving_runs_again_with_fresh_attempts(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=4, chunk_items=4)
    while workshop.job(job_id)["finished_at"] is None:
        for claim in workshop.claim(limit=5):
            guilty = claim.first_item <= 1 < claim.first_item + claim.n_items
            if guilty:
                workshop.break_off(Broken(claim, "timed_out", "too slow"), max_attempts=1)
            else:
                workshop.finish(done(claim))
    assert workshop.errors(job_id) == {1: "timed_out"}

    workshop.retry(job_id)
    (claim,) = workshop.claim(limit=5)

    assert (claim.first_item, claim.n_items, claim.attempts) == (1, 1, 1)
    workshop.finish(done(claim))
    assert workshop.predicted(job_id) == [0, 1, 2, 3]
    workshop.check_books()


def test_a_retry_keeps_to_the_window(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=9, chunk_items=3)
    for claim in workshop.claim(limit=3):
        workshop.break_off(Broken(claim, TRANSIENT, "away"), max_attempts=1)
    workshop.retry(job_id, window=1)

    assert [chunk["status"] for chunk in workshop.chunks(job_id)] == ["queued", "pending", "pending"]
    assert workshop.run_all() == list(range(9))


def test_the_predictions_view_is_right_over_cut_chunks(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=6, chunk_items=3)
    workshop.run_all(1, 3, 5)
    workshop.retry(job_id)
    workshop.run_all(3)

    rows = workshop.select_all(
        "SELECT item_index, item, prediction FROM predictions WHERE job_id = :id ORDER BY item_index",
        id=job_id,
    )

    assert [row["item_index"] for row in rows] == list(range(6))
    assert [row["prediction"] is None for row in rows] == [index == 3 for index in range(6)]


def test_what_cannot_be_retried_says_why(workshop: Workshop) -> None:
    with pytest.raises(NotFound):
        workshop.retry(new_id())
    job_id = workshop.enqueue()
    with pytest.raises(Conflict, match="is queued: retry it when it has ended"):
        workshop.retry(job_id)
    workshop.run_all(0)
    with workshop.database.writing() as session:
        session.connection().exec_driver_sql("UPDATE jobs SET pruned_at = '2020-01-01T00:00:00.000Z'")
    with pytest.raises(Gone, match="outputs"):
        workshop.retry(job_id)


def test_a_job_whose_input_was_pruned_is_not_retried(workshop: Workshop) -> None:
    """Its chunks could be claimed, and there would be nothing to run: it would never end."""
    job_id = workshop.enqueue()
    workshop.run_all(0)
    with workshop.database.writing() as session:
        session.connection().exec_driver_sql("UPDATE inputs SET pruned_at = '2020-01-01T00:00:00.000Z'")

    with pytest.raises(Gone, match="have expired"):
        workshop.retry(job_id)
    assert workshop.job(job_id)["status"] == "failed"
