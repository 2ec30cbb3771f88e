"""Compression both ways: what comes in cannot be made to inflate in memory, what goes out is what a client likes."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.data import Coding, coding_of_accept_encoding, compress, decompress
from app.data.codings import MAX_STEP_BYTES
from app.errors import BadRequest, NotAcceptable, TooLarge, UnsupportedMediaType
from tests.data import bodies
from tests.data.bodies import Cut, both_cuts, zstd

MIB = 1 << 20
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: gzip.compress(body, mtime=0),
    "zstd": zstd.compress,
}
both_codings = pytest.mark.parametrize("coding", PACK)
SKIPPABLE = b"\x50\x2a\x4d\x18\x05\x00\x00\x00notes"


@both_codings
@bodies.sampled
@given(data=st.data(), members=st.lists(st.binary(max_size=200), min_size=1, max_size=4))
def test_members_come_out_joined_wherever_the_blocks_are_cut(
    data: st.DataObject, members: list[bytes], coding: str
) -> None:
    body = b"".join(map(PACK[coding], members))
    blocks = data.draw(bodies.split(body))
    assert b"".join(decompress(blocks, coding, MIB)) == b"".join(members)


@pytest.mark.parametrize("encoding", [None, "", "identity", " Identity "])
def test_without_an_encoding_blocks_pass_as_they_are(encoding: str | None) -> None:
    assert list(decompress([b"a", b"", b"bc"], encoding, 3)) == [b"a", b"", b"bc"]


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd, gzip", "gzip, gzip"])
def test_another_encoding_is_refused_before_a_byte_is_read(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="zstd, gzip, identity") as refusal:
        decompress([], encoding, MIB)
    assert refusal.value.headers["Accept-Encoding"] == "zstd, gzip, identity"


_GZIPPED = gzip.compress(b"some text, " * 100, mtime=0)  # the time would be part of test ids
_ZSTD = zstd.compress(b"some text, " * 100, options={zstd.CompressionParameter.checksum_flag: 1})


@pytest.mark.parametrize(
    ("coding", "body", "words"),
    [
        ("gzip", b"", "cut short after 0 bytes"),
        ("gzip", _GZIPPED[:5], "cut short after 5 bytes"),
        ("gzip", _GZIPPED[:-1], "cut short"),
        ("gzip", _GZIPPED + _GZIPPED[:15], "cut short"),
        ("gzip", b'{"data":[]}', "corrupt"),
        ("gzip", _GZIPPED + b"garbage", "something follows it"),
        ("gzip", _GZIPPED + b"\0" * 512, "something follows it"),
        ("gzip", _GZIPPED[:-8] + b"\0" * 8, "corrupt"),
        ("gzip", _GZIPPED[:12] + b"\xff\xff" + _GZIPPED[14:], "corrupt"),
        ("gzip", zlib.compress(b"x"), "corrupt"),
        ("zstd", b"", "cut short after 0 bytes"),
        ("zstd", _ZSTD[:5], "cut short after 5 bytes"),
        ("zstd", _ZSTD[:-1], "cut short"),
        ("zstd", _ZSTD + _ZSTD[:15], "cut short"),
        ("zstd", b'{"data":[]}', "corrupt"),
        ("zstd", _ZSTD + b"garbage", "something follows it"),
        ("zstd", _ZSTD[:-4] + b"\0" * 4, "corrupt"),
        ("zstd", _GZIPPED, "corrupt"),
    ],
)
@both_cuts
def test_a_damaged_body_is_refused(cut: Cut, coding: str, body: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=f"{coding} body .*{words}"):
        list(decompress(cut(body), coding, MIB))


@both_codings
def test_a_bomb_stops_at_the_limit_in_bounded_steps(coding: str) -> None:
    bomb = PACK[coding](bytes(64 * MIB))
    sizes: list[int] = []
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            sizes.extend(map(len, decompress([bomb], coding, 32 * MIB)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max(sizes) <= MAX_STEP_BYTES
    assert 31 * MIB <= sum(sizes) <= 32 * MIB
    assert peak_bytes < 4 * MIB


@both_codings
def test_a_bomb_of_many_members_stops_at_the_limit(coding: str) -> None:
    with pytest.raises(TooLarge):
        for _ in decompress([PACK[coding](bytes(MIB))] * 33, coding, 32 * MIB):
            pass


def test_a_zstd_frame_that_looks_back_further_than_8_mib_is_refused() -> None:
    far = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    body = far.compress(bytes(MIB)) + far.flush()
    with pytest.raises(BadRequest, match="too much memory"):
        list(decompress([body], "zstd", 1 << 30))


def test_zstd_notes_between_frames_are_skipped() -> None:
    body = SKIPPABLE + zstd.compress(b"a") + SKIPPABLE + zstd.compress(b"b")
    assert b"".join(decompress([body], "zstd", MIB)) == b"ab"


@both_codings
def test_output_that_fills_a_step_exactly_is_not_lost(coding: str) -> None:
    content = bytes(3 * MAX_STEP_BYTES)
    assert b"".join(decompress([PACK[coding](content)], coding, len(content))) == content


@both_codings
def test_a_body_of_empty_members_is_bounded_too(coding: str) -> None:
    with pytest.raises(TooLarge):
        list(decompress([PACK[coding](b"")] * 2000, coding, 10_000))


@pytest.mark.parametrize("coding", Coding)
@bodies.sampled
@given(blocks=st.lists(st.binary(max_size=200)))
def test_what_is_compressed_is_the_same_bytes(coding: Coding, blocks: list[bytes]) -> None:
    assert b"".join(decompress(compress(blocks, coding), coding, MIB)) == b"".join(blocks)


@pytest.mark.parametrize("coding", [Coding.GZIP, Coding.ZSTD])
def test_compression_begins_before_the_last_block_is_there(coding: Coding) -> None:
    taken: list[int] = []

    def blocks() -> Iterator[bytes]:
        for index in range(100):
            taken.append(index)
            yield index.to_bytes(4) * 5000 + zlib.compress(bytes([index]) * 50_000)

    first = next(iter(compress(blocks(), coding)))

    assert first
    assert len(taken) < 100


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, Coding.IDENTITY),
        ("", Coding.IDENTITY),
        ("*", Coding.IDENTITY),
        ("br", Coding.IDENTITY),
        ("gzip", Coding.GZIP),
        ("x-gzip", Coding.GZIP),
        ("GZIP;Q=0.1", Coding.GZIP),
        ("gzip, deflate, br, zstd", Coding.ZSTD),
        ("gzip;q=1.0, zstd;q=0.5", Coding.GZIP),
        ("gzip;q=0.5, identity", Coding.IDENTITY),
        ("gzip;q=0.5, identity;q=0.4", Coding.GZIP),
        ("identity;q=0.5, *;q=0.4", Coding.IDENTITY),
        ("identity;q=0, *", Coding.ZSTD),
        ("identity;q=0, *, zstd;q=0", Coding.GZIP),
        ("gzip;q=0", Coding.IDENTITY),
        ("gzip;q=much, zstd;q=0.2", Coding.ZSTD),
    ],
)
def test_accept_encoding_chooses_by_weight_then_by_our_order(header: str | None, coding: Coding) -> None:
    assert coding_of_accept_encoding(header) is coding


@pytest.mark.parametrize("header", ["identity;q=0", "*;q=0", "br, *;q=0", "identity;q=0, gzip;q=0, br"])
def test_accept_encoding_without_any_of_ours_is_refused(header: str) -> None:
    with pytest.raises(NotAcceptable, match="zstd, gzip, identity") as refusal:
        coding_of_accept_encoding(header)
    assert refusal.value.errors[0].pointer == "Accept-Encoding:"
