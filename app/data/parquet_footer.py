"""How many values a Parquet file's row groups hold, by its footer, which is a struct in Thrift's compact protocol.

pyarrow has read the footer, too, but ends the process (`std::terminate`) when it is asked about a column whose
statistics contradict each other. So it is never asked, and meets such a column where it reads it, which is an error.
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from collections.abc import Iterator
from typing import BinaryIO

MAX_FOOTER_BYTES = 8 << 20
"""Some 75,000 columns of row groups, which take two seconds to read here."""
_TAIL_BYTES = 8
_INTEGERS, _LIST, _STRUCT = (4, 5, 6), 9, 12
_ROW_GROUPS, _COLUMNS, _META_DATA, _NUM_VALUES = 4, 1, 3, 5


def values_of_groups(file: BinaryIO) -> list[int]:
    """For each row group, the values in all of its columns, by the footer of a file whose metadata Arrow has read.

    `ValueError` if that is longer than `MAX_FOOTER_BYTES`, or is none.
    """
    end = file.seek(-_TAIL_BYTES, 2)
    n_bytes = int.from_bytes(file.read(4), "little")
    if n_bytes > MAX_FOOTER_BYTES:
        raise ValueError(f"its footer is larger than {MAX_FOOTER_BYTES:,} bytes: write fewer row groups")
    file.seek(end - n_bytes)
    footer = _Compact(file.read(n_bytes))
    return [
        sum(footer.numbers(_COLUMNS, _META_DATA, _NUM_VALUES)) for _ in footer.structs_of_field(_ROW_GROUPS)
    ]


class _Compact:
    """Reads from a struct on; every value is either read or skipped."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def structs_of_field(self, wanted: int) -> Iterator[None]:
        """Stands at each struct of a field that is a list of them, for the caller to read it whole."""
        for field, kind in self._fields():
            if field == wanted and kind == _LIST:
                for _ in range(self._list()[0]):
                    yield
            else:
                self._skip(kind)

    def numbers(self, wanted: int, *within: int) -> Iterator[int]:
        """The integers at a path of fields, from the struct that it stands at."""
        for field, kind in self._fields():
            if field != wanted:
                self._skip(kind)
            elif kind in _INTEGERS and not within:
                yield self._integer()
            elif kind == _STRUCT and within:
                yield from self.numbers(*within)
            elif kind == _LIST and within:
                for _ in range(self._list()[0]):
                    yield from self.numbers(*within)
            else:  # of a kind that it should not have, which Arrow leaves out
                self._skip(kind)

    def _fields(self) -> Iterator[tuple[int, int]]:
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._integer()
            yield field, head & 15

    def _skip(self, kind: int) -> None:
        match kind:
            case 1 | 2:  # a boolean, whose kind is its value
                pass
            case 3:
                self._pass(1)
            case 4 | 5 | 6:
                self._varint()
            case 7:
                self._pass(8)
            case 8:
                self._pass(self._varint())
            case 9 | 10:
                n_values, kind_of_each = self._list()
                for _ in range(n_values):
                    # In a list a boolean takes a byte.
                    self._skip(3 if kind_of_each in (1, 2) else kind_of_each)
            case 12:
                for _, kind_of_field in self._fields():
                    self._skip(kind_of_field)
            case _:
                raise ValueError(f"its footer has a field of the kind {kind}")

    def _list(self) -> tuple[int, int]:
        """How many values there are, and of which kind."""
        head = self._byte()
        return (self._varint() if head >> 4 == 15 else head >> 4), head & 15

    def _integer(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        number = shift = 0
        while (byte := self._byte()) & 128:
            number |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("its footer has a number of more than 64 bits")
        return number | byte << shift

    def _byte(self) -> int:
        self._pass(1)
        return self._data[self._at - 1]

    def _pass(self, n_bytes: int) -> None:
        self._at += n_bytes
        if self._at > len(self._data):
            raise ValueError("its footer ends too soon")
