"""Answers as a Parquet file, written as a stream. Needs pyarrow, an extra.

Parquet needs each column's type before the first row, and JSON tells it only with the last: the payloads are read
twice, once for the types and once for the values.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from app.data import exact

GROUP_BYTES = 8 << 20
"""Bytes of JSON in a row group, which is in memory until it is written."""
GROUP_CELLS = 8 << 20
"""Cells in one at most: where each answer has fields of its own, most are empty, and take memory all the same."""
_EXACT = 2**53  # a double holds every integer up to it
_SMALL = pa.int32()  # stands for integers that a double holds, until all types are known

Payloads = Iterable[tuple[bytes, int]]


def write_parquet(payloads: Callable[[], Payloads], columns: Sequence[str]) -> Iterator[bytes]:
    """A file with these columns, one row per answer; `payloads` is called twice.

    A column has the type of its values: boolean, int64, double, text, lists and structs of them. One whose values
    are of several kinds, or of none that Parquet has, is text: strings as they are, all else compact JSON.
    Absent fields are null.
    """
    types = _types(payloads(), columns)
    schema = pa.schema([pa.field(name, types.get(name, pa.string())) for name in columns])
    texts = {name for name in columns if name not in types}
    sink = _Sink()
    most_rows = max(1, GROUP_CELLS // max(1, len(columns)))
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, compression="zstd") as writer:
        group: list[Any] = []
        n_bytes = n_rows = 0
        for payload, _ in payloads():
            n_bytes += len(payload)
            answers = _answers(payload)
            for start in range(0, len(answers), most_rows):
                group.append(_batch(answers[start : start + most_rows], schema, texts))
                n_rows += group[-1].num_rows
                if n_bytes >= GROUP_BYTES or n_rows >= most_rows:
                    writer.write_table(pa.Table.from_batches(group, schema))
                    group, n_bytes, n_rows = [], 0, 0
                    yield sink.drained()
        if group:
            writer.write_table(pa.Table.from_batches(group, schema))
    yield sink.drained()


class _Sink(io.RawIOBase):
    """Where Arrow writes: what came since the last look, and how much there was in all."""

    def __init__(self) -> None:
        self._written = bytearray()
        self._n_bytes = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._n_bytes

    def write(self, data: Any) -> int:
        self._written += data
        self._n_bytes += len(data)
        return len(data)

    def drained(self) -> bytes:
        block = bytes(self._written)
        self._written.clear()
        return block


def _answers(payload: bytes) -> list[dict[str, Any]]:
    return [answer for answer in exact.loads(payload) if answer is not None]


def _batch(answers: list[dict[str, Any]], schema: Any, texts: set[str]) -> Any:
    arrays = []
    present = set().union(*answers)
    for field in schema:
        if field.name not in present:
            arrays.append(pa.nulls(len(answers), field.type))
            continue
        values: list[Any] = [answer.get(field.name) for answer in answers]
        if field.name in texts:
            values = list(map(_text, values))
        arrays.append(pa.array(values, field.type))
    return pa.record_batch(arrays, schema=schema)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else exact.dumps(value).decode()


def _types(payloads: Payloads, columns: Sequence[str]) -> dict[str, Any]:
    """The type of each column that has one."""
    types: dict[str, Any] = dict.fromkeys(columns, pa.null())
    for payload, _ in payloads:
        answers = _answers(payload)
        for name in types.keys() & set().union(*answers):
            try:
                found = pa.array([answer.get(name) for answer in answers])
                types[name] = _merged(types[name], _narrowed(found))
            except (pa.ArrowException, OverflowError):
                del types[name]
    final = {name: _final(kind) for name, kind in types.items()}
    return {name: kind for name, kind in final.items() if kind is not None}


def _narrowed(array: Any) -> Any:
    """The type of an array, with `_SMALL` for its integers if a double holds them all."""
    kind = array.type
    if pa.types.is_integer(kind):
        low, high = pc.min_max(array).as_py().values()
        return _SMALL if (low or 0) >= -_EXACT and (high or 0) <= _EXACT else pa.int64()
    if pa.types.is_list(kind):
        return pa.list_(_narrowed(array.flatten()))
    if pa.types.is_struct(kind):
        parts = zip(kind, array.flatten(), strict=True)
        return pa.struct([pa.field(field.name, _narrowed(part)) for field, part in parts])
    return kind


def _merged(one: Any, other: Any) -> Any:
    """The type that holds the values of both; ArrowTypeError if there is none."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_list(one) and pa.types.is_list(other):
        return pa.list_(_merged(one.value_type, other.value_type))
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        fields = {field.name: field.type for field in one}
        for field in other:
            fields[field.name] = _merged(fields.get(field.name, field.type), field.type)
        return pa.struct(list(fields.items()))
    pair = {one, other}
    for kind in (pa.int64(), pa.float64()):
        if pair == {_SMALL, kind}:
            return kind
    raise pa.ArrowTypeError(f"no type holds {one} and {other}")


def _final(kind: Any) -> Any:
    """The type to write; None for an object without any field, which Parquet does not have."""
    if kind == _SMALL:
        return pa.int64()
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        inner = _final(kind.value_type)
        return inner and pa.list_(inner)
    if pa.types.is_struct(kind):
        fields = [(field.name, _final(field.type)) for field in kind]
        return pa.struct(fields) if fields and all(inner for _, inner in fields) else None
    return kind
