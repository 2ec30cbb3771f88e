"""The history of reloads and promotions, on both databases."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from app.db import Database
from app.errors import ConfigurationError
from app.models.declarations import Declaration
from app.versions import events
from app.versions.serving import promoted, served_declarations
from tests.models.specimens import Upper, declare

DECLARED = """
[[model]]
name = "mood"
version = "1"
class = "m:C"
default = true

[[model]]
name = "mood"
version = "2"
class = "m:C"
"""


@pytest.fixture
def models_file(tmp_path: Path) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(DECLARED)
    return path


def tell(database: Database, *versions: str) -> None:
    """Promotes versions of `mood`, one after another."""
    for version in versions:
        with database.writing() as session:
            events.promote(session, "mood", version)


def defaults(declared: tuple[Declaration, ...]) -> list[str]:
    return [f"{each.name}@{each.version}" for each in declared if each.default]


def test_each_event_moves_the_mark(database: Database) -> None:
    marks = []
    for _ in range(2):
        with database.writing() as session:
            marks.append(events.latest_event(session))
            events.tell_reload(session)
            marks.append(events.latest_event(session))
    tell(database, "2")
    with database.reading() as session:
        marks.append(events.latest_event(session))
        marks.append(events.latest_event(session))

    assert [mark.n_events for mark in marks] == [0, 1, 1, 2, 3, 3]
    assert len(set(marks)) == 4


def test_an_event_that_is_committed_after_a_later_one_is_seen(postgres_url: Any) -> None:
    database = Database(postgres_url)
    with database.writing() as slow:
        events.promote(slow, "mood", "1")
        tell(database, "2")
        with database.reading() as session:
            before = events.latest_event(session)
    with database.reading() as session:
        after = events.latest_event(session)
    database.dispose()

    assert after.newest_id == before.newest_id
    assert after != before


def test_the_last_promotion_of_a_name_is_its_default_and_reloads_keep_it(
    database: Database, models_file: Path
) -> None:
    with database.reading() as session:
        assert defaults(served_declarations(session, models_file)) == ["mood@1"]
    tell(database, "1", "2")
    with database.writing() as session:
        events.tell_reload(session)

    with database.reading() as session:
        assert defaults(served_declarations(session, models_file)) == ["mood@2"]
    tell(database, "1")
    with database.reading() as session:
        assert defaults(served_declarations(session, models_file)) == ["mood@1"]


def test_a_promoted_version_that_is_not_declared_leaves_the_default_to_the_file() -> None:
    one, two = declare(Upper, version="1"), declare(Upper, version="2", default=False)
    gone = {"specimen": events.Promotion("3", at=None)}  # type: ignore[arg-type]  # no matter when

    assert promoted([one, two], gone) == (one, two)
    assert defaults(promoted([one, two], gone)) == ["specimen@1"]


def test_a_broken_file_is_refused_in_one_line(database: Database, models_file: Path) -> None:
    models_file.write_text(DECLARED + "default = true\n")

    with database.reading() as session, pytest.raises(ConfigurationError, match="keep it on one"):
        served_declarations(session, models_file)


def test_the_history_reads_as_it_happened(
    database: Database, select_all: Callable[..., list[dict[str, Any]]]
) -> None:
    tell(database, "2")
    with database.writing() as session:
        events.tell_reload(session)

    rows = select_all("SELECT id, kind, model, version, at FROM model_events ORDER BY id")

    assert [(row["id"], row["kind"], row["model"], row["version"]) for row in rows] == [
        (1, "promoted", "mood", "2"),
        (2, "reloaded", None, None),
    ]
    assert rows[0]["at"] <= rows[1]["at"]


@pytest.mark.parametrize(
    "values", ["'reloaded', 'mood', '1'", "'promoted', 'mood', NULL", "'hidden', NULL, NULL"]
)
def test_the_database_refuses_an_event_that_says_nothing(database: Database, values: str) -> None:
    with pytest.raises(IntegrityError), database.writing() as session:
        session.execute(
            text(
                f"INSERT INTO model_events (kind, model, version, at) VALUES ({values}, '2026-01-01T00:00:00.000Z')"
            )
        )
