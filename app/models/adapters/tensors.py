"""Tensors: one value or array for each item, and the batches of equal shape that libraries and servers want."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from marshmallow import fields, validate

from app.models import JsonObject
from app.models.adapters.fields import Field, Whole, column, list_field, loaded_name
from app.models.contract import ContractError

MAX_FLOAT32 = 3.4028234663852886e38
MAX_FLOAT16 = 65504.0


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output: `kind` is float, float32, float16, int8 … uint64, boolean or string.

    `lengths` are those of one item's array, without the batch's dimension: `()` and `(1,)` are a plain value, None is
    a length that may differ from item to item.
    """

    name: str
    kind: str
    lengths: tuple[int | None, ...]

    @property
    def dtype(self) -> str:
        """The name of numpy's type."""
        return {"float": "float64", "boolean": "bool", "string": "object"}.get(self.kind, self.kind)

    @property
    def is_plain(self) -> bool:
        return self.lengths in {(), (1,)}

    def field(self) -> Field:
        """The field of an item, or of a prediction."""
        inner = _scalar(self.kind)
        return inner if self.is_plain else list_field(inner, self.lengths)


def _scalar(kind: str) -> Field:
    match kind:
        case "string":
            return fields.String(required=True)
        case "boolean":
            return fields.Boolean(required=True)
        case "float":
            return fields.Float(required=True)
        case "float32" | "float16":
            most = MAX_FLOAT32 if kind == "float32" else MAX_FLOAT16
            return fields.Float(required=True, validate=validate.Range(-most, most))
    bits = int(kind.removeprefix("u").removeprefix("int"))
    least, most = (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return Whole(required=True, validate=validate.Range(least, most))


def batch_lengths(place: str, shape: Sequence[Any]) -> tuple[int | None, ...]:
    """The lengths of one item's array, of a shape whose first dimension is the batch's; free ones are no numbers or -1.

    Raises `ContractError` if there is no such dimension.
    """
    if not shape:
        raise ContractError(
            f"{place} has no dimension for the batch: export it with a first dimension that is free"
        )
    return tuple(length if isinstance(length, int) and length > 0 else None for length in shape[1:])


def in_equal_shapes(
    items: Sequence[JsonObject],
    tensors: Sequence[Tensor],
    predict: Callable[[Sequence[JsonObject]], list[JsonObject]],
) -> list[JsonObject]:
    """Predictions in the order of the items, asked for in batches in which every tensor has one shape."""
    free = [loaded_name(tensor.name) for tensor in tensors if None in tensor.lengths]
    if not free:
        return predict(items)
    places = defaultdict(list)
    for place, item in enumerate(items):
        places[tuple(shape_of(item[name]) for name in free)].append(place)
    predictions: list[JsonObject] = [{}] * len(items)
    for alike in places.values():
        for place, prediction in zip(alike, predict([items[place] for place in alike]), strict=True):
            predictions[place] = prediction
    return predictions


def shape_of(value: object) -> tuple[int, ...]:
    """The lengths of lists in lists; those of the first stand for all."""
    if not isinstance(value, list):
        return ()
    return (len(value), *(shape_of(value[0]) if value else ()))


def values_of(items: Sequence[JsonObject], tensor: Tensor) -> list[Any]:
    """The batch of one input: a list of the items' values, each in a list of its own where the shape says so."""
    values = column(items, tensor.name)
    return [[value] for value in values] if tensor.lengths == (1,) else values
