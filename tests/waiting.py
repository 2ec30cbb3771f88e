"""Waiting for what another thread or process does: by looking, with a deadline, and never by a guessed pause."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

LOOK_SECONDS = 0.02


def wait_until(look: Callable[[], Found | None], what: str, seconds: float = 15.0) -> Found:
    """Looks until it finds something true, and returns that; fails, naming `what`, after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} seconds in vain: {what}")
        threading.Event().wait(LOOK_SECONDS)
