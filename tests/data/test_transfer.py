"""Decompression that cannot be made to inflate in memory, and the measure of what passes."""

import gzip
import hashlib
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.data import Format, Measured, decompress, read_items
from app.data.transfer import MAX_STEP_BYTES, PIECE_BYTES, regrouped
from app.errors import BadRequest, TooLarge, UnsupportedMediaType
from tests.data import bodies
from tests.data.bodies import LIMITS, Cut, both_cuts, bytewise

MIB = 1 << 20


@bodies.sampled
@given(st.data(), st.lists(st.binary(max_size=200), min_size=1, max_size=4))
def test_gzip_members_come_out_joined_wherever_the_blocks_are_cut(
    data: st.DataObject, members: list[bytes]
) -> None:
    body = b"".join(map(gzip.compress, members))
    blocks = data.draw(bodies.split(body))
    assert b"".join(decompress(blocks, "gzip", MIB)) == b"".join(members)


@pytest.mark.parametrize("encoding", [None, "", "identity", " Identity "])
def test_without_an_encoding_blocks_pass_as_they_are(encoding: str | None) -> None:
    assert list(decompress([b"a", b"", b"bc"], encoding, 3)) == [b"a", b"", b"bc"]


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip"])
def test_another_encoding_is_refused_before_a_byte_is_read(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="gzip and identity") as refusal:
        decompress([], encoding, MIB)
    assert refusal.value.headers["Accept-Encoding"] == "gzip, identity"


_GZIPPED = gzip.compress(b"some text, " * 100, mtime=0)  # the time would be part of test ids


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "cut short after 0 bytes"),
        (_GZIPPED[:5], "cut short after 5 bytes"),
        (_GZIPPED[:-1], "cut short"),
        (_GZIPPED + _GZIPPED[:15], "cut short"),
        (b'{"data":[]}', "corrupt"),
        (_GZIPPED + b"garbage", "something follows it"),
        (_GZIPPED + b"\0" * 512, "something follows it"),
        (_GZIPPED[:-8] + b"\0" * 8, "corrupt"),
        (_GZIPPED[:12] + b"\xff\xff" + _GZIPPED[14:], "corrupt"),
        (zlib.compress(b"x"), "corrupt"),
    ],
)
@both_cuts
def test_damaged_gzip_is_refused(cut: Cut, body: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        list(decompress(cut(body), "gzip", MIB))


def test_a_zip_bomb_stops_at_the_limit_in_bounded_steps() -> None:
    bomb = gzip.compress(bytes(64 * MIB))
    sizes: list[int] = []
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            sizes.extend(map(len, decompress([bomb], "gzip", 32 * MIB)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max(sizes) <= MAX_STEP_BYTES
    assert 31 * MIB <= sum(sizes) <= 32 * MIB
    assert peak_bytes < 4 * MIB


def test_output_that_fills_a_step_exactly_is_not_lost() -> None:
    content = bytes(3 * MAX_STEP_BYTES)
    assert b"".join(decompress([gzip.compress(content)], "gzip", len(content))) == content


def test_a_body_of_empty_members_is_bounded_too() -> None:
    with pytest.raises(TooLarge):
        list(decompress([gzip.compress(b"")] * 1000, "gzip", 10_000))


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
