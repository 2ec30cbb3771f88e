"""Retention: what goes and when, what stays, and that nobody is in its way or stands in anybody's."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

from app.config import Settings
from app.db import Database
from app.errors import Conflict, Gone
from app.jobs import control, history, inputs, retention, schedules
from app.jobs.claims import Failed
from app.jobs.ids import new_id
from app.jobs.upkeep import Upkeep, sweep, sweep_all
from app.models.registry import Registry
from app.tables import JobKind
from tests.conftest import selecting
from tests.jobs.conftest import QUEUE, Workshop, done
from tests.models.specimens import Upper, declare

SelectAll = Callable[..., list[dict[str, Any]]]
LONG_AGO = "2020-01-01T00:00:00.000Z"
PAST = datetime(2020, 1, 1, tzinfo=UTC)


def set_back(database: Database, table: str, row_id: str, *columns: str) -> None:
    """Sets times of a row long into the past."""
    assignments = ", ".join(f"{column} = '{LONG_AGO}'" for column in columns)
    with database.writing() as session:
        session.connection().exec_driver_sql(f"UPDATE {table} SET {assignments} WHERE id = '{row_id}'")


def run(workshop: Workshop, n_items: int = 4, chunk_items: int = 2, **options: Any) -> str:
    """A job that has ended, whose first item failed."""
    job_id = workshop.enqueue(n_items, chunk_items, **options)
    first, *rest = workshop.claim(limit=100)
    workshop.finish(done(first, 0), *map(done, rest))
    return job_id


def sizes(workshop: Workshop) -> dict[str, int]:
    tables = ("outputs", "item_errors", "input_chunks", "leftovers", "jobs", "inputs")
    rows = {table: workshop.select_all(f"SELECT count(*) AS n FROM {table}")[0]["n"] for table in tables}
    return {table: n_rows for table, n_rows in rows.items() if n_rows}


def test_without_a_setting_or_a_time_of_its_own_nothing_goes(workshop: Workshop) -> None:
    job_id = run(workshop)
    set_back(workshop.database, "jobs", job_id, "finished_at")
    before = sizes(workshop)

    assert not sweep_all(workshop.database, None)

    assert sizes(workshop) == before


def test_after_the_retention_time_payloads_go_and_history_stays(workshop: Workshop) -> None:
    job_id, young = run(workshop), run(workshop)
    input_id = str(workshop.job(job_id)["input_id"])
    set_back(workshop.database, "jobs", job_id, "finished_at")
    set_back(workshop.database, "inputs", input_id, "sealed_at")

    assert sweep_all(workshop.database, 30.0) == {"jobs_pruned": 1, "inputs_pruned": 1}

    assert sizes(workshop) == {"outputs": 2, "item_errors": 1, "input_chunks": 2, "jobs": 2, "inputs": 2}
    pruned, kept = workshop.job(job_id), workshop.job(young)
    assert (pruned["status"], pruned["n_succeeded"], pruned["n_errored"]) == ("partial", 3, 1)
    assert (pruned["pruned_at"] is None, kept["pruned_at"] is None) == (False, True)
    assert workshop.events(job_id) == ["created", "started", "finished", "pruned"]
    assert len(workshop.predicted(young)) == 3
    assert not sweep_all(workshop.database, 30.0)


@pytest.mark.parametrize("pruned", ["jobs", "inputs", "both"])
def test_a_job_with_the_id_of_its_input_takes_nothing_of_it_along(workshop: Workshop, pruned: str) -> None:
    shared = workshop.upload(4, 2)
    with workshop.database.writing() as session:
        control.enqueue(session, job_id=shared, model="sentiment", version="1", input_id=shared, window=9)
    first, *rest = workshop.claim(limit=100)
    workshop.finish(done(first, 0), *map(done, rest))
    if pruned != "inputs":
        set_back(workshop.database, "jobs", shared, "expires_at")
    if pruned != "jobs":
        set_back(workshop.database, "inputs", shared, "expires_at")

    sweep_all(workshop.database, None)

    kept_of_job = {
        "outputs": 2,
        "item_errors": 1,
        "input_chunks": 2,
        "leftovers": 1,
    }  # whose items are read beside
    kept = {"jobs": {"input_chunks": 2}, "inputs": kept_of_job, "both": {}}
    assert sizes(workshop) == {"jobs": 1, "inputs": 1} | kept[pruned]


def test_a_new_job_under_the_id_of_one_that_was_pruned_and_deleted_keeps_its_outputs(
    workshop: Workshop,
) -> None:
    job_id = run(workshop)
    set_back(workshop.database, "jobs", job_id, "expires_at")
    sweep(workshop.database, None)
    input_id = workshop.upload(2)
    with workshop.database.writing() as session:
        control.remove(session, job_id)
        control.enqueue(session, job_id=job_id, model="sentiment", version="1", input_id=input_id, window=9)
    workshop.finish(*map(done, workshop.claim(limit=100)))

    sweep_all(workshop.database, None)

    assert len(workshop.predicted(job_id)) == 2


def test_a_job_and_an_input_may_have_a_time_of_their_own(workshop: Workshop) -> None:
    job_id, other = run(workshop), run(workshop)
    input_id = str(workshop.job(other)["input_id"])
    set_back(workshop.database, "jobs", job_id, "expires_at")
    set_back(workshop.database, "inputs", input_id, "expires_at")

    assert sweep_all(workshop.database, None) == {"jobs_pruned": 1, "inputs_pruned": 1}

    assert workshop.job(job_id)["pruned_at"] is not None
    assert workshop.job(other)["pruned_at"] is None
    # The items of the other stay beside its outputs, which are read with them.
    kept = {"outputs": 2, "item_errors": 1, "input_chunks": 4, "leftovers": 1, "jobs": 2, "inputs": 2}
    assert sizes(workshop) == kept


def test_what_a_job_still_needs_stays_until_it_has_ended(workshop: Workshop) -> None:
    job_id = workshop.enqueue(2)
    input_id = str(workshop.job(job_id)["input_id"])
    set_back(workshop.database, "inputs", input_id, "expires_at", "sealed_at")

    assert not sweep_all(workshop.database, 1.0)
    workshop.finish(*map(done, workshop.claim(limit=2)))
    assert sweep_all(workshop.database, 1.0) == {"inputs_pruned": 1}

    assert sizes(workshop) == {"outputs": 2, "input_chunks": 2, "leftovers": 1, "jobs": 1, "inputs": 1}
    workshop.check_books()


def test_the_items_of_an_input_go_with_the_last_outputs_that_are_read_beside_them(workshop: Workshop) -> None:
    first = run(workshop)
    input_id = str(workshop.job(first)["input_id"])
    second = new_id()
    with workshop.database.writing() as session:
        control.enqueue(session, job_id=second, model="sentiment", version="1", input_id=input_id, window=9)
    workshop.run_all()
    set_back(workshop.database, "inputs", input_id, "expires_at")
    set_back(workshop.database, "jobs", first, "expires_at")
    assert sweep_all(workshop.database, None) == {"inputs_pruned": 1, "jobs_pruned": 1}

    assert workshop.answers(second) == [{"id": place, "ok": True} for place in range(4)]
    assert sizes(workshop) == {"outputs": 2, "input_chunks": 2, "leftovers": 1, "jobs": 2, "inputs": 1}
    free = workshop.upload(3)
    set_back(workshop.database, "inputs", free, "expires_at")
    sweep_all(workshop.database, None)
    assert sizes(workshop)["input_chunks"] == 2, "what has to stay is in nobody's way"

    registry = Registry([declare(Upper, name="sentiment")])
    upkeep = Upkeep(workshop.database, registry, Settings(database_url=workshop.database.url), new_id())
    while upkeep.tend() == 0.0:
        pass
    with workshop.database.writing() as session:
        control.remove(session, second)
    upkeep._sweep_at = 0.0
    while upkeep.tend() == 0.0:
        pass
    assert sizes(workshop) == {"jobs": 1, "inputs": 2}


@pytest.mark.parametrize("end", ["canceled", "failed", "trained"])
def test_the_items_of_an_input_go_where_there_are_no_predictions(workshop: Workshop, end: str) -> None:
    job_id = workshop.enqueue(n_items=2, kind=JobKind.TRAIN if end == "trained" else JobKind.PREDICT)
    if end == "canceled":
        workshop.cancel(job_id)
    elif end == "failed":
        workshop.finish(*(done(claim, 0) for claim in workshop.claim(limit=2)))
    else:
        (claim,) = workshop.claim(queue_name=f"train:{QUEUE}")
        workshop.finish(Failed(claim, "no luck"))
    set_back(workshop.database, "inputs", str(workshop.job(job_id)["input_id"]), "expires_at")

    assert sweep_all(workshop.database, None) == {"inputs_pruned": 1}

    assert "input_chunks" not in sizes(workshop)
    if end == "failed":
        assert workshop.answers(job_id) == [None, None]


def test_inputs_that_must_stay_do_not_stand_before_those_that_go(workshop: Workshop) -> None:
    for _ in range(3):
        set_back(workshop.database, "inputs", str(workshop.job(workshop.enqueue())["input_id"]), "expires_at")
    free = workshop.upload(1)
    set_back(workshop.database, "inputs", free, "expires_at")

    with workshop.database.writing() as session:
        assert retention.prune_inputs(session, retention_days=None, limit=1) == 1

    (pruned,) = workshop.select_all("SELECT id FROM inputs WHERE pruned_at IS NOT NULL")
    assert str(pruned["id"]) == free


def test_an_overdue_job_is_stopped_and_then_pruned(workshop: Workshop) -> None:
    job_id = workshop.enqueue(3, window=1, expires_at=PAST)
    (claim,) = workshop.claim()

    assert sweep(workshop.database, None) == {"jobs_expired": 1}
    assert workshop.job(job_id)["status"] == "canceling"
    workshop.finish(done(claim))
    assert workshop.job(job_id)["status"] == "expired"
    assert sweep_all(workshop.database, None) == {"jobs_pruned": 1}

    assert workshop.job(job_id)["n_succeeded"] == 1
    assert sizes(workshop) == {"input_chunks": 3, "jobs": 1, "inputs": 1}


def test_pruned_means_gone_for_jobs_outputs_and_retries(workshop: Workshop) -> None:
    job_id, other = run(workshop), run(workshop)
    input_id = str(workshop.job(other)["input_id"])
    set_back(workshop.database, "jobs", job_id, "expires_at")
    set_back(workshop.database, "inputs", input_id, "expires_at")
    sweep(workshop.database, None)  # marked only: not a row is deleted yet

    with workshop.database.reading() as session, pytest.raises(Gone, match=job_id):
        history.require_kept(history.get_job(session, job_id))
    with pytest.raises(Gone, match=job_id):
        workshop.retry(job_id)
    with pytest.raises(Gone, match=input_id):
        workshop.retry(other)
    assert workshop.job(other)["status"] == "partial"
    with workshop.database.writing() as session, pytest.raises(Gone, match=input_id):
        control.enqueue(session, job_id=new_id(), model="sentiment", version="1", input_id=input_id, window=1)


def test_a_download_that_is_overtaken_breaks_off(workshop: Workshop) -> None:
    job_id = run(workshop, n_items=20, chunk_items=1)
    set_back(workshop.database, "jobs", job_id, "expires_at")
    outputs = history.iterate_outputs(workshop.database, job_id)
    read = [next(outputs) for _ in range(history.CHUNKS_PER_READ)]

    sweep_all(workshop.database, None)

    assert len(read) == history.CHUNKS_PER_READ
    with pytest.raises(Gone, match="while this was read"):
        next(outputs)


def test_a_download_beside_a_retry_gives_no_item_twice(workshop: Workshop) -> None:
    job_id = workshop.enqueue(24, 4)
    claims = workshop.claim(limit=6)
    workshop.finish(*(done(claim, 1) for claim in claims))
    outputs = history.iterate_outputs(workshop.database, job_id)
    read = [next(outputs)]

    workshop.retry(job_id)  # cuts each output into those before and after the item that failed
    read += outputs

    assert sum(payload.count(b"ok") for payload, _ in read) == 18


def test_payloads_go_a_few_at_a_time(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PAYLOADS_AT_ONCE", 2)
    job_id = run(workshop, n_items=5, chunk_items=1)
    set_back(workshop.database, "jobs", job_id, "expires_at")
    sweep(workshop.database, None)

    left = []
    is_clearing = True
    while is_clearing:
        with workshop.database.writing() as session:
            is_clearing = retention.clear(session)
        left.append((sizes(workshop).get("outputs", 0), sizes(workshop).get("leftovers", 0)))

    assert left == [(3, 1), (1, 1), (0, 1), (0, 0), (0, 0)]


def test_an_upload_that_nobody_finishes_goes_after_a_day(workshop: Workshop) -> None:
    abandoned, fresh = new_id(), new_id()
    with workshop.database.writing() as session:
        for input_id in (abandoned, fresh):
            inputs.begin(session, input_id, "ndjson")
    set_back(workshop.database, "inputs", abandoned, "created_at")

    assert sweep(workshop.database, None) == {"uploads_dropped": 1}
    with workshop.database.writing() as session, pytest.raises(Conflict, match="upload it again"):
        inputs.seal(session, abandoned, n_bytes=0, sha256="0" * 64)
    sweep_all(workshop.database, None)

    assert [str(row["id"]) for row in workshop.select_all("SELECT id FROM inputs")] == [fresh]


def test_rows_that_others_hold_are_left_for_later(postgres_url: Any) -> None:
    database = Database(postgres_url)
    workshop = Workshop(database, selecting(database))
    input_id = workshop.upload(1)
    set_back(database, "inputs", input_id, "expires_at")
    with ExitStack() as stack:
        enqueuing = stack.enter_context(database.writing())
        control.enqueue(
            enqueuing, job_id=new_id(), model="sentiment", version="1", input_id=input_id, window=1
        )
        assert not sweep(database, None)
    assert not sweep(database, None)  # and now it has a job
    database.dispose()


def test_a_runner_does_it_a_batch_at_a_time_and_fires_what_is_due(
    workshop: Workshop, select_all: SelectAll
) -> None:
    database = workshop.database
    job_id = run(workshop)
    set_back(database, "jobs", job_id, "finished_at")
    schedule_id = new_id()
    with database.writing() as session:
        schedules.create(
            session,
            schedule_id=schedule_id,
            cron="0 18 29 2 *",  # which does not come meanwhile
            time_zone="UTC",
            model="sentiment",
            version="1",
            collection="reviews",
        )
    registry = Registry([declare(Upper, name="sentiment")])
    upkeep = Upkeep(database, registry, Settings(database_url=database.url, retention_days=1), new_id())
    set_back(database, "schedules", schedule_id, "next_fire_at")

    n_ticks = 0
    until = time.monotonic() + 30
    while upkeep.tend() == 0.0 and time.monotonic() < until:
        n_ticks += 1

    assert n_ticks > 1
    assert sizes(workshop) == {"input_chunks": 2, "jobs": 1, "inputs": 1}
    (fired,) = select_all("SELECT * FROM schedule_fires")
    assert fired["job_id"] is None
    with database.reading() as session:
        following = schedules.get_schedule(session, schedule_id).next_fire_at
    assert following is not None
    assert following > datetime.now(UTC)
