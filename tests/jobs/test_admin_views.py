"""The views that tell an admin what is stuck, what waits and who works."""

import pytest

from app.jobs import presence
from app.jobs.ids import new_id
from tests.jobs.conftest import Workshop, done


def test_stuck_chunks_are_those_of_dead_runners_and_those_that_nobody_takes(workshop: Workshop) -> None:
    runner_id = new_id()
    with workshop.database.writing() as session:
        presence.register(session, runner_id, threads=1)
    job_id = workshop.enqueue(n_items=3)
    first, second = workshop.claim(limit=2, runner_id=runner_id)
    assert workshop.select_all("SELECT * FROM stuck_chunks") == []

    workshop.let_leases_run_out(first)
    workshop.end_backoff()
    leased, queued = workshop.select_all("SELECT * FROM stuck_chunks ORDER BY first_item")

    assert (leased["chunk_id"], str(leased["job_id"]), leased["status"]) == (
        first.chunk_id,
        job_id,
        "running",
    )
    assert (leased["pid"] is not None, queued["pid"]) == (True, None)
    assert "lease ran out" in leased["reason"]
    assert (queued["first_item"], queued["status"]) == (2, "queued")
    assert "busy" in queued["reason"]
    assert min(leased["stuck_seconds"], queued["stuck_seconds"]) > 86_400
    with workshop.database.writing() as session:
        presence.leave(session, runner_id)
    (queued,) = workshop.select_all("SELECT * FROM stuck_chunks WHERE status = 'queued'")
    assert "no runner lives" in queued["reason"]
    workshop.finish(done(second))


def test_queue_age_counts_from_the_oldest_that_is_due(workshop: Workshop) -> None:
    workshop.enqueue(n_items=6, chunk_items=2)
    workshop.end_backoff()
    workshop.enqueue(n_items=1, model="other", run_at=None)
    with workshop.database.writing() as session:
        session.connection().exec_driver_sql(
            "UPDATE chunks SET ready_at = '2099-01-01T00:00:00.000Z' WHERE queue = 'other@1'"
        )

    other, sentiment = workshop.select_all("SELECT * FROM queue_age ORDER BY queue")

    assert (sentiment["queue"], sentiment["queued_chunks"], sentiment["queued_items"]) == (
        "sentiment@1",
        3,
        6,
    )
    assert str(sentiment["oldest_due_at"]).startswith("2020-01-01")
    assert sentiment["age_seconds"] > 86_400
    assert (other["queued_chunks"], other["oldest_due_at"], other["age_seconds"]) == (1, None, 0)


def test_runner_throughput_counts_what_each_ended(workshop: Workshop) -> None:
    busy, idle = new_id(), new_id()
    with workshop.database.writing() as session:
        for runner_id in (busy, idle):
            presence.register(session, runner_id, threads=3)
    workshop.enqueue(n_items=10, chunk_items=5)
    workshop.finish(*map(done, workshop.claim(limit=2, runner_id=busy)))
    with workshop.database.writing() as session:
        session.connection().exec_driver_sql(
            "UPDATE chunks SET started_at = '2020-01-01T00:00:00.000Z', finished_at = '2020-01-01T00:00:04.000Z'"
        )

    rows = workshop.select_all("SELECT * FROM runner_throughput ORDER BY items")

    assert [(str(row["runner_id"]), row["chunks"], row["items"]) for row in rows] == [
        (idle, 0, 0),
        (busy, 2, 10),
    ]
    assert rows[0]["items_per_second"] is None
    assert float(rows[1]["items_per_second"]) == pytest.approx(2.5, rel=1e-3)
    assert (rows[1]["threads"], rows[1]["stopped_at"], rows[1]["trouble"]) == (3, None, None)
    assert rows[1]["seen_at"] is not None
