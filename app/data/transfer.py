"""Bytes on their way in: decompressed, measured and regrouped before any format is looked at."""

import hashlib
import zlib
from collections.abc import Iterable, Iterator

from app.errors import BadRequest, FieldError, TooLarge, UnsupportedMediaType

MAX_STEP_BYTES = 1 << 20
"""Most that one step of decompression puts into memory."""
PIECE_BYTES = 64 << 10
_GZIP_WBITS = 31  # zlib: window bits 15, plus 16 for a gzip header and trailer
# Small, because zlib hands back a copy of what it did not use: once per step, and once per gzip member.
_GZIP_SLICE_BYTES = 16 << 10


def decompress(blocks: Iterable[bytes], encoding: str | None, max_bytes: int) -> Iterator[bytes]:
    """The decoded blocks of a body with this `Content-Encoding`: none, `identity` or `gzip`.

    Raises UnsupportedMediaType at once for another encoding. While read: TooLarge once more than `max_bytes`
    came out (or went in), BadRequest for gzip that is corrupt, cut short or followed by something else.
    """
    name = (encoding or "identity").strip().lower()
    if name in ("gzip", "x-gzip"):
        return at_most(_gunzip(at_most(blocks, max_bytes)), max_bytes)
    if name in ("identity", ""):
        return at_most(blocks, max_bytes)
    detail = f"is `{name}`; this path reads gzip and identity"
    raise UnsupportedMediaType(
        f"`Content-Encoding` {detail}",
        errors=[FieldError("Content-Encoding:", detail)],
        headers={"Accept-Encoding": "gzip, identity"},
    )


class Measured:
    """Blocks, passed on as they are; `n_bytes` and `sha256` (hex) tell of all that passed so far."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = blocks
        self._hash = hashlib.sha256()
        self.n_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            self._hash.update(block)
            self.n_bytes += len(block)
            yield block

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def at_most(blocks: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """The same blocks; raises TooLarge at the block that passes `max_bytes`."""
    n_bytes = 0
    for block in blocks:
        n_bytes += len(block)
        if n_bytes > max_bytes:
            raise TooLarge(f"the body is larger than {max_bytes:,} bytes; upload it in parts")
        yield block


def regrouped(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of `PIECE_BYTES` to twice that (the last may be smaller).

    A reader copies what a block left unfinished in front of the next: with blocks of one byte that would be
    quadratic, with a block of 100 MB it would take several times its memory.
    """
    waiting = bytearray()
    for block in blocks:
        for start in range(0, len(block), PIECE_BYTES):
            waiting += block[start : start + PIECE_BYTES]
            if len(waiting) >= PIECE_BYTES:
                yield bytes(waiting)
                waiting.clear()
    if waiting:
        yield bytes(waiting)


def _gunzip(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The content of one or more gzip members (RFC 1952, 2.2), at most `MAX_STEP_BYTES` at a time."""
    member = zlib.decompressobj(_GZIP_WBITS)
    n_read = 0
    for block in blocks:
        for start in range(0, len(block), _GZIP_SLICE_BYTES):
            data = block[start : start + _GZIP_SLICE_BYTES]
            n_read += len(data)
            while True:
                if member.eof:
                    if not data:
                        break
                    member = zlib.decompressobj(_GZIP_WBITS)
                try:
                    inflated = member.decompress(data, MAX_STEP_BYTES)
                except zlib.error as error:
                    raise BadRequest(
                        f"the gzip body is corrupt, or something follows it, before byte {n_read}: {error}"
                    ) from None
                if inflated:
                    yield inflated
                data = member.unused_data if member.eof else member.unconsumed_tail
                # A full step may leave more inside zlib, even when it has taken all its input.
                if not data and len(inflated) < MAX_STEP_BYTES:
                    break
    if not member.eof:
        raise BadRequest(f"the gzip body is cut short after {n_read} bytes")
