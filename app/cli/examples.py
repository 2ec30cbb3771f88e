"""Example items, made of what a model's item schema says, for a check without a file of real ones."""

import random
from collections.abc import Mapping
from typing import Any

from app.models import JsonObject

WORDS = ("a", "lovely", "day", "and", "nothing", "to", "wait", "for")


def example_items(schema: Mapping[str, Any] | None, n_items: int) -> list[JsonObject]:
    """That many items by a JSON Schema, all different where the schema lets them be; none without a schema.

    A field's own `metadata={"example": …}` or `{"examples": […]}` is taken before anything is made up.
    """
    if schema is None or schema.get("type") != "object":
        return []
    draw = random.Random(0)
    return [
        {
            name: _example(part, place, draw)
            for name, part in schema.get("properties", {}).items()
            if not part.get("readOnly")
        }
        for place in range(n_items)
    ]


def _example(part: Mapping[str, Any], place: int, draw: random.Random) -> Any:
    """A value of one field, for the item at `place`."""
    if "examples" in part or "example" in part:
        given = part.get("examples", [part.get("example")])
        return given[place % len(given)]
    if "enum" in part:
        allowed = [each for each in part["enum"] if each is not None]
        return allowed[place % len(allowed)] if allowed else None
    declared = part.get("type")
    kind = (
        next((each for each in declared if each != "null"), None) if isinstance(declared, list) else declared
    )
    match kind:
        case "string":
            return _text(part, place, draw)
        case "integer":
            least, most = _range(part)
            return draw.randint(int(least), int(most))
        case "number":
            least, most = _range(part)
            return round(draw.uniform(least, most), 3)
        case "boolean":
            return place % 2 == 0
        case "array":
            length = part.get("minItems", min(2, part.get("maxItems", 2)))
            return [_example(part.get("items", {}), place, draw) for _ in range(length)]
        case "object":
            inner = part.get("properties", {})
            return {name: _example(below, place, draw) for name, below in inner.items()}
    return place


def _text(part: Mapping[str, Any], place: int, draw: random.Random) -> str:
    match part.get("format"):
        case "date":
            return f"2026-01-{place % 28 + 1:02}"
        case "date-time":
            return f"2026-01-{place % 28 + 1:02}T12:00:00+00:00"
        case "uuid":
            return f"00000000-0000-4000-8000-{place:012}"
    text = f"{' '.join(draw.choices(WORDS, k=8))} {place}"
    most = part.get("maxLength", len(text))
    return text[-most:].ljust(part.get("minLength", 0), "x") if most else ""


def _range(part: Mapping[str, Any]) -> tuple[float, float]:
    """The limits between which a number is drawn: the declared ones, or about a hundred from the other."""
    least, most = part.get("minimum"), part.get("maximum")
    if "exclusiveMinimum" in part:
        least = part["exclusiveMinimum"] + 1
    if "exclusiveMaximum" in part:
        most = part["exclusiveMaximum"] - 1
    if least is None:
        least = 0 if most is None else min(0, most - 100)
    if most is None:
        most = max(100, least + 100)
    return max(least, -1e6), min(most, 1e6)
