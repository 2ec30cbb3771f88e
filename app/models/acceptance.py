"""Acceptance: items that a marshmallow schema certainly accepts, told and loaded without marshmallow.

The schema stays the one truth: `acceptance` derives from it, once, a check of plain fields with simple validators.
What that check does not accept is not refused by it; marshmallow decides, and words the errors. A test generates
schemas and items and holds both ways to the same outcome.

The check goes by column: all items' values of one field at once, through loops that run in C (`set(map(type, …))`),
which take a few nanoseconds a value where marshmallow takes microseconds.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from marshmallow import EXCLUDE, INCLUDE, Schema, fields, missing, validate

from app.models import JsonObject

Column = Sequence[Any]
Check = Callable[[Column], bool]

UNCERTAIN = (KeyError, TypeError, ValueError, OverflowError)
"""What a check may stumble on in values that nobody has looked at: a field that is missing, a list that has no hash."""
EXACT_INTEGER = 2**53
"""Integers up to here are the same number as a double."""
CONTAINERS = {dict, list}
FLAT = {fields.String, fields.Integer, fields.Float, fields.Boolean}


class _Involved(Exception):
    """The schema has more to it than this check can tell."""


class Acceptance:
    """The derived check of one schema. Thread-safe: nothing changes after it is made."""

    def __init__(
        self, check: Check, declared: Mapping[str, fields.Field[Any]], *, excludes_others: bool = False
    ) -> None:
        self._check = check
        self._excludes_others = excludes_others
        self._names = tuple(declared)
        self._flat_names = {name for name, field in declared.items() if type(field) in FLAT}
        self._float_names = [name for name, field in declared.items() if type(field) is fields.Float]
        self._defaults = {name: field.load_default for name, field in declared.items() if _has_default(field)}
        self._may_misplace = len(self._names) > 1 or bool(self._defaults)

    def accepts(self, items: Sequence[object]) -> bool:
        """Whether marshmallow would accept all of these items; False if that is not certain."""
        try:
            return self._check(items)
        except UNCERTAIN:
            return False

    def load(self, items: Sequence[JsonObject], *, spend: bool = False) -> list[JsonObject]:
        """What marshmallow would load from items that are accepted: declared fields are in their order.

        Defaults are filled in, and integers made floats where floats are declared. It shares nothing mutable with
        the items, unless they may be spent: then they are changed and given back, where that is enough.
        """
        if self._excludes_others:
            items = [{name: item[name] for name in self._names if name in item} for item in items]
        first = {order: self._misplaced(order) for order in _orders(items)} if self._may_misplace else {}
        if any(first.values()):
            default = self._defaults.get
            loaded = [
                {name: item.get(name, default(name)) for name in first[tuple(item)]} | item for item in items
            ]
        else:
            loaded = list(items if spend else map(dict.copy, items))
        if not spend and not self._flat_names.issuperset(set().union(*items)) and _have_containers(loaded):
            loaded = list(map(copied, loaded))
        for name in self._float_names:
            for item in loaded:
                if type(value := item.get(name)) is int:
                    item[name] = float(value)
        return loaded

    def _misplaced(self, names: tuple[str, ...]) -> list[str]:
        """The declared names that are to come first in an item with these names; none if it is in order as it is."""
        wanted = [name for name in self._names if name in names or name in self._defaults]
        return [] if wanted == [name for name in names if name in self._names] else wanted


def _orders(items: Sequence[JsonObject]) -> set[tuple[str, ...]]:
    """The orders in which the items have their names: most often, all of them have one and the same."""
    names = tuple(items[0]) if items else ()
    # No key is twice in an object, so a run of repetitions can be cut into as many objects in one way alone.
    return {names} if [*chain.from_iterable(items)] == [*names] * len(items) else set(map(tuple, items))


def _have_containers(items: Sequence[JsonObject]) -> bool:
    return not CONTAINERS.isdisjoint(map(type, chain.from_iterable(map(dict.values, items))))


def copied(value: Any) -> Any:
    """A JSON value again, down to its last list."""
    if isinstance(value, dict):
        return {name: copied(below) for name, below in value.items()}
    if isinstance(value, list):
        return [copied(below) for below in value]
    return value


@lru_cache(maxsize=256)
def acceptance(schema: Schema | None) -> Acceptance | None:
    """The check of a schema, or of no schema, which accepts every object. None if all must go to marshmallow.

    That is so where there is code in the schema (a hook, a method, a subclass of a field, a function that
    validates), where a value would change as it is loaded (dates, other names), or where a schema contains itself.
    """
    if schema is None:
        return Acceptance(_are(dict), {})
    try:
        check = _object(schema, schema.unknown, ())
    except _Involved:
        return None
    return Acceptance(check, schema.fields, excludes_others=schema.unknown == EXCLUDE)


def _object(schema: Schema, unknown: str, around: Sequence[type[Schema]]) -> Check:
    """The check of objects that `schema` describes; `around` are the classes that it stands in."""
    declared = type(schema)
    if declared in around or schema.partial or any(map(_is_code, _own_attributes(declared))):
        raise _Involved
    parts = [
        (
            name,
            field.required,
            field.load_default is missing or (not around and _has_default(field)),
            _field(field, (*around, declared), is_outermost=not around),
        )
        for name, field in schema.fields.items()
    ]
    names = frozenset(schema.fields)
    are_objects = _are(dict)
    # Further in, `load` takes nothing away.
    may_have_others = unknown == INCLUDE or (unknown == EXCLUDE and not around)

    def check(column: Column) -> bool:
        if not are_objects(column):
            return False
        for name, is_required, may_be_missing, accepts in parts:
            if is_required:
                values = [item[name] for item in column]
            else:
                values = [item[name] for item in column if name in item]
                if not may_be_missing and len(values) < len(column):
                    return False  # marshmallow would fill in a default that `load` does not
            if not accepts(values):
                return False
        return may_have_others or names.issuperset(chain.from_iterable(column))

    return check


def _own_attributes(declared: type[Schema]) -> Iterator[object]:
    """What a schema class and its bases define themselves, those of marshmallow left out."""
    return (
        value for each in declared.__mro__ if not issubclass(Schema, each) for value in vars(each).values()
    )


def _is_code(attribute: object) -> bool:
    return hasattr(attribute, "__get__") or (callable(attribute) and not isinstance(attribute, type))


def _field(field: fields.Field[Any], around: Sequence[type[Schema]], *, is_outermost: bool = False) -> Check:
    """The check of a field's values, where there are any; nulls stand among them if the field allows it."""
    is_named = field.data_key is not None or field.attribute is not None or "." in (field.name or "")
    if is_named or field.pre_load or field.post_load or field.dump_only:
        raise _Involved
    accepts = _conjunction([_kind(field, around, is_outermost), *map(_validator, field.validators)])
    if not field.allow_none:
        return accepts
    return lambda column: accepts([value for value in column if value is not None])


