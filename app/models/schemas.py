"""Schemas: a model's marshmallow `Item` and `Prediction`, as checks, as JSON pointers and as JSON Schema."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from apispec import APISpec
from apispec.exceptions import APISpecError
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import INCLUDE, Schema, ValidationError, fields, missing
from marshmallow.exceptions import SCHEMA

from app.errors import FieldError
from app.models import JsonObject

SAME_WHEN_LOADED: dict[type[fields.Field[Any]], type] = {
    fields.String: str,
    fields.Integer: int,
    fields.Float: float,
}
"""Fields that, with no option set, load a value of this very type as it is."""

Refusals = dict[int, tuple[FieldError, ...]]
"""Positions of refused items, each with its reasons; pointers are relative to the item."""


def item_schema(declared: type[Schema]) -> Schema:
    """An instance that keeps undeclared fields, unless the `Meta` of the class says what to do with them."""
    return declared() if hasattr(declared.Meta, "unknown") else declared(unknown=INCLUDE)


def load_items(schema: Schema | None, items: Sequence[object]) -> tuple[list[JsonObject], Refusals]:
    """The items that `schema` accepts, loaded, in order, and why it refuses the others.

    What is loaded shares nothing mutable with `items`. All are loaded in one call. Where some fail the
    others are loaded again, because marshmallow runs its later hooks on no item while one fails.
    """
    if (loaded := _as_they_are(schema, items)) is not None:
        return loaded, {}
    refused: Refusals = {
        position: (FieldError("", f"An item is a JSON object, not {json_type(item)}."),)
        for position, item in enumerate(items)
        if not isinstance(item, dict)
    }
    while True:
        positions = [position for position in range(len(items)) if position not in refused]
        copies = [_copied(items[position]) for position in positions]
        if schema is None or not copies:
            return copies, refused
        try:
            return schema.load(copies, many=True), refused
        except ValidationError as error:
            refused |= _refusals(schema, error, positions, items)


def _as_they_are(schema: Schema | None, items: Sequence[object]) -> list[JsonObject] | None:
    """What marshmallow would load, ten times faster, if it would change no value of any item; else None."""
    types = {} if schema is None else _loaded_as_they_are(schema)
    if types is None:
        return None
    loaded = []
    for item in items:
        if not isinstance(item, dict):
            return None
        copy = {}
        for name, wanted in types.items():
            value = item.get(name)
            if type(value) is not wanted or (wanted is float and not math.isfinite(value)):  # type: ignore[arg-type]  # a float
                return None
            copy[name] = value
        if len(item) > len(copy):
            copy.update((name, _copied(value)) for name, value in item.items() if name not in copy)
        loaded.append(copy)
    return loaded


@lru_cache(maxsize=256)
def _loaded_as_they_are(schema: Schema) -> dict[str, type] | None:
    """The type of each field, if values of these types are all that the schema asks for; else None.

    Anything beyond plain fields leaves every item to marshmallow: a hook or another method in any of its classes,
    a field of another class, an option of a field other than `required`.
    """
    if schema.unknown != INCLUDE or any(map(_is_code, _own_attributes(type(schema)))):
        return None
    types = {}
    for name, field in schema.fields.items():
        wanted = SAME_WHEN_LOADED.get(type(field))
        if wanted is None or _has_options(field) or "." in name:  # marshmallow makes nested dicts of "a.b"
            return None
        types[name] = wanted
    return types


def _has_options(field: fields.Field[Any]) -> bool:
    has_code = field.pre_load or field.validators or field.post_load
    is_named = field.data_key is not None or field.attribute is not None
    return bool(has_code or is_named or field.dump_only or field.load_default is not missing)


def _own_attributes(declared: type[Schema]) -> Iterator[object]:
    """What a schema class and its bases define themselves, those of marshmallow left out."""
    return (
        value for each in declared.__mro__ if not issubclass(Schema, each) for value in vars(each).values()
    )


def _is_code(attribute: object) -> bool:
    return hasattr(attribute, "__get__") or (callable(attribute) and not isinstance(attribute, type))


def _refusals(
    schema: Schema, error: ValidationError, positions: Sequence[int], items: Sequence[object]
) -> Refusals:
    """What `error` says of each item; at least one of `positions`, so that the caller comes to an end."""
    messages = error.messages
    if isinstance(messages, dict) and messages and all(index in range(len(positions)) for index in messages):
        return {positions[index]: tuple(field_errors(below, "", schema)) for index, below in messages.items()}
    # An error without an index comes from a hook (or `index_errors = False`): ask for each item alone.
    refused: Refusals = {}
    for position in positions:
        try:
            schema.load(_copied(items[position]), many=False)
        except ValidationError as alone:
            refused[position] = tuple(field_errors(alone.messages, "", schema))
    return refused or {position: tuple(field_errors(messages, "", schema)) for position in positions}


def field_errors(
    messages: Any, pointer: str, shape: Schema | fields.Field[Any] | None
) -> Iterator[FieldError]:
    """Marshmallow's tree of messages as JSON pointers (RFC 6901); `shape` is what stands at `pointer`."""
    if isinstance(messages, Mapping):
        for step, below in messages.items():
            if step == SCHEMA:
                yield from field_errors(below, pointer, shape)
            elif isinstance(shape, fields.Mapping) and isinstance(below, Mapping):
                # Its errors are {key: {"key": …, "value": …}}, where the last step is no part of the data.
                at = f"{pointer}/{_escaped(step)}"
                yield from field_errors(below.get("key", []), at, shape.key_field)
                yield from field_errors(below.get("value", []), at, shape.value_field)
            else:
                yield from field_errors(below, f"{pointer}/{_escaped(step)}", _part(shape, step))
    elif isinstance(messages, list):
        for message in messages:
            yield from field_errors(message, pointer, shape)
    else:
        yield FieldError(pointer, str(messages))


def _part(shape: Schema | fields.Field[Any] | None, step: object) -> Schema | fields.Field[Any] | None:
    """What `step` leads to inside `shape`; None where that cannot be told."""
    if isinstance(shape, fields.Nested):
        if shape.many:
            return shape.schema  # the step is a position
        shape = shape.schema
    if isinstance(shape, Schema):
        for name, field in shape.load_fields.items():
            if step == (name if field.data_key is None else field.data_key):
                return field
    return shape.inner if isinstance(shape, fields.List) else None


def _escaped(step: object) -> str:
    return str(step).replace("~", "~0").replace("/", "~1")


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(below) for name, below in value.items()}
    if isinstance(value, list):
        return [_copied(below) for below in value]
    return value


def json_type(value: object) -> str:
    """The JSON word for `value`, with its article, for a sentence to a client."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
    return "an object"


def json_schema(schema: Schema | None) -> dict[str, Any] | None:
    """JSON Schema (the 2020-12 dialect of OpenAPI 3.1) with nested schemas inlined; None for None."""
    if schema is None:
        return None
    plugin = MarshmallowPlugin(schema_name_resolver=lambda schema: "")  # no name: inlined
    APISpec("", "", "3.1.0", plugins=[plugin])  # gives the plugin its converter
    try:
        converted: dict[str, Any] = plugin.converter.schema2jsonschema(schema)  # type: ignore[union-attr]  # set by APISpec
    except (APISpecError, RecursionError):
        return {"type": "object"}  # it contains itself, which cannot be inlined
    return converted
