"""The contract of the verbs that clients call: fairness between owners, ends before the end, and one job per key."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from app.errors import Invalid
from app.jobs import control
from app.jobs.ids import new_id
from tests.jobs.conftest import Workshop, done

PAST = datetime.now(UTC) - timedelta(hours=1)


def test_one_owners_many_jobs_do_not_stand_before_anothers_one(workshop: Workshop) -> None:
    input_id = workshop.upload(1)
    with workshop.database.writing() as session:
        for _ in range(60):
            control.enqueue(
                session,
                job_id=new_id(),
                model="sentiment",
                version="1",
                input_id=input_id,
                window=16,
                owner="crowd",
            )
    single = workshop.enqueue(owner="single")

    order = [claim.job_id for claim in workshop.claim(limit=61)]

    assert order.index(single) <= 20, "it passed all but those of the first seconds"
    assert len(order) == 61


def test_an_owner_with_a_backlog_is_not_starved_by_a_stream_of_small_ones(workshop: Workshop) -> None:
    for _ in range(10):
        workshop.enqueue(owner="crowd")
    with workshop.database.writing() as session:  # twenty seconds later …
        session.connection().exec_driver_sql(
            "UPDATE chunks SET sched_key = sched_key - interval '20 seconds'"
            if workshop.database.is_postgres
            else "UPDATE chunks SET sched_key = strftime('%Y-%m-%dT%H:%M:%fZ', sched_key, '-20 seconds')"
        )
    for number in range(10):
        workshop.enqueue(owner=f"small {number}")

    owners = workshop.select_all("SELECT owner FROM chunks ORDER BY sched_key, id")

    assert [row["owner"] for row in owners[:10]] == ["crowd"] * 10


def test_jobs_of_nobody_have_no_backlog(workshop: Workshop) -> None:
    jobs = [workshop.enqueue(n_items=3) for _ in range(3)]
    assert [claim.job_id for claim in workshop.claim(limit=9)] == [job for job in jobs for _ in range(3)]


def test_more_item_errors_than_allowed_end_a_job_early_with_its_outputs_kept(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=20, chunk_items=2, window=3, max_errors=2)
    first, second, third = workshop.claim(limit=3)

    workshop.finish(done(first, 0), done(second, 0))
    assert workshop.job(job_id)["status"] == "running", "two errors are allowed"
    (fourth,) = workshop.claim()
    workshop.finish(done(third, 1))

    assert workshop.claim() == []
    assert workshop.job(job_id)["status"] == "canceling"
    workshop.finish(done(fourth))
    job = workshop.job(job_id)
    assert (job["status"], job["error"]) == ("failed", "3 items failed, and max_errors is 2")
    assert (job["n_succeeded"], job["n_errored"], job["n_canceled"]) == (5, 3, 12)
    assert workshop.predicted(job_id) == [1, 3, 4, 6, 7]
    assert workshop.events(job_id) == ["created", "started", "abandoned", "finished"]
    workshop.check_books()


def test_a_job_whose_last_chunk_has_the_error_too_many_fails(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=6, chunk_items=2, max_errors=1)
    first, second, last = workshop.claim(limit=3)
    workshop.finish(done(first, 0), done(second))

    workshop.finish(done(last, 1))

    job = workshop.job(job_id)
    assert (job["status"], job["error"]) == ("failed", "2 items failed, and max_errors is 1")
    assert (job["n_succeeded"], job["n_errored"], job["n_canceled"]) == (4, 2, 0)
    assert workshop.predicted(job_id) == [1, 2, 3, 4]
    workshop.check_books()


def test_a_canceled_job_stays_canceled_whatever_fails_in_it_then(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=6, chunk_items=2, window=2, max_errors=1)
    first, second = workshop.claim(limit=2)
    workshop.cancel(job_id)

    workshop.finish(done(first, 0, 1), done(second, 0, 1))

    job = workshop.job(job_id)
    assert (job["status"], job["error"], job["n_errored"]) == ("canceled", None, 4)
    workshop.check_books()


def test_max_errors_of_zero_ends_a_job_at_its_first_error(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=5, max_errors=0)
    assert workshop.run_all(1, limit=1) == [0, 1]
    assert workshop.job(job_id)["status"] == "failed"
    workshop.check_books()


def test_a_job_whose_time_is_over_expires_and_keeps_what_it_has(workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=3, expires_at=datetime.now(UTC) + timedelta(hours=1))
    waiting = workshop.enqueue(n_items=2, expires_at=PAST)
    first, second = workshop.claim(limit=2)
    workshop.finish(done(first))
    assert workshop.expire() == 1
    assert workshop.job(waiting)["status"] == "expired"

    with workshop.database.writing() as session:
        session.connection().exec_driver_sql("UPDATE jobs SET expires_at = '2020-01-01T00:00:00.000Z'")
    assert workshop.expire() == 1
    assert workshop.expire() == 0
    assert workshop.job(job_id)["status"] == "canceling", "what runs may finish"
    workshop.finish(done(second))

    job = workshop.job(job_id)
    assert (job["status"], job["n_succeeded"], job["n_canceled"]) == ("expired", 2, 1)
    assert workshop.claim() == []
    assert workshop.events(job_id) == ["created", "started", "expired", "finished"]
    workshop.check_books()


def test_an_ended_job_does_not_expire(workshop: Workshop) -> None:
    job_id = workshop.enqueue(expires_at=PAST)
    workshop.run_all()
    assert workshop.expire() == 0
    assert workshop.job(job_id)["status"] == "succeeded"


def test_a_key_finds_the_job_it_made_and_refuses_another_request(workshop: Workshop) -> None:
    made = make_once(workshop, "key", "a" * 64)
    assert made is not None
    assert make_once(workshop, "key", "a" * 64) == made
    assert make_once(workshop, "key", "a" * 64, owner="another") != made
    with pytest.raises(Invalid, match="Idempotency-Key 'key' was used before"):
        make_once(workshop, "key", "b" * 64)


def test_a_job_id_of_the_clients_own_is_found_like_a_key(workshop: Workshop) -> None:
    job_id = new_id()
    assert make_once(workshop, None, "a" * 64, job_id=job_id) == job_id
    assert make_once(workshop, None, "a" * 64, job_id=job_id) == job_id
    with pytest.raises(Invalid, match=f"job id {job_id} was used before"):
        make_once(workshop, None, "b" * 64, job_id=job_id)
    with pytest.raises(Invalid, match="used before"):
        make_once(workshop, None, "a" * 64, job_id=job_id, owner="another")


def test_concurrent_requests_with_one_key_make_one_job(workshop: Workshop) -> None:
    start, made = threading.Barrier(6), []

    def post() -> None:
        start.wait(10)
        made.append(make_once(workshop, "key", "a" * 64))

    threads = [threading.Thread(target=post) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(made) == 6
    assert len(set(made)) == 1
    assert workshop.select_all("SELECT count(*) AS n FROM jobs") == [{"n": 1}]


def make_once(
    workshop: Workshop, key: str | None, sha256: str, *, job_id: str | None = None, owner: str = ""
) -> str:
    """What a POST or PUT of a job does; the id of the job."""
    input_id = workshop.upload(1)
    with workshop.database.writing() as session:
        found = control.find(session, request_sha256=sha256, owner=owner, key=key, job_id=job_id)
        if found is not None:
            return found
        made = job_id or new_id()
        control.enqueue(
            session,
            job_id=made,
            model="sentiment",
            version="1",
            input_id=input_id,
            window=1,
            owner=owner,
            idempotency_key=key,
            request_sha256=sha256,
        )
        return made
