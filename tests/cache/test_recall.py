"""Keys: one for all items that a model cannot tell apart, and for no others."""

from typing import Any

import pytest

from app.cache.recall import Recall, keys_of
from app.data import exact
from app.models.served import ServedModel
from tests.cache import models
from tests.models import specimens
from tests.models.specimens import served

LONG = 10**30


def keys(*items: bytes | Any, model: ServedModel | None = None) -> list[str]:
    loaded = [exact.loads(item) if isinstance(item, bytes) else item for item in items]
    return keys_of(model or served(models.Whole), loaded)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a":1,"b":{"c":2,"d":3}}', b'{ "b": {"d":3, "c":2}, "a":1 }'),
        (b'{"a":"\\u00e9\\/"}', '{"a":"é/"}'.encode()),
        (b'{"a":1e2}', b'{"a":100.0}'),
        (b'{"a":1,"a":2}', b'{"a":2}'),
        (
            b'{"a":1000000000000000000000000000000,"b":1e22}',
            b'{"b":1e+22,"a":1000000000000000000000000000000}',
        ),
    ],
)
def test_what_is_written_differently_and_means_the_same_has_one_key(one: bytes, other: bytes) -> None:
    first, second = keys(one, other)
    assert first == second


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": True}),
        ({"a": 0.0}, {"a": -0.0}),
        ({"a": None}, {}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": LONG}, {"a": LONG + 1}),
        ({"a": LONG}, {"a": float(LONG)}),
        ({"a": "},{"}, {"a": "} ,{"}),
    ],
)
def test_what_a_model_can_tell_apart_has_two_keys(one: Any, other: Any) -> None:
    first, second = keys(one, other)
    assert first != second


def test_an_items_key_does_not_depend_on_the_items_beside_it() -> None:
    item = {"text": "é", "x": 1e22, "y": 0.5}
    assert keys(item, {"a": LONG}, {"a": "},{"})[0] == keys(item)[0]


@pytest.mark.parametrize(
    "change",
    [
        {"version": "2"},
        {"name": "other"},
        {"options": {"k": 1}},
        {"sha256": "0" * 64},
        {"class_path": "tests.cache.models:Narrow"},
    ],
)
def test_a_version_that_is_declared_differently_has_other_keys(change: dict[str, Any]) -> None:
    item = {"text": "a"}
    changed = ServedModel(specimens.declare(models.Whole, **change))
    assert keys(item, model=changed) != keys(item)


def test_how_a_version_is_run_does_not_change_its_keys() -> None:
    changed = ServedModel(specimens.declare(models.Whole, concurrency=3, max_batch_size=2, default=False))
    assert keys({"text": "a"}, model=changed) == keys({"text": "a"})


def test_fields_that_a_plain_schema_excludes_do_not_count() -> None:
    first, second = keys({"text": "a", "id": 1}, {"id": 2, "text": "a"}, model=served(models.Narrow))
    assert first == second


@pytest.mark.parametrize("model", [specimens.Upper, specimens.Strict, specimens.Schemaless, specimens.Hooked])
def test_fields_that_reach_the_model_or_code_of_its_schema_count(model: type) -> None:
    first, second = keys({"text": "a", "id": 1}, {"text": "a", "id": 2}, model=served(model))
    assert first != second


def test_of_equal_unknown_items_the_first_is_asked_for() -> None:
    assert Recall(["a", "b", "a", "c", "b", "c"], {"c": b"{}"}).unknown_places() == [0, 1]
