"""The contract of the queue's verbs, on both databases."""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from app.db import Database
from app.errors import Conflict, NotFound
from app.jobs import control, queue
from app.jobs.claims import Failed
from app.jobs.ids import new_id
from app.tables import TERMINAL_JOB_STATES
from tests.conftest import selecting
from tests.jobs.conftest import QUEUE, Workshop, done


def test_a_job_runs_from_queued_to_succeeded(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=5, chunk_items=2)
    assert workshop.job(job_id)["status"] == "queued"

    claims = workshop.claim(limit=10)
    assert workshop.job(job_id)["status"] == "running"
    assert [(claim.first_item, claim.n_items) for claim in claims] == [(0, 2), (2, 2), (4, 1)]
    assert orjson.loads(claims[1].payload) == [{"id": 2}, {"id": 3}]

    assert workshop.finish(*(done(claim) for claim in claims)) == set()
    job = workshop.job(job_id)
    assert (job["status"], job["n_succeeded"], job["n_errored"]) == ("succeeded", 5, 0)
    assert job["started_at"] <= job["finished_at"]
    assert workshop.events(job_id) == ["created", "started", "finished"]
    workshop.check_books()


def test_item_errors_make_a_job_partial_and_are_rows(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=4, chunk_items=2)
    first, second = workshop.claim(limit=2)

    workshop.finish(done(first), done(second, 1))

    job = workshop.job(job_id)
    assert (job["status"], job["n_succeeded"], job["n_errored"]) == ("partial", 3, 1)
    errors = workshop.select_all("SELECT item_index, code, message FROM item_errors")
    assert errors == [{"item_index": 3, "code": "model_failed", "message": "no"}]
    workshop.check_books()


def test_a_job_without_one_success_has_failed(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=2, chunk_items=1)
    first, second = workshop.claim(limit=2)

    workshop.finish(done(first, 0), Failed(second, "out of memory"))

    job = workshop.job(job_id)
    assert (job["status"], job["n_errored"]) == ("failed", 2)
    assert workshop.select_all("SELECT error FROM chunks WHERE status = 'failed'") == [
        {"error": "out of memory"}
    ]
    workshop.check_books()


def test_stale_claimant_cannot_finish_a_chunk_that_another_holds(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=2, chunk_items=2)
    (stale,) = workshop.claim()
    with workshop.database.writing() as session:
        queue.release(session, [stale])
    (current,) = workshop.claim()
    assert current.epoch > stale.epoch

    assert workshop.finish(done(stale)) == {stale.key}
    assert workshop.job(job_id)["n_succeeded"] == 0
    workshop.check_books()

    assert workshop.finish(done(current)) == set()
    assert workshop.finish(done(current)) == {current.key}
    assert workshop.job(job_id)["status"] == "succeeded"
    workshop.check_books()


def test_a_lost_chunk_in_a_batch_does_not_stop_the_others(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=3)
    claims = workshop.claim(limit=3)
    with workshop.database.writing() as session:
        queue.release(session, claims[1:2])

    assert workshop.finish(*(done(claim) for claim in claims)) == {claims[1].key}

    job = workshop.job(job_id)
    assert (job["status"], job["n_succeeded"]) == ("running", 2)
    workshop.check_books()


def test_two_claimants_never_get_the_same_chunk(workshop: Workshop) -> None:
    workshop.enqueue(n_items=4)

    first, second = workshop.claim(limit=3), workshop.claim(limit=3)

    assert [claim.first_item for claim in first + second] == [0, 1, 2, 3]
    assert workshop.claim() == []


def test_release_gives_back_the_place_and_the_attempt(workshop: Workshop) -> None:
    workshop.enqueue(n_items=2)
    (claim,) = workshop.claim()
    with workshop.database.writing() as session:
        queue.release(session, [claim])

    (again,) = workshop.claim()

    assert again.first_item == claim.first_item
    assert again.epoch == claim.epoch + 2
    assert workshop.select_all("SELECT attempts FROM chunks WHERE id = :id", id=again.chunk_id) == [
        {"attempts": 1}
    ]


