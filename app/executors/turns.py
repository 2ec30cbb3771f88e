"""Turns: a loop and the chunks beside it share an interpreter, and take turns where at once both would be slower.

A loop lets go of the interpreter at each step of a database that works in its own process. While a model in pure Python
runs, it has to wait for it again each time, thirty times in a commit, and both lose by it. Between two chunks it waits
for nothing. A model that lets go of the interpreter itself, for native code or a network, does better beside the loop.
Which of the two it is, the loop sees by the time that it takes.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

QUICK_SECONDS = 0.08
"""For how long the loop waits for a call to end; if the last one took longer, for none. One for several chunks is to
take `app.executors.backlog.CALL_SECONDS`."""
CROWDED = 1.5
"""How many times its processor time the loop takes at least beside chunks that hold the interpreter."""
ALONE_AFTERWARDS = 16
"""Interludes that are to be free of chunks, before it is tried again beside them; sooner, if one waited in vain."""


class Turns:
    """The turns of one process. `interlude` is for one thread, `chunk` for any."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_running = 0
        self._is_held_up = False
        self._took = 0.0
        self._n_alone = 0

    @contextmanager
    def chunk(self) -> Iterator[None]:
        """While a chunk runs: it does not begin in an interlude that is kept free."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_held_up)
            self._n_running += 1
        began_at = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._took = time.monotonic() - began_at
                self._n_running -= 1
                self._changed.notify_all()

    @contextmanager
    def interlude(self) -> Iterator[None]:
        """What the loop does; where that pays, from the end of the chunk that runs on, and no other begins."""
        is_alone, is_beside = self._n_alone > 0, self._n_running > 0
        try:
            if is_alone:
                self._n_alone -= 1
                self._hold_up()
            began_at, worked = time.monotonic(), time.thread_time()
            yield
        finally:
            if is_alone:
                self._let_go()
            elif is_beside and time.monotonic() - began_at > CROWDED * (time.thread_time() - worked):
                self._n_alone = ALONE_AFTERWARDS

    def _hold_up(self) -> None:
        """Keeps chunks from beginning, until `_let_go`, if soon none runs."""
        with self._changed:
            # Several chunks at once would have to wait for each other.
            self._is_held_up = self._n_running <= 1 and self._took <= QUICK_SECONDS
            if self._is_held_up and not self._changed.wait_for(lambda: not self._n_running, QUICK_SECONDS):
                self._is_held_up, self._n_alone = False, 0
                self._changed.notify_all()

    def _let_go(self) -> None:
        with self._changed:
            self._is_held_up = False
            self._changed.notify_all()
