"""Schedules: when they fire, that they fire once, and what their jobs run over."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from app.data.chunks import ItemChunk, pack
from app.db import Database
from app.errors import Invalid, NotFound
from app.jobs import inputs, schedules
from app.jobs.ids import new_id
from tests.jobs.conftest import Workshop

SelectAll = Callable[..., list[dict[str, Any]]]
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
EVENING = datetime(2026, 11, 22, 18, tzinfo=UTC)


def upload(
    database: Database, *sizes: int, collection: str | None = "reviews", owner: str = "", name: str = "a"
) -> str:
    """A sealed input in chunks of these sizes, of items `{"of": name, "id": 0}` …"""
    input_id, first, chunks = new_id(), 0, []
    for size in sizes:
        items = [orjson.dumps({"of": name, "id": first + place}) for place in range(size)]
        chunks.append(ItemChunk(first, size, pack(items)))
        first += size
    with database.writing() as session:
        inputs.begin(session, input_id, "ndjson", collection=collection, owner=owner)
        inputs.fill(session, input_id, chunks, 0)
        inputs.seal(session, input_id, n_bytes=100, sha256="0" * 64)
    return input_id


def make(
    database: Database, cron: str = "0 18 * * *", zone: str = "UTC", now: datetime = NOON, owner: str = ""
) -> str:
    schedule_id = new_id()
    with database.writing() as session:
        schedules.create(
            session,
            schedule_id=schedule_id,
            cron=cron,
            time_zone=zone,
            model="sentiment",
            version=None,
            collection="reviews",
            owner=owner,
            now=now,
        )
    return schedule_id


def fire(database: Database, schedule_id: str, at: datetime, now: datetime | None = None) -> str | None:
    with database.writing() as session:
        return schedules.fire(session, schedule_id, at, versions={"sentiment": "1"}, window=16, now=now or at)


def next_fire_at(database: Database, schedule_id: str) -> datetime | None:
    with database.reading() as session:
        return schedules.get_schedule(session, schedule_id).next_fire_at


def instants(cron: str, zone: str, after: datetime, n: int) -> list[str]:
    found = []
    for _ in range(n):
        after = schedules.next_fire(cron, zone, after)
        found.append(f"{after:%m-%dT%H:%M}")
    return found


def test_an_evening_job_runs_over_all_that_was_collected(database: Database, select_all: SelectAll) -> None:
    schedule_id = make(database)
    upload(database, 3, 2, name="a")
    upload(database, 4, name="b")
    upload(database, 1, collection="other", name="c")
    upload(database, 1, collection=None, name="d")
    upload(database, 1, owner="else", name="e")

    with database.reading() as session:
        assert schedules.due(session, ["sentiment"], now=EVENING - timedelta(seconds=1)) == []
        assert schedules.due(session, ["other"], now=EVENING) == []
        assert schedules.due(session, ["sentiment"], now=EVENING) == [(schedule_id, EVENING)]
    job_id = fire(database, schedule_id, EVENING)

    (job,) = select_all("SELECT * FROM jobs")
    assert (str(job["id"]), job["n_items"], job["status"]) == (job_id, 9, "queued")
    (made,) = select_all("SELECT * FROM inputs WHERE id = :id", id=job["input_id"])
    assert (made["n_items"], made["n_chunks"], made["n_bytes"]) == (9, 3, 200)
    assert (made["status"], made["collection"], made["sha256"]) == ("sealed", None, None)
    stored = select_all(
        "SELECT seq, first_item, n_items, items FROM input_chunks WHERE input_id = :id ORDER BY seq",
        id=job["input_id"],
    )
    assert [(row["seq"], row["first_item"], row["n_items"]) for row in stored] == [
        (0, 0, 3),
        (1, 3, 2),
        (2, 5, 4),
    ]
    items = [item for row in stored for item in orjson.loads(row["items"])]
    assert [item["of"] + str(item["id"]) for item in items] == [
        *("a0", "a1", "a2", "a3", "a4"),
        *("b0", "b1", "b2", "b3"),
    ]
    events = select_all("SELECT event, detail FROM job_events ORDER BY id")
    assert [event["event"] for event in events] == ["created", "scheduled"]
    assert events[1]["detail"] == f"by schedule {schedule_id}, for 2026-11-22T18:00Z"


def test_each_input_is_taken_once_by_each_schedule(database: Database, select_all: SelectAll) -> None:
    schedule_id, other = make(database), make(database)
    upload(database, 2)
    first = fire(database, schedule_id, EVENING)
    late = upload(database, 3)  # its id is newer, but what counts is that nobody took it
    second = fire(database, schedule_id, EVENING + timedelta(days=1))
    nothing = fire(database, schedule_id, EVENING + timedelta(days=2))
    both = fire(database, other, EVENING)

    sizes = {str(row["id"]): row["n_items"] for row in select_all("SELECT id, n_items FROM jobs")}
    assert sizes == {first: 2, second: 3, both: 5}
    assert nothing is None
    with database.reading() as session:
        fires = schedules.last_fires(session, schedule_id)
    assert [(each.fire_at, each.job_id) for each in fires] == [
        (EVENING + timedelta(days=2), None),
        (EVENING + timedelta(days=1), second),
        (EVENING, first),
    ]
    taken = select_all("SELECT input_id, job_id FROM schedule_inputs WHERE schedule_id = :id", id=schedule_id)
    assert (late, second) in {(str(row["input_id"]), str(row["job_id"])) for row in taken}


def test_an_instant_fires_once(database: Database, select_all: SelectAll) -> None:
    schedule_id = make(database)
    upload(database, 1)

    assert fire(database, schedule_id, EVENING) is not None
    assert fire(database, schedule_id, EVENING) is None

    assert len(select_all("SELECT * FROM schedule_fires")) == 1
    assert next_fire_at(database, schedule_id) == EVENING + timedelta(days=1)


def test_runners_that_race_for_an_instant_make_one_job(database: Database, select_all: SelectAll) -> None:
    n_runners, n_rounds = 4, 5
    schedule_id = make(database)
    for day in range(n_rounds):
        upload(database, 1)
        start = threading.Barrier(n_runners)
        made: list[str | None] = []

        def run(at: datetime, start: threading.Barrier = start, made: list[str | None] = made) -> None:
            start.wait()
            made.append(fire(database, schedule_id, at))

        at = EVENING + timedelta(days=day)
        runners = [threading.Thread(target=run, args=[at]) for _ in range(n_runners)]
        for runner in runners:
            runner.start()
        for runner in runners:
            runner.join()
        assert len(made) == n_runners
        assert sum(job_id is not None for job_id in made) == 1

    assert [row["n_items"] for row in select_all("SELECT n_items FROM jobs")] == [1] * n_rounds
    assert len(select_all("SELECT * FROM schedule_fires")) == n_rounds


def test_what_a_downtime_missed_fires_once(database: Database, select_all: SelectAll) -> None:
    schedule_id = make(database)
    upload(database, 1)
    back = EVENING + timedelta(days=9, hours=3)

    assert fire(database, schedule_id, EVENING, now=back) is not None

    assert next_fire_at(database, schedule_id) == EVENING + timedelta(days=10)
    (only,) = select_all("SELECT * FROM schedule_fires")
    assert only["job_id"] is not None
    with database.reading() as session:
        assert schedules.due(session, ["sentiment"], now=back) == []


def test_a_paused_schedule_waits_and_then_takes_what_came_meanwhile(
    database: Database, select_all: SelectAll
) -> None:
    schedule_id = make(database)
    upload(database, 2)
    with database.writing() as session:
        schedules.pause(session, schedule_id)
    with database.reading() as session:
        assert schedules.next_due(session) is None
        assert schedules.due(session, ["sentiment"], now=EVENING) == []
    assert fire(database, schedule_id, EVENING) is None

    with database.writing() as session:
        schedules.resume(session, schedule_id, now=EVENING + timedelta(days=3))
    with database.writing() as session:  # it is not paused any more, so nothing changes
        schedules.resume(session, schedule_id, now=EVENING + timedelta(days=30))

    following = EVENING + timedelta(days=4)
    assert next_fire_at(database, schedule_id) == following
    assert fire(database, schedule_id, following) is not None
    assert [row["n_items"] for row in select_all("SELECT n_items FROM jobs")] == [2]


def test_a_removed_schedule_leaves_its_jobs(database: Database, select_all: SelectAll) -> None:
    schedule_id = make(database)
    upload(database, 2)
    job_id = fire(database, schedule_id, EVENING)

    with database.writing() as session:
        schedules.remove(session, schedule_id)

    assert [str(row["id"]) for row in select_all("SELECT id FROM jobs")] == [job_id]
    for table in ("schedules", "schedule_fires", "schedule_inputs"):
        assert select_all(f"SELECT * FROM {table}") == []
    for verb in (schedules.pause, schedules.resume, schedules.remove):
        with pytest.raises(NotFound, match=schedule_id), database.writing() as session:
            verb(session, schedule_id)


def test_what_expired_is_not_taken_and_what_is_still_uploaded_comes_later(
    database: Database, select_all: SelectAll
) -> None:
    schedule_id = make(database)
    gone, slow = upload(database, 1), new_id()
    with database.writing() as session:
        session.connection().exec_driver_sql(f"UPDATE inputs SET pruned_at = sealed_at WHERE id = '{gone}'")
        inputs.begin(session, slow, "ndjson", collection="reviews")
        inputs.fill(session, slow, [ItemChunk(0, 1, b"[{}]")], 0)
    assert fire(database, schedule_id, EVENING) is None

    with database.writing() as session:
        inputs.seal(session, slow, n_bytes=2, sha256="0" * 64)
    assert fire(database, schedule_id, EVENING + timedelta(days=1)) is not None
    assert [str(row["input_id"]) for row in select_all("SELECT input_id FROM schedule_inputs")] == [slow]


def test_what_it_gathers_expires_with_the_first_of_its_inputs(
    database: Database, select_all: SelectAll
) -> None:
    make(database)
    (schedule,) = select_all("SELECT id FROM schedules")
    for day in (9, 8, None):
        input_id = upload(database, 1)
        with database.writing() as session:
            when = f"'2026-12-0{day}T00:00:00.000Z'" if day else "NULL"
            session.connection().exec_driver_sql(
                f"UPDATE inputs SET expires_at = {when} WHERE id = '{input_id}'"
            )

    fire(database, str(schedule["id"]), EVENING)

    (job,) = select_all("SELECT input_id FROM jobs")
    (gathered,) = select_all("SELECT expires_at FROM inputs WHERE id = :id", id=job["input_id"])
    assert str(gathered["expires_at"]).startswith("2026-12-08")


def test_its_job_runs_like_any_other(workshop: Workshop) -> None:
    schedule_id = make(workshop.database)
    upload(workshop.database, 2, 1)
    job_id = fire(workshop.database, schedule_id, EVENING)
    assert job_id is not None

    claims = workshop.claim(limit=10)

    assert [claim.first_item for claim in claims] == [0, 2]
    assert [orjson.loads(claim.payload)[0]["id"] for claim in claims] == [0, 2]
    workshop.check_books()


def test_when_clocks_go_forward_the_skipped_hour_fires_right_after_it() -> None:
    eve = datetime(2026, 3, 28, 12, tzinfo=UTC)
    # Berlin: 02:00 CET becomes 03:00 CEST on 29 March, at 01:00 UTC.
    assert instants("30 2 * * *", "Europe/Berlin", eve, 3) == ["03-29T01:00", "03-30T00:30", "03-31T00:30"]
    assert instants("0 18 * * *", "Europe/Berlin", eve, 3) == ["03-28T17:00", "03-29T16:00", "03-30T16:00"]
    assert instants("0 * * * *", "Europe/Berlin", eve + timedelta(hours=12), 3) == [
        *("03-29T01:00", "03-29T02:00", "03-29T03:00")
    ]


def test_when_clocks_go_back_a_time_that_comes_twice_fires_once() -> None:
    eve = datetime(2026, 10, 24, 12, tzinfo=UTC)
    # Berlin: 03:00 CEST becomes 02:00 CET on 25 October, at 01:00 UTC.
    assert instants("30 2 * * *", "Europe/Berlin", eve, 2) == ["10-25T00:30", "10-26T01:30"]
    assert instants("0 18 * * *", "Europe/Berlin", eve, 2) == ["10-24T16:00", "10-25T17:00"]
    assert instants("*/30 * * * *", "Europe/Berlin", datetime(2026, 10, 25, 0, tzinfo=UTC), 4) == [
        *("10-25T00:30", "10-25T01:00", "10-25T01:30", "10-25T02:00")
    ]


@pytest.mark.parametrize(
    ("cron", "zone", "pointer"),
    [
        ("", "UTC", "/cron"),
        ("* * * *", "UTC", "/cron"),
        ("0 0 18 * * *", "UTC", "/cron"),
        ("@daily", "UTC", "/cron"),
        ("60 * * * *", "UTC", "/cron"),
        ("* * 30 2 *", "UTC", "/cron"),
        ("*/0 * * * *", "UTC", "/cron"),
        ("é * * * *", "UTC", "/cron"),
        ("9" * 5000 + " * * * *", "UTC", "/cron"),
        ("0 18 * * *", "", "/time_zone"),
        ("0 18 * * *", "Europe/Bonn", "/time_zone"),
        ("0 18 * * *", "../../etc/passwd", "/time_zone"),
        ("0 18 * * *", "/etc/passwd", "/time_zone"),
        ("0 18 * * *", "Europe", "/time_zone"),
        ("0 18 * * *", "UTC\0", "/time_zone"),
    ],
)
def test_what_is_no_schedule_is_refused_with_its_place(cron: str, zone: str, pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        schedules.next_fire(cron, zone, NOON)

    assert [error.pointer for error in caught.value.errors] == [pointer]