def test_renew_prolongs_and_names_what_is_still_held(workshop: Workshop) -> None:
    runner_id = new_id()
    workshop.enqueue(n_items=3)
    lost, kept = workshop.claim(limit=2, runner_id=runner_id)
    workshop.claim(limit=1)
    before = workshop.select_all("SELECT lease_until FROM chunks WHERE id = :id", id=kept.chunk_id)
    with workshop.database.writing() as session:
        queue.release(session, [lost])

    with workshop.database.writing() as session:
        held = queue.renew(session, runner_id=runner_id, lease_seconds=3600)

    assert held == {kept.key}
    after = workshop.select_all("SELECT lease_until FROM chunks WHERE id = :id", id=kept.chunk_id)
    assert after[0]["lease_until"] > before[0]["lease_until"]


def test_the_window_keeps_a_giant_job_from_starving_a_small_one(workshop: Workshop) -> None:
    giant = workshop.enqueue(n_items=50, window=2)
    small = workshop.enqueue(n_items=1, window=2)

    order = []
    while claims := workshop.claim():
        order.append(claims[0].job_id)
        workshop.finish(done(claims[0]))

    assert order.index(small) == 2
    assert order.count(giant) == 50
    assert workshop.job(giant)["status"] == "succeeded"
    workshop.check_books()


def test_a_window_is_refilled_as_chunks_end(workshop: Workshop) -> None:
    workshop.enqueue(n_items=10, window=3)
    queued = "SELECT count(*) AS n FROM chunks WHERE status IN ('queued', 'running')"
    assert workshop.select_all(queued) == [{"n": 3}]

    claims = workshop.claim(limit=2)
    workshop.finish(*(done(claim) for claim in claims))

    assert workshop.select_all(queued) == [{"n": 3}]


def test_a_window_grows_when_it_is_told_and_as_far_as_there_are_chunks(workshop: Workshop) -> None:
    job_id, other = workshop.enqueue(n_items=10, window=2), workshop.enqueue(n_items=10, window=2)
    canceled = workshop.enqueue(n_items=10, window=2)
    workshop.claim(limit=6)
    workshop.cancel(canceled)

    def widen(n_chunks: int) -> bool:
        with workshop.database.writing() as session:
            return queue.widen(session, [job_id, canceled], n_chunks)

    def n_in_window(job_id: str) -> int:
        return sum(chunk["status"] in {"queued", "running"} for chunk in workshop.chunks(job_id))

    assert widen(3)
    assert (n_in_window(job_id), n_in_window(other), n_in_window(canceled)) == (5, 2, 2)
    assert widen(100)
    assert n_in_window(job_id) == 10
    assert not widen(1)
    assert workshop.run_all() == list(range(2, 10))
    workshop.check_books()


def test_a_job_that_another_writes_to_is_not_widened_and_not_waited_for(postgres_url: Any) -> None:
    database = Database(postgres_url)
    workshop = Workshop(database, selecting(database))
    job_id = workshop.enqueue(n_items=4, window=1)
    with database.writing() as canceling:
        control.cancel(canceling, job_id)
        with database.writing() as session:
            assert not queue.widen(session, [job_id], 2)
    with database.writing() as session:
        assert not queue.widen(session, [job_id], 2), "it is canceled"
    database.dispose()


def test_priority_goes_first_and_ages(workshop: Workshop) -> None:
    ordinary = workshop.enqueue()
    patient = workshop.enqueue(priority=1)
    urgent = workshop.enqueue(priority=-1)
    long_waiting = workshop.enqueue(priority=1)
    with workshop.database.writing() as session:
        session.connection().exec_driver_sql(
            "UPDATE chunks SET sched_key = (SELECT min(sched_key) FROM chunks) "
            f"WHERE job_id = '{long_waiting}'"
        )

    order = [claim.job_id for claim in workshop.claim(limit=4)]

    assert order == [urgent, long_waiting, ordinary, patient]


def heads(workshop: Workshop, *queues: str) -> list[str]:
    with workshop.database.reading() as session:
        return [head.queue for head in queue.heads(session, queues)]


def test_a_job_with_run_at_waits_for_its_time(workshop: Workshop) -> None:
    now = datetime.now(UTC)
    workshop.enqueue(run_at=now + timedelta(hours=1), priority=-100)
    due = workshop.enqueue(run_at=now - timedelta(hours=1))

    assert heads(workshop, QUEUE) == [QUEUE]
    assert [claim.job_id for claim in workshop.claim(limit=5)] == [due]
    assert heads(workshop, QUEUE) == []


