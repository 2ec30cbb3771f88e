"""Schemas: a model's marshmallow `Item` and `Prediction`, as checks, as JSON pointers and as JSON Schema."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apispec import APISpec
from apispec.exceptions import APISpecError
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import EXCLUDE, INCLUDE, Schema, ValidationError, fields
from marshmallow.exceptions import SCHEMA

from app.errors import FieldError
from app.models import JsonObject
from app.models.acceptance import Acceptance, acceptance, copied

TOGETHER = 16
"""Items that marshmallow is asked about at once, where the fast check is not certain of all of them."""

Refusals = dict[int, tuple[FieldError, ...]]
"""Positions of refused items, each with its reasons; pointers are relative to the item."""


def item_schema(declared: type[Schema]) -> Schema:
    """An instance that keeps undeclared fields, unless the `Meta` of the class says what to do with them."""
    return declared() if hasattr(declared.Meta, "unknown") else declared(unknown=INCLUDE)


def decisive_fields(schema: Schema | None) -> frozenset[str] | None:
    """The fields of an item that decide what is loaded of it; None if any field may.

    They are the declared ones of a schema that excludes all others, unless there is code in it, which could look at
    those too.
    """
    if schema is None or schema.unknown != EXCLUDE or acceptance(schema) is None:
        return None
    return frozenset(schema.fields)


def load_items(
    schema: Schema | None, items: Sequence[object], *, spend: bool = False
) -> tuple[list[JsonObject], Refusals]:
    """The items that `schema` accepts, loaded, in order, and why it refuses the others.

    What is loaded shares nothing mutable with `items`, unless the caller has no more use for them: with `spend` they
    may be changed, and be among what is loaded.
    """
    accepting = acceptance(schema)
    if accepting is None:
        return _ask_marshmallow(schema, items)
    loaded: list[JsonObject] = []
    refused: Refusals = {}
    for start, run, is_accepted in _runs(accepting, items, 0):
        if is_accepted:
            loaded += accepting.load(run, spend=spend)
        else:
            others, refusals = _ask_marshmallow(schema, run)
            loaded += others
            refused |= {start + position: errors for position, errors in refusals.items()}
    return loaded, refused


def _runs(
    accepting: Acceptance, items: Sequence[Any], start: int
) -> Iterator[tuple[int, Sequence[Any], bool]]:
    """Runs of consecutive items, each with its start and whether all of it is accepted, by halving where it is not."""
    if accepting.accepts(items):
        yield start, items, True
    elif len(items) <= TOGETHER:
        yield start, items, False
    else:
        half = len(items) // 2
        yield from _runs(accepting, items[:half], start)
        yield from _runs(accepting, items[half:], start + half)


def _ask_marshmallow(schema: Schema | None, items: Sequence[object]) -> tuple[list[JsonObject], Refusals]:
    """As `load_items`. All are loaded in one call; where some fail the others are loaded again, because marshmallow
    runs its later hooks on no item while one fails."""
    refused: Refusals = {
        position: (FieldError("", f"An item is a JSON object, not {json_type(item)}."),)
        for position, item in enumerate(items)
        if not isinstance(item, dict)
    }
    while True:
        positions = [position for position in range(len(items)) if position not in refused]
        copies = [copied(items[position]) for position in positions]
        if schema is None or not copies:
            return copies, refused
        try:
            return schema.load(copies, many=True), refused
        except ValidationError as error:
            refused |= _refusals(schema, error, positions, items)


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
            schema.load(copied(items[position]), many=False)
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
