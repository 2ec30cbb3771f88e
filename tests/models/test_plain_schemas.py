"""Schemas of plain fields load items without marshmallow, and just as marshmallow would."""

from copy import deepcopy
from typing import Any

import pytest
from marshmallow import Schema, ValidationError, fields, post_load, pre_load, validate, validates_schema
from marshmallow.exceptions import SCHEMA

from app.models.schemas import item_schema, load_items


class Plain(Schema):
    text = fields.String(required=True)
    number = fields.Integer()
    weight = fields.Float(metadata={"description": "in grams"})


class Heir(Plain):
    number = fields.Integer(required=True, strict=True)


class PreLoad(Plain):
    @pre_load
    def rename(self, item: Any, **_: object) -> Any:
        return {"text": "pre", **item}


class PostLoad(Plain):
    @post_load
    def add(self, item: Any, **_: object) -> Any:
        return item | {"added": True}


class HookedHeir(PostLoad):
    other = fields.String()


class Validated(Plain):
    @validates_schema
    def refuse(self, item: Any, **_: object) -> None:
        raise ValidationError("refused")


class Excluding(Plain):
    class Meta:
        unknown = "exclude"


class Raising(Plain):
    class Meta:
        unknown = "raise"


def of_field(field: fields.Field[Any], name: str = "text") -> type[Schema]:
    return Schema.from_dict({name: field})


class Own(fields.String):
    def _deserialize(self, value: Any, *arguments: Any, **options: Any) -> str:
        return super()._deserialize(value, *arguments, **options).upper()


SCHEMAS = {
    "plain": Plain,
    "heir": Heir,
    "pre_load": PreLoad,
    "post_load": PostLoad,
    "hooked heir": HookedHeir,
    "validates_schema": Validated,
    "excluding": Excluding,
    "raising": Raising,
    "own field": of_field(Own()),
    "validator": of_field(fields.String(validate=validate.Length(max=1))),
    "field post_load": of_field(fields.String(post_load=str.upper)),
    "field pre_load": of_field(fields.String(pre_load=str)),
    "default": of_field(fields.String(load_default="none")),
    "allow_none": of_field(fields.String(allow_none=True)),
    "data_key": of_field(fields.String(data_key="number")),
    "attribute": of_field(fields.String(attribute="body")),
    "dump_only": of_field(fields.String(dump_only=True)),
    "load_only": of_field(fields.String(load_only=True)),
    "dotted": of_field(fields.String(), name="te.xt"),
    "boolean": of_field(fields.Boolean(), name="number"),
}

ITEMS: list[dict[str, Any]] = [
    {"text": "a", "number": 1, "weight": 1.5},
    {"weight": 0.5, "text": "a", "number": 10**30},
    {"text": "a", "number": 1, "weight": 1.5, "more": {"deep": [1, {"x": None}]}, "tags": ["a"]},
    {"text": "a"},
    {"text": "ab", "number": "7", "weight": 3},
    {"text": "a", "number": True, "weight": 1.5},
    {"text": "a", "number": 1.5, "weight": float("inf")},
    {"text": "a", "number": 1, "weight": float("nan")},
    {"text": None, "number": None, "weight": None},
    {"text": 5, "number": [], "weight": {}},
    {"te.xt": "a", "number": 1, "body": "b"},
    {},
]


@pytest.mark.parametrize("declared", SCHEMAS.values(), ids=SCHEMAS)
def test_items_are_loaded_as_marshmallow_loads_them(declared: type[Schema]) -> None:
    schema = item_schema(declared)
    for item in ITEMS:
        try:
            expected, reasons = schema.load(deepcopy(item), many=False), None
        except ValidationError as error:
            expected, reasons = None, error.messages

        loaded, refused = load_items(schema, [item])

        assert repr(loaded) == repr([] if reasons else [_in_order(expected, loaded)])
        assert (reasons is None) == (refused == {})
        if isinstance(reasons, dict) and SCHEMA not in reasons:
            assert {error.pointer for error in refused[0]} == {f"/{name}" for name in reasons}


def _in_order(expected: Any, loaded: list[Any]) -> Any:
    """Marshmallow puts undeclared fields behind the declared ones, in an order that changes from run to run."""
    assert isinstance(expected, dict)
    assert expected.keys() == loaded[0].keys()
    return {name: expected[name] for name in loaded[0]}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Schema:
    """A plain schema that marshmallow itself must not load."""
    schema = item_schema(Plain)

    def load(*_: object, **__: object) -> None:
        pytest.fail("marshmallow loaded items that needed it not")

    monkeypatch.setattr(schema, "load", load)
    return schema


def test_plain_items_need_no_marshmallow(plain: Schema) -> None:
    items = ITEMS[:3]

    loaded, refused = load_items(plain, items)

    assert loaded == items
    assert [list(item)[:3] for item in loaded] == [["text", "number", "weight"]] * 3
    assert refused == {}


def test_what_is_loaded_shares_nothing_with_the_items(plain: Schema) -> None:
    items = [deepcopy(ITEMS[2])]

    loaded, _ = load_items(plain, items)
    loaded[0]["tags"].append("b")
    loaded[0].clear()

    assert items == [ITEMS[2]]
