"""Compression of bodies, both ways: `Content-Encoding` of what comes in, `Accept-Encoding` for what goes out."""

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Protocol

from app.data.negotiation import weighted
from app.data.transfer import at_most
from app.errors import BadRequest, FieldError, NotAcceptable, UnsupportedMediaType

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_STEP_BYTES = 1 << 20
"""Most that one step of decompression puts into memory."""
ZSTD_WINDOW_LOG = 23
"""A sender may not look back further than 8 MiB, a receiver need not remember more (RFC 9659). Without this limit
a frame of a few bytes could ask for 128 MiB."""
GZIP_LEVEL, ZSTD_LEVEL = 1, 3
"""Measured on answers of 90 bytes: gzip's level 6 takes twice as long as 1 and saves less than a tenth; zstd's usual
level costs a quarter of gzip's fastest and saves more."""
_GZIP_WBITS = 31  # zlib: window bits 15, plus 16 for a gzip header and trailer
# Small, because what a decompressor did not use is copied: once per step (zlib), and once per member or frame.
_SLICE_BYTES = 16 << 10
_LAST_RESORT = 0.0001  # below any weight that can be written


class Coding(StrEnum):
    """How a body is compressed. The order is ours when a client likes several equally: nothing is the least work."""

    IDENTITY = "identity"
    ZSTD = "zstd"
    GZIP = "gzip"


_OURS = ", ".join((Coding.ZSTD, Coding.GZIP, Coding.IDENTITY))
_ALIASES = {"x-gzip": Coding.GZIP.value, "": Coding.IDENTITY.value}


def decompress(blocks: Iterable[bytes], encoding: str | None, max_bytes: int) -> Iterator[bytes]:
    """The decoded blocks of a body with this `Content-Encoding`: none, `identity`, `gzip` or `zstd`.

    Raises UnsupportedMediaType at once for another encoding. While read: TooLarge once more than `max_bytes`
    came out (or went in), BadRequest for what is corrupt, cut short or followed by something else.
    """
    name = (encoding or "").strip().lower()
    match _ALIASES.get(name, name):
        case Coding.IDENTITY:
            return at_most(blocks, max_bytes)
        case Coding.GZIP:
            decoded = _inflated(at_most(blocks, max_bytes), "gzip", _gzip_member, zlib.error)
        case Coding.ZSTD:
            decoded = _inflated(at_most(blocks, max_bytes), "zstd", _zstd_frame, zstd.ZstdError)
        case _:
            detail = f"is `{name}`; this path reads {_OURS}"
            raise UnsupportedMediaType(
                f"`Content-Encoding` {detail}",
                errors=[FieldError("Content-Encoding:", detail)],
                headers={"Accept-Encoding": _OURS},
            )
    return at_most(decoded, max_bytes)


def compress(blocks: Iterable[bytes], coding: Coding) -> Iterable[bytes]:
    """The blocks of a body in this coding, compressed as they come."""
    match coding:
        case Coding.GZIP:
            return _deflated(blocks, zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS))
        case Coding.ZSTD:
            return _deflated(blocks, zstd.ZstdCompressor(ZSTD_LEVEL))
        case Coding.IDENTITY:
            return blocks


def coding_of_accept_encoding(header: str | None) -> Coding:
    """The coding that a client likes best; none when it does not say. NotAcceptable when it takes none of ours.

    Among equal weights one that is named wins over one that `*` lets in, then our own order. Without compression
    is always acceptable, unless `identity;q=0` or `*;q=0` says otherwise (RFC 9110, 12.5.3).
    """
    weights = {_ALIASES.get(name, name): weight for name, weight in weighted(header or "")}
    best, best_rank = Coding.IDENTITY, (0.0, False)
    for coding in Coding:
        others = _LAST_RESORT if coding is Coding.IDENTITY else 0.0
        rank = (weights.get(coding, weights.get("*", others)), coding in weights)
        if rank[0] and rank > best_rank:
            best, best_rank = coding, rank
    if not best_rank[0]:
        detail = f"accepts none of the codings that can be sent: {_OURS}"
        raise NotAcceptable(f"`Accept-Encoding` {detail}", errors=[FieldError("Accept-Encoding:", detail)])
    return best


class _Decompressor(Protocol):
    """One gzip member or one zstd frame."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def _gzip_member() -> _Decompressor:
    return zlib.decompressobj(_GZIP_WBITS)


def _zstd_frame() -> _Decompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG})


def _inflated(
    blocks: Iterable[bytes], name: str, begin: Callable[[], _Decompressor], broken: type[Exception]
) -> Iterator[bytes]:
    """The content of one or more members (RFC 1952, 2.2) or frames (RFC 8878, 3), `MAX_STEP_BYTES` at a time."""
    member = begin()
    n_read = 0
    for block in blocks:
        for start in range(0, len(block), _SLICE_BYTES):
            data = block[start : start + _SLICE_BYTES]
            n_read += len(data)
            while True:
                if member.eof:
                    if not data:
                        break
                    member = begin()
                try:
                    inflated = member.decompress(data, MAX_STEP_BYTES)
                except broken as error:
                    raise BadRequest(
                        f"the {name} body is corrupt, or something follows it, before byte {n_read}: {error}"
                    ) from None
                if inflated:
                    yield inflated
                # zstd keeps what it has not come to; zlib hands it back.
                data = member.unused_data if member.eof else getattr(member, "unconsumed_tail", b"")
                # A full step may leave more inside, even when all input was taken.
                if not data and len(inflated) < MAX_STEP_BYTES:
                    break
    if not member.eof:
        raise BadRequest(f"the {name} body is cut short after {n_read} bytes")


def _deflated(blocks: Iterable[bytes], compressor: _Compressor) -> Iterator[bytes]:
    for block in blocks:
        if deflated := compressor.compress(block):
            yield deflated
    yield compressor.flush()
