"""`twofold models check`: what it finds wrong, and what batch size it suggests."""

import io
import sys
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result

from app.cli.check import Report, Timing
from app.cli.examples import example_items
from tests.cli.conftest import Twofold
from tests.models import specimens
from tests.models.specimens import served

MODELS = """
import itertools
from marshmallow import Schema, fields, validate


class Text:
    class Item(Schema):
        text = fields.String(required=True, validate=validate.Length(3, 12))

    class Prediction(Schema):
        size = fields.Integer(required=True)

    def predict(self, items):
        return [{"size": sum(map(ord, item["text"]))} for item in items]


class Short(Text):
    def predict(self, items):
        return super().predict(items)[:-1]


class Sorted(Text):
    def predict(self, items):
        return sorted(super().predict(items), key=lambda each: each["size"])


class Wordy(Text):
    def predict(self, items):
        return [{"size": "many"} for item in items]


class Bytes(Text):
    def predict(self, items):
        return [{"size": b"many"} for item in items]


class Neighbourly(Text):
    def predict(self, items):
        return [{"size": len(items)} for item in items]


class Moody(Text):
    numbers = itertools.count()

    def predict(self, items):
        return [{"size": next(self.numbers)} for item in items]


class Constant(Text):
    def predict(self, items):
        return [{"size": 1} for item in items]


class Scaled(Text):
    def load(self, artifact, *, by, name="n"):
        self.by, self.name = by, name

    def predict(self, items):
        return [{"size": self.by, "name": self.name + item["text"]} for item in items]


class Bare:
    def predict(self, items):
        return [{"n": len(item)} for item in items]
"""


@pytest.fixture
def check(twofold: Twofold, bare: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `twofold models check ARGS…` beside a module with the models above, measuring as little as it may."""
    (bare / "checked.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(bare))
    monkeypatch.delitem(sys.modules, "checked", raising=False)
    monkeypatch.setattr("app.cli.check.MAX_BATCH_SECONDS", 100.0)  # the machine may be busy

    def run(*args: str) -> Result:
        return twofold("models", "check", *args, "--seconds", "0")

    return run


def test_a_good_model_is_measured_on_examples_of_its_schema(check: Any) -> None:
    result = check("checked:Text")

    assert result.exit_code == 0
    assert "32 made up from its Item schema" in result.stdout
    assert "It keeps the contract: length, types, order, JSON." in result.stdout
    sizes = [line.split()[0] for line in result.stdout.splitlines() if line.strip()[:1].isdigit()]
    assert sizes == [str(2**power) for power in range(13)]
    assert "max_batch_size" in result.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Short", "predict returned 31 predictions for 32 items"),
        ("Sorted", "the predictions of a batch in reverse are not the predictions in reverse"),
        ("Wordy", "prediction 0 does not fit the Prediction schema: /size: Not a valid integer."),
        ("Bytes", "predicted what is not JSON"),
        ("Neighbourly", "an item is predicted differently alone and in a batch"),
    ],
)
def test_what_breaks_the_contract_is_told(check: Any, name: str, told: str) -> None:
    result = check(f"checked:{name}")

    assert result.exit_code == 1
    assert told in result.stdout
    assert "It keeps the contract" not in result.stdout


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Moody", "whether it keeps the order cannot be told"),
        ("Constant", "all predictions are the same, so a change of order would not be seen"),
    ],
)
def test_what_cannot_be_told_is_no_violation_but_said(check: Any, name: str, told: str) -> None:
    result = check(f"checked:{name}")

    assert result.exit_code == 0
    assert told in result.stdout


def test_a_model_that_does_not_load_says_why(check: Any) -> None:
    result = check("checked:Scaled")

    assert result.exit_code == 1
    assert (
        "does not load: load(artifact, *, by, name='n') cannot be called with the declared options"
        in result.output
    )


def test_options_are_toml_or_plain_words(check: Any) -> None:
    result = check("checked:Scaled", "--option", "by=3", "--option", "name=me", "--json")

    assert result.exit_code == 0
    assert orjson.loads(result.stdout)["n_items"] == 32


def parquet(texts: list[str]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("items.ndjson", b'{"text": "abc"}\n{"text": "a"}\n{"text": "abcd"}\n'),
        ("items.csv", b"text\nabc\na\nabcd\n"),
        ("items.json", b'{"data": [{"text": "abc"}, {"text": "a"}, {"text": "abcd"}]}'),
        ("items.parquet", parquet(["abc", "a", "abcd"])),
    ],
)
def test_items_of_a_file_that_do_not_fit_are_told_and_the_others_run(
    check: Any, bare: Path, name: str, content: bytes
) -> None:
    (bare / name).write_bytes(content)

    result = check("checked:Text", "--items", name)

    assert result.exit_code == 1
    assert "3 from the file" in result.stdout
    assert "item 1 does not fit the Item schema: /text: Length must be between 3 and 12." in result.stdout
    assert "batch size" in result.stdout


def test_a_file_of_items_whose_name_tells_no_format_is_refused(check: Any, bare: Path) -> None:
    (bare / "items.txt").write_text("abc")

    result = check("checked:Text", "--items", "items.txt")

    assert result.exit_code == 2
    assert "--items items.txt: a name that ends with .json, .ndjson, .jsonl, .csv, .parquet" in result.output


def test_without_a_schema_a_file_is_asked_for(check: Any, bare: Path) -> None:
    assert "give some with --items FILE" in check("checked:Bare").output
    (bare / "items.ndjson").write_text('{"a": 1}\n{}\n')

    assert check("checked:Bare", "--items", "items.ndjson").exit_code == 0


def test_a_declared_model_is_checked_by_name_and_version(check: Any, bare: Path) -> None:
    entry = '[[model]]\nname = "text"\nversion = "{}"\nclass = "checked:{}"\n'
    (bare / "models.toml").write_text(
        entry.format("1", "Text") + "default = true\n" + entry.format("2", "Short")
    )

    assert check("text").exit_code == 0
    assert "31 predictions for 32 items" in check("text@2").stdout
    assert "models.toml declares no text@3" in check("text@3").output
    assert "belong to a class" in check("text", "--option", "a=1").output


def test_examples_fit_the_schemas_they_are_made_of() -> None:
    for model in (
        served(specimens.Upper),
        served(specimens.Nested),
        served("app.models.sentiment:Sentiment"),
    ):
        items = example_items(model.item_json_schema, 50)

        assert len(model.validate(items)[0]) == 50
    assert example_items(None, 5) == []


def test_examples_of_a_field_are_taken_before_anything_is_made_up() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "examples": ["x", "y"]}, "b": {"example": 7}},
    }

    assert example_items(schema, 3) == [{"a": "x", "b": 7}, {"a": "y", "b": 7}, {"a": "x", "b": 7}]


@pytest.mark.parametrize(
    ("milliseconds", "size"),
    [
        ({1: 10, 2: 11, 4: 12, 8: 24}, 4),
        ({1: 10, 2: 12, 4: 14, 8: 20, 16: 80}, 8),
        ({1: 10, 2: 19, 4: 36, 8: 72}, None),
        ({}, None),
    ],
)
def test_the_smallest_size_is_suggested_that_no_other_beats_by_much(
    milliseconds: dict[int, float], size: int | None
) -> None:
    report = Report(n_items=1, timings=[Timing(each, ms / 1000) for each, ms in milliseconds.items()])

    assert report.max_batch_size == size
