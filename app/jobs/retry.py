"""What to do with a chunk whose run broke off: the decision alone, without a database."""

import random
from collections.abc import Callable
from dataclasses import dataclass

BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Retry:
    """Run the whole chunk again, so many seconds from now."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Split:
    """Run its halves apart: the item that breaks it is in one of them."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Run nothing of it again."""


def decide(
    n_failures: int,
    n_items: int,
    max_attempts: int,
    *,
    blames_an_item: bool,
    jitter: Callable[[float, float], float] = random.uniform,
) -> Retry | Split | GiveUp:
    """What follows a run that broke off, the chunk's failure number `n_failures` of its kind.

    `blames_an_item` says that an item of the chunk may be the cause, as when its process died: then the chunk is
    halved until that item is alone. If not, as when a server was away, all its items share one fate.
    """
    if n_failures < max_attempts:
        return Retry(backoff_seconds(n_failures, jitter))
    if blames_an_item and n_items > 1:
        return Split()
    return GiveUp()


def is_on_trial(crashes: int, n_items: int, max_attempts: int) -> bool:
    """Whether a chunk must run alone in its process, because one more crash would be held against it.

    A crash takes all chunks of a process with it, and all but one are innocent. A chunk is halved, and an item
    given up, for a crash that no other chunk can have caused; an item alone has two such runs, so that one
    `kill -9` from outside does not condemn it.
    """
    return crashes > 0 and crashes + 1 >= max_attempts - (n_items == 1)


def crashes_behind(n_items: int, max_attempts: int) -> int:
    """How many crashes a half of a chunk counts as having behind it."""
    return max(0, max_attempts - 1 - (n_items == 1))


def backoff_seconds(n_failures: int, jitter: Callable[[float, float], float] = random.uniform) -> float:
    """1, 2, 4 … up to 60 seconds, and of that a random half to whole, so that retries do not come in step.

    Exponential backoff with "equal jitter": Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    longest = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** (n_failures - 1))
    return jitter(longest / 2, longest)
