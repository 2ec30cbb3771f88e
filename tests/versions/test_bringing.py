"""Artifacts of trained versions: whoever loads one brings it out of the database first."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import OperationalError

from app.db import Database
from app.models.declarations import read_declarations
from app.models.registry import Registry
from app.tables import ArtifactPart
from app.versions import events
from app.versions.follower import Follower
from tests.versions.test_trained import version_row
from tests.waiting import wait_until

ENTRY = '[[model]]\nname = "pupil"\nversion = "0"\nclass = "tests.models.pupils:Pupil"\n'
OTHER = '[[model]]\nname = "upper"\nversion = "1"\nclass = "tests.models.specimens:Upper"\n'


@pytest.fixture
def models_file(tmp_path: Path) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(ENTRY)
    return path


@pytest.fixture
def registry(models_file: Path, tmp_path: Path) -> Registry:
    return Registry(read_declarations(models_file), tmp_path / "cache")


@pytest.fixture
def follower(database: Database, registry: Registry, models_file: Path) -> Follower:
    """Of a process that has not looked yet; a trained version is the default."""
    version_row(database, form="folder")
    with database.writing() as session:
        session.execute(
            insert(ArtifactPart).values(model="pupil", version="t1", seq=0, content=b"no archive")
        )
        events.promote(session, "pupil", "t1")
    return Follower(database, registry, models_file)


def test_a_process_is_not_ready_while_the_artifact_of_its_default_is_brought(
    follower: Follower, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_come = threading.Event()
    monkeypatch.setattr("app.versions.follower.bring_artifact", lambda *_: has_come.wait(30))

    follower.look()

    registry.get("pupil", "0").wait_ready(30)  # it is untrained, and not "loading" any more
    served = registry.get("pupil")
    assert (served.declaration.version, served.state, registry.unready()) == ("t1", "loading", [served])
    has_come.set()
    served.wait_ready(30)


def test_a_damaged_artifact_fails_its_version_alone_and_says_why(
    follower: Follower, registry: Registry, models_file: Path, database: Database
) -> None:
    follower.look()
    damaged = registry.get("pupil", "t1")
    damaged.wait_ready(30)
    assert (damaged.state, str(damaged.reason)[:9]) == ("failed", "ReadError")

    models_file.write_text(ENTRY + OTHER)
    with database.writing() as session:
        events.tell_reload(session)
    follower.look()

    assert registry.get("upper").wait_ready(30)


def test_a_database_that_is_away_meanwhile_is_waited_for(
    follower: Follower, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_tries = 0

    def fail(*_: object) -> None:
        nonlocal n_tries
        n_tries += 1
        raise OperationalError("SELECT", {}, Exception("the server closed the connection"))

    monkeypatch.setattr("app.versions.follower.bring_artifact", fail)
    monkeypatch.setattr("app.models.lineup.FIRST_PAUSE_SECONDS", 0.01)
    follower.look()

    wait_until(lambda: n_tries > 2 and registry.get("pupil").reason, "it to be tried again")
    served = registry.get("pupil")
    assert served.state == "loading"
    assert (
        served.reason
        == "the database, which has its artifact, does not answer: the server closed the connection"
    )
    registry.replace(read_declarations(follower._models_file))
