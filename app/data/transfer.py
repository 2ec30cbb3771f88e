"""Bytes on their way in: limited, measured and regrouped before any format is looked at."""

import hashlib
from collections.abc import Iterable, Iterator

from app.errors import TooLarge

PIECE_BYTES = 64 << 10


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
