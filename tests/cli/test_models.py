"""`twofold models`."""

from pathlib import Path

import orjson
import pytest

from tests.cli.conftest import Twofold

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


@pytest.fixture
def models_file(bare: Path) -> Path:
    path = bare / "models.toml"
    path.write_text(DECLARED)
    return path


def test_list_tells_what_is_declared_and_loads_nothing(twofold: Twofold, models_file: Path) -> None:
    result = twofold("models", "list")

    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["name", "version", "default", "class", "artifact", "options", "concurrency"],
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
        "max_batch_size": 1024,
        "max_waiting_items": 10_000,
        "chunk_timeout_seconds": None,
        "sha256": None,
    }
    assert second["options"] == {"words": ["a", "b"]}


def test_no_models_file_is_one_line(twofold: Twofold) -> None:
    result = twofold("models", "list")
    assert (result.exit_code, result.output) == (
        2,
        "twofold: models.toml: no such file: write one or point TWOFOLD_MODELS_FILE at yours\n",
    )
