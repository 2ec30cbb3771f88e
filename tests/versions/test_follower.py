"""A process follows what is told, and bears a database that is away and a file that is broken."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from sqlalchemy import make_url
from sqlalchemy.orm import Session

from app.db import Database
from app.errors import Unavailable
from app.models.declarations import read_declarations
from app.models.registry import Registry
from app.versions import events
from app.versions.follower import Follower
from tests.waiting import wait_until

ENTRY = '[[model]]\nname = "mood"\nversion = "{}"\nclass = "tests.models.specimens:Upper"\n'
BOTH = ENTRY.format(1) + "default = true\n" + ENTRY.format(2)


@pytest.fixture
def models_file(tmp_path: Path) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(BOTH)
    return path


@pytest.fixture
def registry(models_file: Path) -> Registry:
    return Registry(read_declarations(models_file))


@pytest.fixture
def follower(database: Database, registry: Registry, models_file: Path) -> Iterator[Follower]:
    """One that has to be started, or to be told to look."""
    follower = Follower(database, registry, models_file)
    yield follower
    if follower._thread.is_alive():
        follower.stop()


def promote(database: Database, version: str) -> None:
    with database.writing() as session:
        events.promote(session, "mood", version)


def test_it_begins_with_the_promotions_there_are_and_follows_more(
    database: Database, registry: Registry, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.versions.follower.FIRST_LOOK_SECONDS", 30.0)
    promote(database, "2")

    follower.start()

    assert registry.defaults() == {"mood": "2"}, "before anything was loaded"
    assert registry.get("mood", "1").wait_ready(30)
    promote(database, "1")
    wait_until(lambda: registry.defaults() == {"mood": "1"}, "the promotion to be followed")


def test_it_reads_the_file_again_when_a_reload_is_told_and_not_before(
    database: Database, registry: Registry, follower: Follower, models_file: Path
) -> None:
    follower.look()
    models_file.write_text(ENTRY.format(3) + ENTRY.format(1) + "default = true\n")

    follower.look()
    before = [str(served) for served in registry.models()]
    with database.writing() as session:
        events.tell_reload(session)
    follower.look()

    assert before == ["model mood 1", "model mood 2"]
    assert [str(served) for served in registry.models()] == ["model mood 3", "model mood 1"]


def test_a_broken_file_is_refused_in_one_line_and_what_is_served_goes_on(
    database: Database, registry: Registry, follower: Follower, models_file: Path
) -> None:
    follower.look()
    models_file.write_text(BOTH + "default = 1\n")
    with database.writing() as session:
        events.tell_reload(session)

    with structlog.testing.capture_logs() as logs:
        follower.look()
        follower.look()

    # The models load meanwhile, in threads of their own, and log it.
    [refusal] = [entry for entry in logs if entry["event"] == "models_not_reloaded"]
    assert "default is 1" in refusal["reason"]
    assert [str(served) for served in registry.models()] == ["model mood 1", "model mood 2"]


def test_an_error_that_nobody_expected_is_told_once_and_does_not_end_it(
    database: Database, registry: Registry, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.versions.follower.LOOK_SECONDS", 0.01)
    looks = [ZeroDivisionError("of a plug-in"), ZeroDivisionError("of a plug-in"), ZeroDivisionError("again")]
    latest_event = events.latest_event

    def fail_first(session: Session) -> events.Mark | None:
        if looks:
            raise looks.pop()
        return latest_event(session)

    monkeypatch.setattr("app.versions.events.latest_event", fail_first)
    promote(database, "2")

    with structlog.testing.capture_logs() as logs:
        follower.start()
        wait_until(lambda: registry.defaults() == {"mood": "2"}, "the promotion to be followed")

    told = [entry["error"] for entry in logs if entry["event"] == "models_not_followed"]
    assert told == ["ZeroDivisionError('again')", "ZeroDivisionError('of a plug-in')"]


@pytest.mark.parametrize(
    "url", ["sqlite:////nowhere/at/all.db", "postgresql+psycopg://nobody@127.0.0.1:1/none?connect_timeout=2"]
)
def test_without_a_database_the_file_is_served_at_once(
    url: str, registry: Registry, models_file: Path
) -> None:
    follower = Follower(Database(make_url(url)), registry, models_file)

    follower.start()

    assert registry.get("mood").wait_ready(30)
    assert follower._thread.is_alive(), "it goes on trying"
    follower.stop()


def test_it_looks_at_no_tables_that_are_not_ours(
    tmp_path: Path, registry: Registry, models_file: Path
) -> None:
    empty = Database(make_url(f"sqlite:///{tmp_path / 'empty.db'}"))
    follower = Follower(empty, registry, models_file)

    with pytest.raises(Unavailable, match="run 'twofold db upgrade'"):
        follower.look()
    empty.upgrade()
    promote(empty, "2")
    follower.look()

    assert registry.get("mood", "2").wait_ready(30)
    wait_until(lambda: registry.defaults() == {"mood": "2"}, "the promotion")
    empty.dispose()
