"""The items of a Parquet file: one row, one item, its values as JSON has them. Needs pyarrow, an extra.

A Parquet file tells what is in it at its end, so the body is first written to a temporary file (in `TMPDIR`), then
read a few rows at a time.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, BinaryIO, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from app.data import exact
from app.data.chunks import Limits
from app.data.items import item_too_large
from app.data.parquet_footer import values_of_groups
from app.errors import BadRequest, Invalid, ServingError, TooLarge, refused

BATCH_ROWS = 1000
BATCH_BYTES = 8 << 20
"""Rows and, by the average of each row group, bytes that are in memory at once."""
READ_BYTES = 1 << 20
"""Read of a column at once; without it Arrow reads a column of a whole row group."""
# A column may say one long value once for a million rows, so a small file can make terabytes of items.
_MAX_GROWTH = 10
# A row may take several times the bytes of its JSON text: each column of its row group has a head of its own.
_MAX_SHRINK = 10
_NO_JSON = (ValueError, OverflowError, LookupError, TypeError, pa.ArrowException)
"""What is raised of a value without a JSON form, or of one that the file does not hold."""
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z


def parquet_items(pieces: Iterable[bytes], limits: Limits) -> Iterator[bytes]:
    """The JSON text of each row; errors name `row 17`, counted from 1, or the column.

    Times become RFC 3339 text, in UTC if they have a zone, decimals numbers with all their digits, bytes text if they
    are UTF-8. NaN becomes null, as everywhere.
    """
    with tempfile.TemporaryFile(prefix="twofold-") as spool:
        for piece in pieces:
            spool.write(piece)
        if not spool.tell():
            return  # no items: the caller says so
        spool.seek(0)
        with _reading():
            metadata = pq.read_metadata(spool)
            sizes = _sizes(spool, metadata)
            _check_size(metadata.num_rows, sizes, limits)
            file = pq.ParquetFile(
                spool,
                metadata=metadata,
                buffer_size=READ_BYTES,
                pre_buffer=False,
                read_dictionary=_texts_of_rows(metadata.schema),
            )
        yield from _items(file, _Json(limits.max_depth).schema(file.schema_arrow), _batch_rows(sizes), limits)


class _reading:  # noqa: N801 — a context manager, and used like a function
    """Turns what is said of a broken file into BadRequest: Arrow reports broken pages as OSError, and names that are no
    UTF-8 as ValueError, and so is a footer reported that we cannot read."""

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, pa.ArrowException | OSError | ValueError):
            raise refused(BadRequest, "", f"not Parquet that can be read: {_first_line(error)}") from None


class _Size(NamedTuple):
    """Of a row group, as the footer says."""

    n_rows: int
    n_bytes: int
    n_values: int


def _sizes(spool: BinaryIO, metadata: Any) -> list[_Size]:
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    return [
        _Size(group.num_rows, group.total_byte_size, n_values)
        for group, n_values in zip(groups, values_of_groups(spool), strict=True)
    ]


def _check_size(n_rows: int, sizes: Sequence[_Size], limits: Limits) -> None:
    """TooLarge for a file that says itself that it holds too much, before any of it is read."""
    if n_rows > limits.max_items:
        raise TooLarge(f"the body has more than {limits.max_items:,} items; upload it in parts")
    n_bytes = n_values = 0
    for index, group in enumerate(sizes):
        n_bytes += group.n_bytes
        n_values += group.n_values
        # A million equal values may take a few bytes here; as JSON each takes one at least.
        if max(n_bytes, n_values) > limits.max_bytes:
            detail = f"larger than {limits.max_bytes:,} bytes when decompressed; upload it in parts"
            raise TooLarge(f"the body is {detail}")
        most_bytes = (group.n_rows or 1) * limits.max_item_bytes
        if group.n_values > most_bytes or group.n_bytes > _MAX_SHRINK * most_bytes + 2 * BATCH_BYTES:
            raise TooLarge(f"row group {index} has items larger than {limits.max_item_bytes:,} bytes")


def _texts_of_rows(schema: Any) -> list[str]:
    """The columns of text that are no part of a list: read with each different value once, as they are in the file."""
    columns = (schema.column(index) for index in range(len(schema)))
    return [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY" and not column.max_repetition_level and "." not in column.path
    ]


def _items(file: Any, schema: Any, batch_rows: int, limits: Limits) -> Iterator[bytes]:
    batches = file.iter_batches(batch_size=batch_rows, use_threads=False)
    n_read = n_bytes = 0
    max_json_bytes = _MAX_GROWTH * limits.max_bytes
    while True:
        with _reading():
            batch = next(batches, None)
        if batch is None:
            return
        for part in _handy(batch, 2 * limits.max_item_bytes):
            for row, item in enumerate(_texts(part, schema, n_read), n_read + 1):
                if len(item) > limits.max_item_bytes:
                    raise item_too_large(f"row {row}", limits)
                n_bytes += len(item)
                if n_bytes > max_json_bytes:
                    detail = f"the rows up to here are larger than {max_json_bytes:,} bytes of JSON"
                    raise refused(TooLarge, f"row {row}", f"{detail}, names included")
                yield item
            n_read += part.num_rows


def _batch_rows(sizes: Sequence[_Size]) -> int:
    """Rows to read at once: fewer where they are long."""
    row_bytes = max(
        (max(each.n_bytes, each.n_values) / each.n_rows for each in sizes if each.n_rows), default=0
    )
    return max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(row_bytes, 1))))


def _handy(batch: Any, max_bytes: int) -> Iterator[Any]:
    """A batch, halved until no part can be larger than `max_bytes`, or has one row, when each value stands in it."""
    if batch.num_rows == 1 or sum(map(_most_bytes, batch.columns)) <= max_bytes:
        yield batch
    else:
        half = batch.num_rows // 2
        yield from _handy(batch.slice(0, half), max_bytes)
        yield from _handy(batch.slice(half), max_bytes)


def _most_bytes(column: Any) -> int:
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    return len(column) * (pc.max(pc.binary_length(column.dictionary)).as_py() or 0)


def _texts(batch: Any, schema: Any, n_read: int) -> list[bytes]:
    """The JSON text of each row of a batch; `n_read` rows came before it."""
    try:
        values = batch.cast(schema).to_pylist(maps_as_pydicts="strict")
        return exact.dumps_objects(values, _dumps)
    except _NO_JSON as error:
        if batch.num_rows > 1:  # which of them?
            return [
                text
                for row in range(batch.num_rows)
                for text in _texts(batch.slice(row, 1), schema, n_read + row)
            ]
        raise refused(Invalid, f"row {n_read + 1}", _fault(batch, schema) or _first_line(error)) from None


def _fault(row: Any, schema: Any) -> str:
    """Which column of a row has no JSON form, and why."""
    for column, field in zip(row.columns, schema, strict=True):
        try:
            _dumps(column.cast(field.type).to_pylist(maps_as_pydicts="strict"))
        except _NO_JSON as error:
            return f"the column `{field.name}` has a value that JSON has no form for: {_first_line(error)}"
    return ""


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, default=_number, option=_OPTIONS)


def _number(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError(f"{type(value).__name__} is no JSON")


class _Json:
    """The Arrow types to read a file's columns as, so that every value has a JSON form that loses nothing."""

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth

    def schema(self, schema: Any) -> Any:
        return pa.schema(self._fields(schema, "", 1))

    def _fields(self, fields: Iterable[Any], within: str, depth: int) -> list[Any]:
        read: dict[str, Any] = {}
        for field in fields:
            name = f"{within}{field.name}"
            if field.name in read:
                raise _refused_column(name, "is there twice")
            read[field.name] = pa.field(field.name, self._type(field.type, name, depth), field.nullable)
        return list(read.values())

    def _type(self, kind: Any, name: str, depth: int) -> Any:
        if depth > self._max_depth:
            raise _refused_column(name, f"nests lists and structs deeper than {self._max_depth} levels")
        types = pa.types
        if types.is_struct(kind):
            return pa.struct(self._fields(kind, f"{name}.", depth + 1))
        if types.is_map(kind):
            key, item = (self._type(part, name, depth + 1) for part in (kind.key_type, kind.item_type))
            return pa.map_(key, item)
        if types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind):
            return pa.list_(self._type(kind.value_type, name, depth + 1))
        if types.is_dictionary(kind):
            return self._type(kind.value_type, name, depth)
        if isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.UuidType):
            return self._type(kind.storage_type, name, depth)
        for is_kind, read_as in _READ_AS:
            if is_kind(kind):
                return read_as(kind)
        raise _refused_column(name, f"is of type {kind}, for which JSON has no form: cast it to a string")


def _as_it_is(kind: Any) -> Any:
    return kind


_READ_AS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Any]], ...] = (
    (pa.types.is_timestamp, lambda kind: pa.timestamp("us", kind.tz and "UTC")),
    (pa.types.is_time, lambda _: pa.time64("us")),
    (pa.types.is_float16, lambda _: pa.float64()),
    (lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind), lambda _: pa.large_string()),
    (pa.types.is_fixed_size_binary, lambda _: pa.string()),
    (pa.types.is_null, _as_it_is),
    (pa.types.is_boolean, _as_it_is),
    (pa.types.is_integer, _as_it_is),
    (pa.types.is_floating, _as_it_is),
    (pa.types.is_decimal, _as_it_is),
    (pa.types.is_date, _as_it_is),
    (lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind), _as_it_is),
    (lambda kind: isinstance(kind, pa.UuidType), _as_it_is),
)
"""What a value is read as. Python's times end at microseconds: a finer one is refused, not cut."""


def _refused_column(name: str, detail: str) -> ServingError:
    return Invalid(f"the column `{name}` {detail}")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
