"""The supply of a runner's models: how many chunks of each are claimed and not done, and how many should be.

A commit and a claim take the loop some ten statements, whether for one chunk or for thirty, and while a model in pure
Python runs, each of them waits for the interpreter. So of short chunks many are claimed ahead and many results gather,
and the loop is woken when half of what was ahead is done: what is left keeps the model at work meanwhile. Where nothing
more comes, it is woken again when half of the rest is done, and so on.
"""

import threading
import time
from collections import Counter
from collections.abc import Collection

from app.jobs.claims import Claim

LINGER_SECONDS = 0.3
"""How long results may gather while every model that runs has enough ahead."""
LEAST_PER_SLOT, MOST_PER_SLOT = 2, 48
"""Chunks to claim for each that a model runs at once: one in the model and one that waits; more of short ones."""
AHEAD_BYTES = 6 << 20
"""Of items, what is claimed ahead for each slot; more than the least only as far as this goes."""


class Supply:
    """The chunks of each queue that are open: given to the executor, and not done. `end` is for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._slots: dict[str, int] = {}
        self._marks: dict[str, int] = {}
        self._moved_at: dict[str, float] = {}
        """When the last chunk was done or called off, or the first one begun."""
        self._n_done = 0
        self._per_slot: dict[str, int] = {}

    def begin(self, queue: str, slots: int) -> None:
        """One more chunk is open, of a model that runs so many at once; 0 if nothing needs to be ahead of it."""
        with self._lock:
            if not self._open[queue]:
                self._moved_at[queue] = time.monotonic()
            self._open[queue] += 1
            self._slots[queue] = slots
            self._mark(queue)

    def end(self, queue: str) -> bool:
        """A chunk is done. Whether the loop should know: it is the first for it to commit, or not enough is ahead."""
        with self._lock:
            self._open[queue] -= 1
            self._moved_at[queue] = time.monotonic()
            self._n_done += 1
            return self._n_done == 1 or self._open[queue] <= self._marks[queue]

    def forget(self, queue: str) -> None:
        """A chunk that was done is committed."""
        with self._lock:
            self._n_done -= 1
            self._mark(queue)

    @property
    def has_results(self) -> bool:
        """Whether any chunk is done and not forgotten."""
        return self._n_done > 0

    @property
    def is_ahead(self) -> bool:
        """Whether every model that runs has enough ahead of it to go on without the loop; False if none runs."""
        with self._lock:
            n_open = +self._open
        return bool(n_open) and all(n_chunks > self._marks[queue] for queue, n_chunks in n_open.items())

    def per_slot(self, queue: str) -> int:
        """How many chunks to claim of a queue for each that its model runs at once."""
        return self._per_slot.get(queue, LEAST_PER_SLOT)

    def is_short(self, queue: str) -> bool:
        """Whether its chunks take so little time that more than the least is claimed of them."""
        return self.per_slot(queue) > LEAST_PER_SLOT

    def set_pace(self, done: Collection[Claim], seconds: float) -> None:
        """Takes account of chunks that were done within so many seconds: results shall linger as often as not."""
        n_bytes: Counter[str] = Counter()
        for claim in done:
            n_bytes[claim.queue] += len(claim.payload)
        for queue, n_chunks in Counter(claim.queue for claim in done).items():
            in_time = 1 + int(2 * LINGER_SECONDS * n_chunks / max(seconds, 0.001))
            in_memory = AHEAD_BYTES * n_chunks // max(n_bytes[queue], 1)
            self._per_slot[queue] = max(LEAST_PER_SLOT, min(in_time, in_memory, MOST_PER_SLOT))

    def surplus(self, slow_seconds: float) -> Counter[str]:
        """How many chunks are open beyond the least of queues of which none was done for so many seconds.

        Of those no more than the least is claimed from now on. Of trainings nothing is ahead.
        """
        surplus: Counter[str] = Counter()
        slow_since = time.monotonic() - slow_seconds
        with self._lock:
            for queue, n_open in self._open.items():
                if n_open and self._slots[queue] and self._moved_at[queue] < slow_since:
                    surplus[queue] = n_open - LEAST_PER_SLOT * self._slots[queue]
                    self._per_slot[queue] = LEAST_PER_SLOT
        return surplus

    def _mark(self, queue: str) -> None:
        self._marks[queue] = max(self._slots[queue], self._open[queue] // 2)