def test_heads_are_one_of_each_queue_that_has_something_due_oldest_first(workshop: Workshop) -> None:
    assert heads(workshop) == []
    assert heads(workshop, QUEUE, "other@1") == []
    workshop.enqueue(model="other", n_items=3, chunk_items=1)
    workshop.enqueue(model="sentiment")

    assert heads(workshop, QUEUE, "unknown@1", "other@1") == ["other@1", QUEUE]
    assert heads(workshop, QUEUE) == [QUEUE]
    assert heads(workshop, "unknown@1") == []


def test_cancel_before_the_first_claim_ends_the_job(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=5, chunk_items=2, window=1)

    workshop.cancel(job_id)

    job = workshop.job(job_id)
    assert (job["status"], job["n_canceled"]) == ("canceled", 5)
    assert workshop.claim() == []
    assert workshop.events(job_id) == ["created", "cancel_requested", "finished"]
    workshop.check_books()


def test_cancel_lets_what_runs_finish_and_keeps_it(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=4, window=1)
    (claim,) = workshop.claim()

    workshop.cancel(job_id)
    workshop.cancel(job_id)
    assert workshop.job(job_id)["status"] == "canceling"
    workshop.check_books()
    workshop.finish(done(claim))

    job = workshop.job(job_id)
    assert (job["status"], job["n_succeeded"], job["n_canceled"]) == ("canceled", 1, 3)
    assert workshop.claim() == []
    assert workshop.events(job_id) == ["created", "started", "cancel_requested", "finished"]
    workshop.check_books()


def test_cancel_that_came_too_late_to_stop_anything_leaves_the_job_succeeded(workshop: Workshop) -> None:
    job_id = workshop.enqueue()
    (claim,) = workshop.claim()

    workshop.cancel(job_id)
    workshop.finish(done(claim))

    assert workshop.job(job_id)["status"] == "succeeded"


def test_a_terminal_state_is_final(workshop: Workshop) -> None:
    job_id = workshop.enqueue()
    workshop.finish(*(done(claim) for claim in workshop.claim()))

    with pytest.raises(Conflict, match="already ended: it is succeeded"):
        workshop.cancel(job_id)
    with workshop.database.writing() as session:
        control.abandon(session, job_id, "too late")

    assert workshop.job(job_id)["status"] in TERMINAL_JOB_STATES
    assert workshop.job(job_id)["error"] is None


def test_abandon_fails_the_job_with_its_reason_and_keeps_outputs(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=3)
    first, second = workshop.claim(limit=2)
    workshop.finish(done(first))

    with workshop.database.writing() as session:
        control.abandon(session, job_id, "model sentiment 1 did not load: no weights")
        queue.finish(session, [Failed(second, "model sentiment 1 did not load: no weights")])

    job = workshop.job(job_id)
    assert (job["status"], job["error"]) == ("failed", "model sentiment 1 did not load: no weights")
    assert (job["n_succeeded"], job["n_errored"], job["n_canceled"]) == (1, 1, 1)
    assert workshop.events(job_id) == ["created", "started", "abandoned", "finished"]
    workshop.check_books()


def test_a_job_needs_a_sealed_input(workshop: Workshop) -> None:
    from app.jobs import inputs

    input_id = new_id()
    with workshop.database.writing() as session:
        inputs.begin(session, input_id, "json")

    for missing, error in ((input_id, Conflict), (new_id(), NotFound)):
        with pytest.raises(error), workshop.database.writing() as session:
            control.enqueue(session, job_id=new_id(), model="m", version="1", input_id=missing, window=1)
    assert workshop.select_all("SELECT * FROM jobs") == []


def test_remove_takes_all_of_an_ended_job_and_nothing_of_a_live_one(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=2)
    with pytest.raises(Conflict, match="cancel it"), workshop.database.writing() as session:
        control.remove(session, job_id)
    workshop.finish(*(done(claim, 0) for claim in workshop.claim(limit=2)))

    with workshop.database.writing() as session:
        control.remove(session, job_id)

    for table in ("jobs", "chunks", "outputs", "item_errors", "job_events"):
        assert workshop.select_all(f"SELECT * FROM {table}") == []


def test_a_chunk_id_is_never_given_again(workshop: Workshop) -> None:
    job_id = workshop.enqueue()
    (claim,) = workshop.claim()
    workshop.finish(done(claim))
    with workshop.database.writing() as session:
        control.remove(session, job_id)

    workshop.enqueue()

    (later,) = workshop.claim()
    assert later.chunk_id > claim.chunk_id
