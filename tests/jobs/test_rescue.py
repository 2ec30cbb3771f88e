"""Runs that broke off are rescued, tried again, halved and given up, on both databases; and whose run it was can
write nothing any more."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.jobs import presence, rescue
from app.jobs.claims import TRANSIENT, Broken, Claim, Done, Failed
from app.jobs.ids import new_id
from app.jobs.queue import claims_of
from tests.jobs.conftest import Workshop, done


def moment(value: Any) -> datetime:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def crash(claim: Claim) -> Broken:
    return Broken(claim, "runner_crashed", "it died")


def register(workshop: Workshop) -> tuple[str, str]:
    """A runner, and its name."""
    runner_id = new_id()
    with workshop.database.writing() as session:
        presence.register(session, runner_id, 8)
        (name,) = presence.names(session, [runner_id]).values()
    return runner_id, name


def test_a_chunk_is_rescued_once_its_lease_has_run_out_and_not_before(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.jobs.retry.BACKOFF_SECONDS", 60.0)
    job_id = workshop.enqueue()
    (claim,) = workshop.claim()
    assert workshop.rescue() == 0

    workshop.let_leases_run_out()
    assert workshop.rescue() == 1
    assert workshop.rescue() == 0

    (chunk,) = workshop.chunks(job_id)
    assert (chunk["status"], chunk["attempts"]) == ("queued", 1)
    assert chunk["epoch"] > claim.epoch
    assert moment(chunk["ready_at"]) > datetime.now(UTC), "it waits for its backoff"
    assert workshop.claim() == []
    workshop.end_backoff()
    (again,) = workshop.claim()
    assert again.attempts == 2
    workshop.finish(done(again))
    assert workshop.job(job_id)["status"] == "succeeded"
    workshop.check_books()


def test_a_rescue_tells_both_runners_names(workshop: Workshop) -> None:
    (loser, loser_name), (rescuer, _) = register(workshop), register(workshop)
    job_id = workshop.enqueue(n_items=4, chunk_items=2)
    workshop.claim(limit=2, runner_id=loser)
    workshop.let_leases_run_out()

    workshop.rescue(runner_id=rescuer)

    events = workshop.select_all(
        "SELECT event, first_item, runner_id, detail FROM job_events WHERE job_id = :id ORDER BY id",
        id=job_id,
    )
    rescued = [event for event in events if event["event"] == "rescued"]
    assert [event["first_item"] for event in rescued] == [0, 2]
    assert {str(event["runner_id"]) for event in rescued} == {rescuer}
    assert {event["detail"] for event in rescued} == {f"from {loser_name}, whose lease ran out"}
    retried = [event["detail"] for event in events if event["event"] == "retried"]
    assert retried == [f"failure 1 of 3: runner {loser_name} died or stalled while it ran this"] * 2


def test_a_stale_runner_can_write_nothing_after_a_rescue(workshop: Workshop) -> None:
    runner_id = new_id()
    job_id = workshop.enqueue(n_items=4, chunk_items=4)
    (stale,) = workshop.claim(runner_id=runner_id)
    workshop.let_leases_run_out()
    workshop.rescue()
    job, chunks, events = workshop.job(job_id), workshop.chunks(job_id), workshop.events(job_id)

    assert workshop.finish(done(stale)) == {stale.key}
    assert workshop.finish(Failed(stale, "no")) == {stale.key}
    assert workshop.renew(runner_id) == set()
    workshop.release(stale)
    for max_attempts in (1, 3):
        workshop.break_off(
            crash(stale), Broken(stale, TRANSIENT, "the network was away"), max_attempts=max_attempts
        )

    assert (workshop.job(job_id), workshop.chunks(job_id)) == (job, chunks)
    assert workshop.events(job_id) == events
    assert workshop.errors(job_id) == {}
    workshop.check_books()


def test_a_stale_runner_can_write_nothing_while_another_runs_its_chunk(workshop: Workshop) -> None:
    runner_id, other = new_id(), new_id()
    job_id = workshop.enqueue(n_items=2, chunk_items=2)
    (stale,) = workshop.claim(runner_id=runner_id)
    workshop.let_leases_run_out()
    workshop.rescue()
    workshop.end_backoff()
    (current,) = workshop.claim(runner_id=other)

    assert workshop.finish(done(stale, 0)) == {stale.key}
    workshop.release(stale)
    workshop.break_off(crash(stale), max_attempts=1)
    assert workshop.renew(runner_id) == set()
    assert workshop.renew(other) == {current.key}

    assert workshop.finish(done(current)) == set()
    assert workshop.job(job_id)["n_succeeded"] == 2
    workshop.check_books()


def test_a_runner_that_was_only_slow_may_finish_until_it_is_rescued(workshop: Workshop) -> None:
    job_id = workshop.enqueue()
    (claim,) = workshop.claim()
    workshop.let_leases_run_out()

    assert workshop.finish(done(claim)) == set()
    assert workshop.rescue() == 0
    assert workshop.job(job_id)["status"] == "succeeded"


def test_what_has_ended_cannot_be_given_back_or_broken_off(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=2, chunk_items=2)
    (claim,) = workshop.claim()
    workshop.finish(done(claim))
    ended = workshop.job(job_id), workshop.chunks(job_id), workshop.events(job_id)

    workshop.release(claim)
    for max_attempts in (1, 3):
        workshop.break_off(crash(claim), max_attempts=max_attempts)

    assert (workshop.job(job_id), workshop.chunks(job_id), workshop.events(job_id)) == ended


def test_a_rescue_that_is_interrupted_is_taken_up_by_the_next(workshop: Workshop) -> None:
    workshop.enqueue()
    workshop.claim()
    workshop.let_leases_run_out()
    with workshop.database.writing() as session:
        assert rescue.rescue(session, runner_id=new_id(), max_attempts=3, lease_seconds=60) == 1
        session.rollback()  # as when its process dies before the commit

    assert workshop.rescue() == 1


def test_renew_leaves_out_what_hangs_so_that_it_is_rescued(workshop: Workshop) -> None:
    runner_id = new_id()
    workshop.enqueue(n_items=2)
    hung, sound = workshop.claim(limit=2, runner_id=runner_id)
    workshop.let_leases_run_out()

    assert workshop.renew(runner_id, hung=[hung.chunk_id]) == {sound.key}

    assert workshop.rescue() == 1
    assert workshop.finish(done(hung), done(sound)) == {hung.key}


def test_a_transient_failure_backs_off_exponentially_and_then_fails_its_chunk(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=4, chunk_items=2)
    (other,) = workshop.claim()
    waits: list[tuple[float, float]] = []
    for attempt in (1, 2, 3):
        (claim,) = workshop.claim()
        assert claim.attempts == attempt
        before = datetime.now(UTC)
        workshop.break_off(Broken(claim, TRANSIENT, "the feature store is away"))
        after, ready_at = datetime.now(UTC), moment(workshop.chunks(job_id)[1]["ready_at"])
        waits.append(((ready_at - after).total_seconds(), (ready_at - before).total_seconds()))
        workshop.end_backoff()

    for half, (at_least, at_most) in zip((0.5, 1.0), waits, strict=False):
        assert at_most > half - 0.05
        assert at_least < 2 * half + 0.05
    _first, second = workshop.chunks(job_id)
    assert (second["status"], second["error"]) == ("failed", "the feature store is away")
    workshop.finish(done(other))
    job = workshop.job(job_id)
    assert (job["status"], job["n_succeeded"], job["n_errored"]) == ("partial", 2, 2)
    assert workshop.errors(job_id) == {}, "no item of it is to blame"
    assert workshop.events(job_id) == ["created", "started", "retried", "retried", "finished"]
    workshop.check_books()


@pytest.mark.parametrize("guilty", [0, 4, 6])
@pytest.mark.parametrize("code", ["runner_crashed", "timed_out"])
def test_a_chunk_that_kills_its_runner_is_halved_down_to_the_guilty_item(
    workshop: Workshop, guilty: int, code: str
) -> None:
    job_id = workshop.enqueue(n_items=7, chunk_items=7)
    n_attempts = 0
    while workshop.job(job_id)["finished_at"] is None:
        workshop.end_backoff()
        for claim in workshop.claim(limit=10):
            items = range(claim.first_item, claim.first_item + claim.n_items)
            assert claim.payload == b"[" + b",\n".join(b'{"id":%d}' % index for index in items) + b"]"
            if guilty in items:
                n_attempts += 1
                workshop.break_off(Broken(claim, code, "exit code -11"))
            else:
                workshop.finish(done(claim))
        workshop.check_books()

    job = workshop.job(job_id)
    assert (job["status"], job["n_succeeded"], job["n_errored"]) == ("partial", 6, 1)
    assert workshop.errors(job_id) == {guilty: code}
    assert workshop.predicted(job_id) == [index for index in range(7) if index != guilty]
    assert n_attempts <= 3 + 2 + 2, "three times the whole, each half once, and the item alone twice"
    assert "split" in workshop.events(job_id)
    rows = workshop.select_all(
        "SELECT item_index, prediction IS NOT NULL AS has_one FROM predictions WHERE job_id = :id ORDER BY 1",
        id=job_id,
    )
    assert [(row["item_index"], bool(row["has_one"])) for row in rows] == [
        (index, index != guilty) for index in range(7)
    ]


def test_a_guilty_item_that_is_in_an_object_leaves_the_outputs_readable(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=2)
    with workshop.database.writing() as session:
        session.connection().exec_driver_sql(
            "UPDATE input_chunks"
            " SET items = NULL, url = 'file:///x', byte_offset = 0, n_bytes = 9, sha256 = 'any'"
        )
    guilty, sound = workshop.claim(limit=2)

    workshop.break_off(crash(guilty), max_attempts=1)
    workshop.finish(Done(sound, b'[{"id":1,"ok":true}]', ["id", "ok"], is_whole=True))

    assert workshop.job(job_id)["status"] == "partial"
    assert workshop.answers(job_id) == [None, {"id": 1, "ok": True}]


def test_halves_keep_their_place_in_the_queue_and_another_epoch(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=5, chunk_items=5)
    workshop.enqueue(n_items=1)
    (claim,) = workshop.claim()
    workshop.break_off(crash(claim), max_attempts=1)

    halves = workshop.chunks(job_id)
    assert [(half["first_item"], half["n_items"], half["attempts"]) for half in halves] == [
        (0, 2, 0),
        (2, 3, 0),
    ]
    claims = workshop.claim(limit=3)
    assert [each.job_id for each in claims[:2]] == [job_id, job_id], "they waited longer than the other job"
    assert workshop.finish(done(claim)) == {claim.key}
    workshop.check_books()


def test_a_rescue_at_the_last_attempt_halves_and_gives_up_like_any_crash(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=2, chunk_items=2)
    while workshop.job(job_id)["finished_at"] is None:
        workshop.end_backoff()
        assert workshop.claim(limit=5)
        workshop.let_leases_run_out()
        assert workshop.rescue(max_attempts=2)

    assert workshop.job(job_id)["status"] == "failed"
    assert workshop.errors(job_id) == {0: "runner_crashed", 1: "runner_crashed"}
    workshop.check_books()


def test_a_chunk_that_comes_back_to_a_canceled_job_is_not_run_again(workshop: Workshop) -> None:
    jobs = [workshop.enqueue(n_items=2, chunk_items=2) for _ in range(3)]
    released, broken, lapsed = workshop.claim(limit=3)
    for job_id in jobs:
        workshop.cancel(job_id)
        assert workshop.job(job_id)["status"] == "canceling"

    workshop.release(released)
    workshop.break_off(crash(broken))
    workshop.let_leases_run_out(lapsed)
    workshop.rescue()

    for job_id in jobs:
        job = workshop.job(job_id)
        assert (job["status"], job["n_canceled"]) == ("canceled", 2)
        assert workshop.events(job_id)[-1] == "finished"
    workshop.end_backoff()
    assert workshop.claim() == []
    workshop.check_books()


def test_the_halves_of_a_canceled_jobs_chunk_are_canceled_both(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=3, chunk_items=3)
    (claim,) = workshop.claim()
    workshop.cancel(job_id)

    workshop.break_off(crash(claim), max_attempts=1)

    job = workshop.job(job_id)
    assert (job["status"], job["n_canceled"]) == ("canceled", 3)
    workshop.check_books()


def test_a_giant_rescue_takes_a_hundred_at_a_time_oldest_lease_first(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=105)
    workshop.claim(limit=105)
    workshop.let_leases_run_out()

    assert [workshop.rescue() for _ in range(3)] == [100, 5, 0]
    assert workshop.events(job_id).count("rescued") == 105


def test_ready_at_of_a_retry_is_at_most_a_minute_and_a_bit_away(workshop: Workshop) -> None:
    job_id = workshop.enqueue()
    for _ in range(9):
        (claim,) = workshop.claim()
        workshop.break_off(crash(claim), max_attempts=10)
        (chunk,) = workshop.chunks(job_id)
        assert moment(chunk["ready_at"]) < datetime.now(UTC) + timedelta(seconds=61)
        workshop.end_backoff()
    with workshop.database.reading() as session:
        (last,) = claims_of(session, [claim.chunk_id])
    assert last.attempts == 9
