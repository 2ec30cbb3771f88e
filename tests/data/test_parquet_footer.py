"""What we read in a Parquet file's footer is what Arrow reads there, and no damage to a file ends the process."""

import io
import subprocess
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.data.parquet_footer import MAX_FOOTER_BYTES, values_of_groups
from tests.data.bodies import parquet

TABLES = {
    "numbers": {"a": [1, None, 3]},
    "text": {"a": ["x", "y"] * 3000},
    "booleans": {"a": [True, None, False]},
    "lists": {"a": [[1, 2], [], None]},
    "structs": {"a": [{"x": 1, "y": ["p"]}, None]},
    "maps": {"a": pa.array([[("k", 1), ("l", 2)]], pa.map_(pa.string(), pa.int64()))},
    "times": {"a": pa.array([1, 2], pa.timestamp("us", "UTC"))},
    "many columns": {f"c{index}": [index, None] for index in range(40)},
    "nothing": {"a": pa.array([], pa.int8())},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plainly": {},
    "in many groups": {"row_group_size": 1},
    "with indexes": {"write_page_index": True, "write_page_checksum": True},
    "as of old": {"version": "1.0", "use_dictionary": False, "write_statistics": False},
    "bare": {"store_schema": False, "compression": "none"},
}
DAMAGE = """
import io
import pyarrow as pa, pyarrow.parquet as pq
from app.data import Format, read_items
from app.errors import ServingError
from tests.data.bodies import LIMITS, parquet

body = parquet(pa.table({"a": ["x", None], "b": [[1], []]}), compression="none", store_schema=False)
n_refused = 0
for place in range(4, len(body) - 8):
    for byte in (0, 1, body[place] ^ 16, 255):
        try:
            list(read_items([body[:place] + bytes([byte]) + body[place + 1 :]], Format.PARQUET, LIMITS))
        except ServingError:
            n_refused += 1
print(n_refused)
"""


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("columns", TABLES.values(), ids=TABLES)
def test_the_values_of_each_group_are_those_that_arrow_counts(
    columns: dict[str, Any], options: dict[str, Any]
) -> None:
    body = parquet(pa.table(columns).slice(0, 300), **options)
    metadata = pq.read_metadata(io.BytesIO(body))
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]

    assert values_of_groups(io.BytesIO(body)) == [
        sum(group.column(column).num_values for column in range(group.num_columns)) for group in groups
    ]


def test_a_field_of_another_kind_is_left_out_as_arrow_does() -> None:
    body = parquet(pa.table({"a": [1, 2]}))
    n_bytes = int.from_bytes(body[-8:-4], "little")
    footer = body[-8 - n_bytes : -8]
    assert footer[-1] == 0
    # One more field, after the last: number 4 again, of bytes, which hold what would be a list of nothing but numbers.
    crafted = footer[:-1] + b"\x08\x08" + b"\x90\x4e" + b"\xff" * 10_000 + b"\x00"
    file = io.BytesIO(body[: -8 - n_bytes] + crafted + len(crafted).to_bytes(4, "little") + b"PAR1")

    assert values_of_groups(file) == [2]
    with pytest.raises(ValueError, match="more than 64 bits"):
        values_of_groups(io.BytesIO(b"\x15" + b"\xff" * 99 + (100).to_bytes(4, "little") + b"PAR1"))


def test_a_footer_that_would_take_long_is_refused() -> None:
    with pytest.raises(ValueError, match="larger than 8,388,608 bytes: write fewer row groups"):
        values_of_groups(io.BytesIO((MAX_FOOTER_BYTES + 1).to_bytes(4, "little") + b"PAR1"))


def test_whatever_byte_of_a_file_is_damaged_the_process_lives() -> None:
    """Arrow itself ends it, where statistics contradict each other."""
    done = subprocess.run([sys.executable, "-c", DAMAGE], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 500