def _kind(field: fields.Field[Any], around: Sequence[type[Schema]], is_outermost: bool) -> Check:
    """The check of the type of a field's values, and of what is inside them."""
    match field:
        case fields.String() if type(field) is fields.String:
            return _are(str)
        case fields.Integer() if type(field) is fields.Integer:
            return _are(int)
        case fields.Float() if type(field) is fields.Float:
            return _are_numbers if is_outermost else _are_floats  # further in, `load` replaces no integers
        case fields.Boolean() if type(field) is fields.Boolean and _keeps_booleans(field):
            return _are(bool)
        case fields.List() if type(field) is fields.List:
            return _each(_field(field.inner, around))
        case fields.Nested() if type(field) is fields.Nested:
            accepts = _object(field.schema, field.unknown or field.schema.unknown, around)
            return _each(accepts) if field.schema.many else accepts
    raise _Involved


def _has_default(field: fields.Field[Any]) -> bool:
    """Whether it has a constant default, of which nothing can be changed."""
    return isinstance(field.load_default, str | int | float | None)


def _keeps_booleans(field: fields.Boolean) -> bool:
    return True in field.truthy and False not in field.truthy and False in field.falsy


def _are(wanted: type) -> Check:
    types = {wanted}
    return lambda column: types.issuperset(map(type, column))


def _are_floats(column: Column) -> bool:
    return {float}.issuperset(map(type, column)) and math.isfinite(sum(column))


def _are_numbers(column: Column) -> bool:
    """Floats, and integers that become floats without a change."""
    if _are_floats(column):
        return True
    return {float, int}.issuperset(map(type, column)) and all(
        -EXACT_INTEGER <= value <= EXACT_INTEGER if type(value) is int else math.isfinite(value)
        for value in column
    )


def _each(accepts: Check) -> Check:
    """The check of lists, by that of their members."""
    are_lists = _are(list)
    return lambda column: are_lists(column) and accepts(list(chain.from_iterable(column)))


def _conjunction(checks: Sequence[Check]) -> Check:
    if len(checks) == 1:
        return checks[0]
    return lambda column: not column or all(accepts(column) for accepts in checks)


def _validator(validator: Callable[[Any], Any]) -> Check:
    """The check of one of marshmallow's own validators, of values that are not null."""
    match validator:
        case validate.Length() if type(validator) is validate.Length:
            return _length(validator)
        case validate.Range() if type(validator) is validate.Range:
            return _range(validator)
        case validate.OneOf() if type(validator) is validate.OneOf:
            return _choices(validator.choices).issuperset
        case validate.NoneOf() if type(validator) is validate.NoneOf:
            return _choices(validator.iterable).isdisjoint
        case validate.Equal() if type(validator) is validate.Equal:
            return _choices([validator.comparable]).issuperset
        case validate.Regexp() if type(validator) is validate.Regexp:
            matches = validator.regex.match
            return lambda column: all(map(matches, column))
    raise _Involved


def _length(validator: validate.Length) -> Check:
    least = validator.min if validator.equal is None else validator.equal
    most = validator.max if validator.equal is None else validator.equal

    def check(column: Column) -> bool:
        lengths = set(map(len, column))
        return (least is None or min(lengths) >= least) and (most is None or max(lengths) <= most)

    return check


def _range(validator: validate.Range) -> Check:
    def check(column: Column) -> bool:
        least, most = min(column), max(column)
        if validator.min is not None and not (
            least >= validator.min if validator.min_inclusive else least > validator.min
        ):
            return False
        return validator.max is None or bool(
            most <= validator.max if validator.max_inclusive else most < validator.max
        )

    return check


def _choices(choices: object) -> frozenset[Any]:
    if not isinstance(choices, list | tuple | set | frozenset | dict):
        raise _Involved  # a string has its substrings in it, an iterator is used up by looking
    try:
        return frozenset(choices)
    except TypeError:
        raise _Involved from None
