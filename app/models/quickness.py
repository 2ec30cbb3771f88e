"""Quickness: whether a model takes less time than to hand a call to another thread and back, or little more."""

QUICK_SECONDS, BRISK_SECONDS, SLOW_SECONDS = 0.0001, 0.003, 0.005
"""A model whose calls typically take less than the first is quick; one that computes for less than the second is brisk.
One call that takes longer than the third puts it on probation: it would have stopped whoever else uses the thread that
asked. A model that waits, say for another server, is never brisk: some day it may have to wait for long."""
PROBATION_CALLS, MOST_PROBATION_CALLS = 100, 10_000
TRUSTED_CALLS = 300
"""Slow again before so many quick calls, and the next probation is twice as long; after more, it is as short as the
first. On a busy machine a process that waits for its core looks slow once in a thousand calls or so, and with a
probation of a thousand each time half of all calls went through another thread, at twice the processor time."""
PROBE_CALLS = 256
"""So often one request of a model that is not quick goes alone, which may show that it is."""


class Quickness:
    """What is known of one model by requests that it had alone: how long several take together does not tell it.

    Not locked: threads that judge at the same time may lose a call of the account.
    """

    def __init__(self) -> None:
        self._typical_seconds = self._typical_idle_seconds = 4 * QUICK_SECONDS  # until it shows otherwise
        self._probation_calls = self._n_on_probation = PROBATION_CALLS
        self._n_trusted_calls = 0
        self._n_together = 0

    @property
    def is_quick(self) -> bool:
        return not self._n_on_probation and self._typical_seconds < QUICK_SECONDS

    @property
    def is_brisk(self) -> bool:
        """Whether a call that is alone, while the model is idle, is better made by the thread that asks."""
        return (
            not self._n_on_probation
            and self._typical_seconds < BRISK_SECONDS
            and self._typical_idle_seconds < QUICK_SECONDS
        )

    def goes_alone(self) -> bool:
        """Whether the next request should: of a model that seems quick each does, since there is little to share."""
        if self._typical_seconds < QUICK_SECONDS:
            return True
        self._n_together += 1
        return self._n_together % PROBE_CALLS == 0

    def judge(self, seconds: float, idle_seconds: float = 0.0) -> None:
        """Takes account of a request that took so long alone, of which its thread did nothing for `idle_seconds`."""
        most = 4 * max(self._typical_seconds, QUICK_SECONDS)
        self._typical_seconds += (min(seconds, most) - self._typical_seconds) / 16
        self._typical_idle_seconds += (min(idle_seconds, 4 * QUICK_SECONDS) - self._typical_idle_seconds) / 16
        if seconds > SLOW_SECONDS:
            was_trusted = self._n_trusted_calls >= TRUSTED_CALLS
            longer = min(2 * self._probation_calls, MOST_PROBATION_CALLS)
            self._probation_calls = self._n_on_probation = PROBATION_CALLS if was_trusted else longer
            self._n_trusted_calls = 0
        elif self._n_on_probation:
            self._n_on_probation -= 1
        else:
            self._n_trusted_calls += 1
