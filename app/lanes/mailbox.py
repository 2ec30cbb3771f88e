"""The mailbox: where the threads of batchers put what the requests of one loop wait for."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from app.api.online import Question
from app.models.batcher import Batcher, Call, never

WATCH_SECONDS = 0.05
"""How often calls that wait are looked at: so much later than its time may one be given up."""


@dataclass(slots=True)
class _Awaited:
    batcher: Batcher
    settled: Callable[[Call], None]


class Mailbox:
    """Calls that wait, for one loop, by whose thread alone they are submitted, settled and withdrawn.

    What the loop reads in one turn goes to the model together: were a thread rung for the first request, it would take
    the interpreter at the next read, and run a batch of one. However many answers a batch has, the loop is woken once
    for them. However many calls wait, one timer looks after
    their time: one for each, set and canceled, took a tenth of a request.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        """Both have the loop call something: the first from any thread, the second after so many seconds."""
        self._call_soon, self._call_later = call_soon, call_later
        self._awaited: dict[Call, _Awaited] = {}
        self._answered: deque[Call] = deque()
        self._unattended: set[Batcher] = set()
        self._is_rung = self._is_watched = False

    def submit(
        self,
        batcher: Batcher,
        question: Question,
        seconds: float,
        settled: Callable[[Call], None],
        is_gone: Callable[[], bool] = never,
    ) -> Call:
        """Has a question answered; the loop calls `settled`, which must not raise, when it is, or is overdue.

        `Overloaded` if too much waits already.
        """
        call = Call(question.items, question.loaded, seconds=seconds, wake=self._put, is_gone=is_gone)
        batcher.put(call)
        self._awaited[call] = _Awaited(batcher, settled)
        if batcher not in self._unattended:
            self._unattended.add(batcher)
            self._call_soon(self._attend)
        if not self._is_watched:
            self._watch()
        return call

    def _attend(self) -> None:
        while self._unattended:
            self._unattended.pop().attend(may_stand_in=True)

    def withdraw(self, call: Call) -> None:
        """Forgets a call for which nobody waits any more: the model does not see its items, if it has not yet."""
        if (awaited := self._awaited.pop(call, None)) is not None and not call.is_answered:
            awaited.batcher.withdraw(call)

    def _put(self, call: Call) -> None:
        """For threads. The call is in before the flag is read, and `_deliver` lowers the flag before it looks."""
        self._answered.append(call)
        if not self._is_rung:
            self._is_rung = True
            self._call_soon(self._deliver)

    def _deliver(self) -> None:
        self._is_rung = False
        while self._answered:
            self._settle(self._answered.popleft())

    def _watch(self) -> None:
        """Ends what has waited too long, every now and then for as long as anything waits."""
        now = time.monotonic()
        for call in list(self._awaited):
            if call.expires_at <= now:
                self._settle(call)
        self._is_watched = bool(self._awaited)
        if self._is_watched:
            self._call_later(WATCH_SECONDS, self._watch)

    def _settle(self, call: Call) -> None:
        if (awaited := self._awaited.get(call)) is not None:
            self.withdraw(call)
            awaited.settled(call)
