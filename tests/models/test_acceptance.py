"""The accept check agrees with marshmallow, whatever the schema and the items."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import EXCLUDE, INCLUDE, RAISE, Schema, fields, validate

from app.models import schemas
from app.models.acceptance import acceptance
from app.models.schemas import item_schema, load_items

NAMES = ("a", "b", "c", "d")
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**53 + 1, -(2**63), 10**400, 1.5, -0.0, 3.0, 1e308]),
    st.text("ab", max_size=3),
    st.sampled_from(["7", "true", "1.5"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(NAMES), below, max_size=3),
    max_leaves=6,
)


def validators(kind: type) -> st.SearchStrategy[list[Any]]:
    numbers = st.integers(-2, 2)
    own: st.SearchStrategy[Any]
    if kind in (str, list):
        lengths = st.integers(0, 2)
        own = st.builds(lambda least, more: validate.Length(min=least, max=least + more), lengths, lengths)
        own |= st.builds(lambda equal: validate.Length(equal=equal), lengths)
    else:
        own = st.builds(
            lambda least, closed: validate.Range(min=least, min_inclusive=closed), numbers, st.booleans()
        )
        own |= st.builds(
            lambda most, closed: validate.Range(max=most, max_inclusive=closed), numbers, st.booleans()
        )
    choices = st.sampled_from([["a", "b"], (0, 1, 2.5), {True}, "ab", [["a"]]])
    own |= choices.map(validate.OneOf) | choices.map(validate.NoneOf)
    own |= st.sampled_from(["a", 1, 1.5, True]).map(validate.Equal)
    if kind is str:
        own |= st.sampled_from(["a", "^b*$"]).map(validate.Regexp)
    return st.lists(own, max_size=2)


@st.composite
def options(draw: st.DrawFn, kind: type) -> dict[str, Any]:
    drawn: dict[str, Any] = {
        "validate": draw(validators(kind)),
        "allow_none": draw(st.sampled_from([None, True])),
    }
    match draw(st.integers(0, 3)):
        case 0:
            drawn["required"] = True
        case 1:
            drawn["load_default"] = draw(st.sampled_from([None, "a", ["a"], dict]))
    return drawn


@st.composite
def any_field(draw: st.DrawFn, depth: int = 0) -> fields.Field[Any]:
    kinds: list[tuple[type[fields.Field[Any]], type]] = [
        (fields.String, str),
        (fields.Integer, int),
        (fields.Float, float),
        (fields.Boolean, bool),
    ]
    match draw(st.integers(0, 5 if depth < 2 else 3)):
        case 4:
            return fields.List(draw(any_field(depth + 1)), **draw(options(list)))
        case 5:
            many = draw(st.booleans())
            unknown: Any = draw(st.sampled_from([None, INCLUDE, EXCLUDE, RAISE]))
            return fields.Nested(draw(schema_classes(depth + 1)), many=many, unknown=unknown)
        case number:
            of, kind = kinds[number]
            return of(**draw(options(kind)))


@st.composite
def schema_classes(draw: st.DrawFn, depth: int = 0) -> type[Schema]:
    declared = draw(st.dictionaries(st.sampled_from(NAMES), any_field(depth), min_size=1, max_size=3))
    made = Schema.from_dict(declared)
    if draw(st.booleans()):
        made.Meta = type("Meta", (), {"unknown": draw(st.sampled_from([INCLUDE, EXCLUDE, RAISE]))})  # type: ignore[assignment,misc]  # as a class statement would
        made = type("Declared", (made,), {})
    return made


def fitting(field: fields.Field[Any]) -> st.SearchStrategy[Any]:
    """Values that often pass the field, so that not only refusals are compared."""
    match field:
        case fields.String():
            return st.text("ab", max_size=3)
        case fields.Integer():
            return st.integers(-3, 3)
        case fields.Float():
            return st.sampled_from([0.5, 1.0, -1.5, 2, 0])
        case fields.Boolean():
            return st.booleans()
        case fields.List():
            return st.lists(fitting(field.inner), max_size=3)
        case fields.Nested():
            one = items_of(field.schema)
            return st.lists(one, max_size=2) if field.schema.many else one
    raise AssertionError(field)


def items_of(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    known = {name: fitting(field) for name, field in schema.fields.items()}
    required = {name: each for name, each in known.items() if schema.fields[name].required}
    optional = {name: each for name, each in known.items() if name not in required}
    return st.fixed_dictionaries(required, optional=optional)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Schema, list[Any]]:
    schema = item_schema(draw(schema_classes()))
    good = items_of(schema)
    odd = st.builds(lambda item, extra: item | extra, good, st.dictionaries(st.sampled_from(NAMES), VALUES))
    return schema, draw(st.lists(good | good | odd | VALUES, min_size=1, max_size=20))


def canonical(value: Any) -> Any:
    """Equal where types are equal too (1 is not 1.0 nor True), whatever the order of keys."""
    if isinstance(value, dict):
        return {name: canonical(below) for name, below in value.items()}
    if isinstance(value, list):
        return [canonical(below) for below in value]
    return type(value), value


@settings(max_examples=200, deadline=None)
@given(cases())
def test_items_are_loaded_or_refused_as_by_marshmallow_and_together_as_alone(
    case: tuple[Schema, list[Any]],
) -> None:
    schema, items = case
    before = deepcopy(items)

    loaded, refused = load_items(schema, items)

    expected, reasons = schemas._ask_marshmallow(schema, items)
    assert canonical(loaded) == canonical(expected)
    assert refused == reasons
    assert canonical(items) == canonical(before)
    declared = list(schema.fields)
    assert all(
        [name for name in item if name in declared] == [name for name in declared if name in item]
        for item in loaded
    )
    if (accepting := acceptance(schema)) is not None:
        assert accepting.accepts(items) == all(accepting.accepts([item]) for item in items)


class Rich(Schema):
    class Point(Schema):
        x = fields.Float(required=True)
        label = fields.String(allow_none=True)

    text = fields.String(required=True, validate=validate.Length(min=1, max=100))
    stars = fields.Integer(validate=validate.Range(1, 5))
    price = fields.Float(validate=validate.Range(min=0, min_inclusive=False))
    kind = fields.String(validate=validate.OneOf(["book", "film"]), load_default=None)
    is_new = fields.Boolean()
    tags = fields.List(fields.String(validate=validate.Regexp("[a-z]+$")), validate=validate.Length(max=3))
    point = fields.Nested(Point)
    path = fields.List(fields.Nested(Point, unknown=INCLUDE))


RICH: dict[str, Any] = {
    "text": "good",
    "stars": 5,
    "price": 3,
    "kind": None,
    "is_new": False,
    "tags": ["a", "b"],
    "point": {"x": 1.5, "label": None},
    "path": [{"x": 0.5, "more": [1]}, {"x": 2.5, "label": "end"}],
    "id": 7,
}


def test_a_rich_schema_needs_no_marshmallow(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = item_schema(Rich)
    by_marshmallow = schema.load(deepcopy(RICH))
    monkeypatch.setattr(schemas, "_ask_marshmallow", lambda *_: pytest.fail("marshmallow was asked"))

    loaded, refused = load_items(schema, [RICH, {**RICH, "text": "b"}])

    assert refused == {}
    assert canonical(loaded[0]) == canonical(by_marshmallow)
    assert type(loaded[0]["price"]) is float


@pytest.mark.parametrize(
    "change",
    [
        {"text": ""},
        {"text": None},
        {"stars": 6},
        {"stars": True},
        {"price": 0},
        {"price": 2**53 + 1},
        {"kind": "song"},
        {"is_new": 1},
        {"tags": ["A"]},
        {"tags": ["a"] * 4},
        {"point": {"x": 1}},
        {"point": {"x": 1.5, "more": 1}},
        {"path": [{}]},
    ],
)
def test_what_is_uncertain_goes_to_marshmallow(change: dict[str, Any]) -> None:
    accepting = acceptance(item_schema(Rich))

    assert accepting is not None
    assert accepting.accepts([RICH])
    assert not accepting.accepts([RICH, RICH | change])


def test_few_items_of_many_go_to_marshmallow(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    ask = schemas._ask_marshmallow

    def counting(schema: Schema | None, items: Sequence[object]) -> Any:
        asked.append(len(items))
        return ask(schema, items)

    monkeypatch.setattr(schemas, "_ask_marshmallow", counting)
    items = [{"text": str(place)} if place % 400 else {"text": place} for place in range(1000)]

    loaded, refused = load_items(item_schema(Rich), items)

    assert sorted(refused) == [0, 400, 800]
    assert [item["text"] for item in loaded] == [str(place) for place in range(1000) if place % 400]
    assert sum(asked) <= 3 * schemas.TOGETHER


def test_a_schema_that_contains_itself_is_left_to_marshmallow() -> None:
    class Tree(Schema):
        below = fields.List(fields.Nested(lambda: Tree()))

    assert acceptance(item_schema(Tree)) is None
    assert load_items(item_schema(Tree), [{"below": [{"below": []}]}]) == ([{"below": [{"below": []}]}], {})


def test_every_object_is_accepted_without_a_schema() -> None:
    items = orjson.loads(b'[{"a": [1]}, {}, {"b": null}]')

    loaded, refused = load_items(None, items)

    assert (loaded, refused) == (items, {})
    loaded[0]["a"].append(2)
    assert items[0] == {"a": [1]}
