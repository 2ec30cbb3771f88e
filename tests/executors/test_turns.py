"""A loop and its chunks take turns where they would slow each other, and go on at once where not."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from app.executors import turns as module
from app.executors.turns import ALONE_AFTERWARDS, Turns
from tests.waiting import wait_until

FOR_GOOD = 1000.0
"""More seconds than a test has: whoever waits so long is waited for."""


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time, and what this thread worked of it: both go when the test says so."""
    clock = SimpleNamespace(seconds=0.0, worked=0.0)
    clock.monotonic, clock.thread_time = lambda: clock.seconds, lambda: clock.worked
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def _restless() -> Iterator[None]:
    """Threads change at nearly every step."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def spend(turns: Turns, clock: SimpleNamespace, seconds: float, worked: float) -> None:
    with turns.interlude():
        clock.seconds += seconds
        clock.worked += worked


def crowd(turns: Turns, clock: SimpleNamespace) -> None:
    """A loop beside a chunk takes twice the time that it works."""
    with turns.chunk():
        spend(turns, clock, seconds=0.02, worked=0.01)


def pass_through(turns: Turns) -> None:
    with turns.chunk():
        pass


def let_one_pass(turns: Turns, threads: ThreadPoolExecutor) -> None:
    """An interlude in which a whole chunk runs: nothing is held up."""
    with turns.interlude():
        threads.submit(pass_through, turns).result(10)


class Stay:
    """A chunk in a thread that goes on until it is told to end."""

    def __init__(self, turns: Turns, threads: ThreadPoolExecutor) -> None:
        self._turns = turns
        self._began, self._may_end = threading.Event(), threading.Event()
        self._future: Future[None] = threads.submit(self._run)
        assert self._began.wait(10)

    def _run(self) -> None:
        with self._turns.chunk():
            self._began.set()
            assert self._may_end.wait(10)

    def end(self) -> None:
        self._may_end.set()
        self._future.result(10)


def test_chunks_go_on_beside_a_loop_that_is_not_slowed(
    turns: Turns, clock: SimpleNamespace, threads: ThreadPoolExecutor
) -> None:
    with turns.chunk():
        spend(turns, clock, seconds=0.014, worked=0.010)

    let_one_pass(turns, threads)


def test_a_loop_that_is_slow_without_a_chunk_beside_it_waits_for_none(
    turns: Turns, clock: SimpleNamespace, threads: ThreadPoolExecutor
) -> None:
    spend(turns, clock, seconds=0.02, worked=0.01)

    let_one_pass(turns, threads)


@pytest.mark.usefixtures("_restless")
def test_after_a_loop_that_was_slowed_none_runs_in_its_next_turns(
    turns: Turns, clock: SimpleNamespace, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUICK_SECONDS", FOR_GOOD)
    inside: list[int] = []
    began, enough = threading.Event(), threading.Event()

    def run_chunks() -> int:
        n_chunks = 0
        while not enough.is_set():
            with turns.chunk():
                inside.append(n_chunks)
                n_chunks += 1
                for _ in range(1000):
                    pass
                inside.clear()
            began.set()
        return n_chunks

    crowd(turns, clock)
    runs = threads.submit(run_chunks)
    assert began.wait(10)
    met = 0
    for _ in range(ALONE_AFTERWARDS):
        with turns.interlude():
            for _ in range(20_000):
                met += len(inside)
    enough.set()

    assert runs.result(10) > 0
    assert met == 0


def test_the_loop_has_its_turn_when_the_chunk_that_runs_ends(
    turns: Turns, clock: SimpleNamespace, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUICK_SECONDS", FOR_GOOD)
    crowd(turns, clock)
    stay = Stay(turns, threads)
    told: list[str] = []

    def loop() -> None:
        with turns.interlude():
            told.append("loop")

    looping = threads.submit(loop)
    wait_until(lambda: turns._is_held_up, "the loop to wait for its turn")
    waiting = threads.submit(pass_through, turns)
    told.append("chunk")
    stay.end()
    looping.result(10)
    waiting.result(10)

    assert told == ["chunk", "loop"]


def test_it_is_tried_again_beside_them_now_and_then(
    turns: Turns, clock: SimpleNamespace, threads: ThreadPoolExecutor
) -> None:
    crowd(turns, clock)
    for _ in range(ALONE_AFTERWARDS):
        spend(turns, clock, seconds=9.0, worked=1.0)

    let_one_pass(turns, threads)


def test_a_chunk_that_takes_long_is_not_waited_for(
    turns: Turns, clock: SimpleNamespace, threads: ThreadPoolExecutor
) -> None:
    crowd(turns, clock)
    stay = Stay(turns, threads)

    let_one_pass(turns, threads)  # after QUICK_SECONDS
    stay.end()
    let_one_pass(turns, threads)  # it was in vain, so it is tried beside them


def test_where_the_last_one_took_long_none_is_waited_for(
    turns: Turns, clock: SimpleNamespace, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUICK_SECONDS", FOR_GOOD)
    crowd(turns, clock)
    with turns.chunk():
        clock.seconds += 2 * FOR_GOOD
    stay = Stay(turns, threads)

    threads.submit(spend, turns, clock, 0.0, 0.0).result(10)
    stay.end()


def test_chunks_that_run_at_once_do_not_wait_for_each_other(
    turns: Turns, clock: SimpleNamespace, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUICK_SECONDS", FOR_GOOD)
    crowd(turns, clock)
    stays = [Stay(turns, threads), Stay(turns, threads)]

    threads.submit(spend, turns, clock, 0.0, 0.0).result(10)
    for stay in stays:
        stay.end()


def test_a_chunk_or_a_loop_that_raises_leaves_the_turn_to_others(
    turns: Turns, clock: SimpleNamespace, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUICK_SECONDS", FOR_GOOD)
    crowd(turns, clock)

    with pytest.raises(ZeroDivisionError), turns.chunk():
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), turns.interlude():
        raise ZeroDivisionError

    threads.submit(pass_through, turns).result(10)
