"""Fields: schemas made of what a model's own signature says, and the values as its library wants them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from app.models import JsonObject
from app.models.contract import ContractError

Field = fields.Field[Any]


class Whole(fields.Integer):
    """A whole number, also as `3.0` or, from a cell of CSV, as `"3"`; `Integer` would make 3 of 3.7."""

    def _validated(self, value: Any) -> int:
        if isinstance(value, float) and not value.is_integer():
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


def make_schema(name: str, declared: Mapping[str, Field]) -> type[Schema]:
    """A schema class with these fields. What is loaded by it is to be read under `loaded_name`."""
    for written, field in declared.items():
        if loaded_name(written) != written:
            field.data_key = written
    return Schema.from_dict({loaded_name(written): field for written, field in declared.items()}, name=name)


def loaded_name(name: str) -> str:
    """The name of a field in a loaded item: marshmallow takes a dot for a step into an object, so there is none."""
    return name.replace(".", "\N{ONE DOT LEADER}") if name != "Meta" else "Meta "


def column(items: Sequence[JsonObject], name: str) -> list[Any]:
    """All items' values of one field; None where it is missing."""
    key = loaded_name(name)
    return [item.get(key) for item in items]


def is_scalar(value: object) -> None:
    if isinstance(value, dict | list):
        raise ValidationError("Not a number, a string, a boolean or null.")


def scalar_field(kind: str, *, is_nullable: bool = False) -> Field:
    """A required field of one of the kinds that `columns = { name = "kind" }` may name."""
    match kind:
        case "number":
            return fields.Float(required=True, allow_none=is_nullable)
        case "integer":
            return Whole(required=True, allow_none=is_nullable)
        case "string":
            return fields.String(required=True, allow_none=is_nullable)
        case "boolean":
            return fields.Boolean(required=True, allow_none=is_nullable)
        case "any":
            return fields.Raw(required=True, allow_none=True, validate=is_scalar)
    raise ContractError(
        f'columns names the kind {kind!r}: write "number", "integer", "string", "boolean" or "any"'
    )


def list_field(inner: Field, lengths: Sequence[int | None]) -> Field:
    """Lists in lists around `inner`, of these lengths from the outermost in; None is any length."""
    field = inner
    for length in reversed(lengths):
        validator = None if length is None else validate.Length(equal=length)
        field = fields.List(field, required=True, validate=validator)
    return field


def artifact_of(adapter: str, artifact: Path | None) -> Path:
    """The artifact, which an adapter cannot do without."""
    if artifact is None:
        raise ContractError(f'the adapter {adapter} reads a model: add artifact = "…" in models.toml')
    return artifact
