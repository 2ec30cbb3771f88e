"""The measure of what passes, and pieces of a handy size."""

import gzip
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.data import Format, Measured, decompress, read_items
from app.data.transfer import PIECE_BYTES, regrouped
from tests.data import bodies
from tests.data.bodies import LIMITS, bytewise

MIB = 1 << 20


@bodies.sampled
@given(st.lists(st.binary(max_size=50)))
def test_measured_counts_and_hashes_what_passed(blocks: list[bytes]) -> None:
    measured = Measured(blocks)
    assert list(measured) == blocks
    assert measured.n_bytes == len(b"".join(blocks))
    assert measured.sha256 == hashlib.sha256(b"".join(blocks)).hexdigest()


def test_reading_measures_every_byte_of_the_body_white_space_included() -> None:
    body = b'\n{"data":[{"a":1}]}\n\n'
    measured = Measured(decompress(bytewise(gzip.compress(body)), "gzip", MIB))
    chunks = list(read_items(measured, Format.JSON, LIMITS))
    assert chunks[0].payload == b'[{"a":1}]'
    assert (measured.n_bytes, measured.sha256) == (len(body), hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize("sizes", [[1] * 200_000, [10_000_000], [0, 5, 0], [100_000, 1, 100_000], []])
def test_regrouped_pieces_are_the_same_bytes_in_handy_sizes(sizes: list[int]) -> None:
    blocks = [bytes([index % 251]) * size for index, size in enumerate(sizes)]
    pieces = list(regrouped(blocks))
    assert b"".join(pieces) == b"".join(blocks)
    assert all(PIECE_BYTES <= len(piece) < 2 * PIECE_BYTES for piece in pieces[:-1])
