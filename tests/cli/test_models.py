"""`twofold models`."""

from pathlib import Path

import orjson
import pytest

from app.versions import events
from tests.cli.conftest import Twofold
from tests.jobs.conftest import Workshop
from tests.versions.test_trained import version_row

DECLARED = """
[[model]]
name = "slow"
version = "1"
class = "no_such_module:Slow"

[[model]]
name = "slow"
version = "2"
class = "no_such_module:Slow"
artifact = "weights.bin"
options = { words = ["a", "b"] }
default = true
concurrency = 4
"""
KINDS = "SELECT kind FROM model_events ORDER BY id"


@pytest.fixture
def models_file(bare: Path) -> Path:
    path = bare / "models.toml"
    path.write_text(DECLARED)
    return path


def test_list_tells_what_is_declared_and_loads_nothing(twofold: Twofold, models_file: Path) -> None:
    result = twofold("models", "list")

    assert result.exit_code == 0
    assert "promotions are not shown: there is no database file twofold.db" in result.stderr
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["name", "version", "default", "promoted_at", "class", "artifact", "options", "concurrency"],
        ["slow", "1", "no_such_module:Slow", "1"],
        ["slow", "2", "yes", "no_such_module:Slow", "weights.bin", '{"words":["a","b"]}', "4"],
    ]


def test_list_as_json_has_the_keys_of_the_file(twofold: Twofold, models_file: Path) -> None:
    first, second = orjson.loads(twofold("models", "list", "--json").stdout)

    assert first == {
        "name": "slow",
        "version": "1",
        "default": False,
        "class": "no_such_module:Slow",
        "artifact": None,
        "options": {},
        "concurrency": 1,
        "max_batch_size": 4096,
        "max_waiting_items": 10_000,
        "chunk_timeout_seconds": None,
        "sha256": None,
        "warmup": [],
        "preload": False,
        "cache": False,
        "cache_max_items": 1_000_000,
        "promoted_at": None,
    }
    assert second["options"] == {"words": ["a", "b"]}


def test_no_models_file_is_one_line(twofold: Twofold) -> None:
    result = twofold("models", "list")
    assert (result.exit_code, result.output) == (
        2,
        "twofold: models.toml: no such file: write one or point TWOFOLD_MODELS_FILE at yours\n",
    )


def test_list_shows_the_default_by_promotion(twofold: Twofold, models_file: Path, workshop: Workshop) -> None:
    with workshop.database.writing() as session:
        events.promote(session, "slow", "1")

    first, second = orjson.loads(twofold("models", "list", "--json").stdout)

    assert (first["default"], second["default"]) == (True, False)
    assert first["promoted_at"]
    assert second["promoted_at"] is None


def test_list_shows_trained_versions_that_are_served(
    twofold: Twofold, models_file: Path, workshop: Workshop
) -> None:
    version_row(workshop.database, model="slow", entry="1")

    listed = orjson.loads(twofold("models", "list", "--json").stdout)

    assert [model["version"] for model in listed if model["name"] == "slow"][-1] == "t1"


def test_reload_tells_every_process_and_says_where_a_promotion_holds(
    twofold: Twofold, models_file: Path, workshop: Workshop
) -> None:
    with workshop.database.writing() as session:
        events.promote(session, "slow", "1")

    result = twofold("models", "reload")

    assert result.exit_code == 0
    told, default = result.stdout.splitlines()
    assert told == "The models are being reloaded."
    assert default.startswith("The default of slow is 1 by the promotion of 20")
    assert workshop.select_all(KINDS) == [{"kind": "promoted"}, {"kind": "reloaded"}]


def test_reload_refuses_a_broken_file_in_one_line_and_tells_nobody(
    twofold: Twofold, models_file: Path, workshop: Workshop
) -> None:
    models_file.write_text(DECLARED.replace("concurrency = 4", "concurrency = 0"))

    result = twofold("models", "reload")

    assert result.exit_code == 2
    assert result.output.startswith("twofold: models.toml: [[model]] number 2 ('slow'): concurrency is 0")
    assert workshop.select_all(KINDS) == []


def test_reload_without_a_database_is_one_line(twofold: Twofold, models_file: Path) -> None:
    result = twofold("models", "reload")

    assert (result.exit_code, result.output) == (
        1,
        "twofold: there is no database file twofold.db: run 'twofold db upgrade' to make it\n",
    )
