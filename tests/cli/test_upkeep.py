"""`twofold upkeep` and `twofold schedules`, on both databases."""

from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from app.cache.rows import store
from app.cli.upkeep import KINDS
from app.jobs import schedules
from app.jobs.ids import new_id
from tests.cli.conftest import Twofold
from tests.jobs.conftest import Workshop, done
from tests.versions.test_trained import version_row


def test_upkeep_prunes_what_has_expired_and_says_how_much(
    twofold: Twofold, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = workshop.enqueue(n_items=2, chunk_items=1)
    workshop.finish(*map(done, workshop.claim(limit=2)))
    workshop.enqueue(expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    with workshop.database.writing() as session:
        session.connection().exec_driver_sql(
            f"UPDATE jobs SET finished_at = '2020-01-01T00:00:00.000Z' WHERE id = '{job_id}'"
        )

    nothing = dict.fromkeys(KINDS, 0)
    assert told(twofold) == nothing | {"jobs_expired": 1, "jobs_pruned": 1}
    assert len(workshop.predicted(job_id)) == 2

    monkeypatch.setenv("TWOFOLD_RETENTION_DAYS", "90")
    assert told(twofold) == nothing | {"jobs_pruned": 1}
    assert workshop.select_all("SELECT chunk_id FROM outputs") == []
    assert workshop.job(job_id)["n_succeeded"] == 2


def test_upkeep_evicts_what_the_models_file_allows_no_longer(
    twofold: Twofold, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with workshop.database.writing() as session:
        store(session, "shout", "1", {f"{number:032x}": b"{}" for number in range(5)})
    assert told(twofold)["cached_evicted"] == 0  # there is no models file

    models_file = tmp_path / "cached.toml"
    models_file.write_text(
        '[[model]]\nname = "shout"\nversion = "1"\nclass = "a:B"\ncache = true\ncache_max_items = 2\n'
    )
    monkeypatch.setenv("TWOFOLD_MODELS_FILE", str(models_file))

    assert told(twofold)["cached_evicted"] == 3
    assert len(workshop.select_all("SELECT key FROM cached_predictions")) == 2


def test_upkeep_leaves_alone_what_a_trained_version_keeps(
    twofold: Twofold, workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version_row(workshop.database)
    with workshop.database.writing() as session:
        store(session, "pupil", "t1", {f"{number:032x}": b"{}" for number in range(5)})
    models_file = tmp_path / "cached.toml"
    models_file.write_text('[[model]]\nname = "pupil"\nversion = "0"\nclass = "a:B"\ncache = true\n')
    monkeypatch.setenv("TWOFOLD_MODELS_FILE", str(models_file))

    assert told(twofold)["cached_evicted"] == 0
    assert len(workshop.select_all("SELECT key FROM cached_predictions")) == 5


def test_schedules_are_listed(twofold: Twofold, workshop: Workshop) -> None:
    made, noon = [], datetime(2099, 1, 1, 12, tzinfo=UTC)
    for _ in range(2):
        made.append(new_id())
        with workshop.database.writing() as session:
            schedules.create(
                session,
                schedule_id=made[-1],
                cron="0 18 * * *",
                time_zone="Europe/Berlin",
                model="sentiment",
                version=None,
                collection="reviews",
                now=noon,
            )
    at = datetime(2099, 1, 1, 17, tzinfo=UTC)
    with workshop.database.writing() as session:
        schedules.fire(session, made[0], at, versions={"sentiment": "1"}, window=1, now=at)
        schedules.pause(session, made[1])

    paused, fired = orjson.loads(twofold("schedules", "list", "--json").stdout)

    assert (paused["id"], paused["paused"], paused["next_fire_at"]) == (made[1], True, None)
    assert fired == {
        "id": made[0],
        "cron": "0 18 * * *",
        "time_zone": "Europe/Berlin",
        "model": "sentiment",
        "version": None,
        "collection": "reviews",
        "paused": False,
        "next_fire_at": "2099-01-02T17:00:00Z",
        "last_fire_at": "2099-01-01T17:00:00Z",
        "last_job_id": None,
    }
    header, first, _ = twofold("schedules", "list").stdout.splitlines()
    assert header.split()[:2] == ["id", "cron"]
    assert first.startswith(made[1])


def told(twofold: Twofold) -> dict[str, int]:
    result = twofold("upkeep")
    assert result.exit_code == 0
    return {name: int(count) for name, count in map(str.split, result.stdout.splitlines())}
