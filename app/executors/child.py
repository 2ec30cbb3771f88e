"""A child process that calls functions, one after the other, and tells what became of each call.

Two pipes for each child, and no lock that it shares with another: whatever it holds when it is killed, no other waits
for it. The runner does not fork it, for it has threads, whose locks a fork copies: a server of multiprocessing's does,
that has imported what a child needs, so that it is there at once.
"""

import fcntl
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from traceback import format_exception
from typing import Any

from app.config import Settings
from app.errors import named
from app.executors.outcomes import WorkerLost
from app.log import configure_logging
from app.models.contract import ContractError

PIPE_BYTES = 1 << 20
"""What a pipe holds that nobody has read: the most that Linux gives to all, and some chunks."""
MARGIN_BYTES = 8 << 10
"""Of a pipe, for what precedes a message in it, and for pages that are partly read."""
DYING_SECONDS = 5.0
"""For a child that closed its pipe, or was killed, to be gone."""
RUNNERS_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Those that ask a runner to end; to end its children is for it."""

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["app.executors.processes"])
_starting = threading.Lock()
"""Whoever starts a process, or asks for its exit code, looks at all others of multiprocessing's as well."""


class Child:
    """A child as its runner has it. For one thread; `kill` is for any."""

    def __init__(self, settings: Settings) -> None:
        calls, self._calls = CONTEXT.Pipe(duplex=False)
        self._outcomes, outcomes = CONTEXT.Pipe(duplex=False)
        self._room = _widen(self._calls)
        _widen(outcomes)
        # A daemonic process of multiprocessing's may have no children, which some models have.
        self._process = CONTEXT.Process(target=_serve, args=[calls, outcomes, settings])
        with calls, outcomes, _starting, _deaf():
            self._process.start()

    @property
    def is_alive(self) -> bool:
        return not wait([self._process.sentinel], 0)

    def begin(self, call: bytes) -> None:
        """Has it make a call, as `called` tells it, after those that it was told before."""
        with suppress(BrokenPipeError):  # whoever asks for the outcome is told that it is dead
            self._calls.send_bytes(call)

    def has_room(self, n_bytes: int) -> bool:
        """Whether it may be told of a call of so many bytes while it makes another: if not all of it fits into the
        pipe, either would wait for the other to read."""
        return n_bytes <= self._room - MARGIN_BYTES

    def outcome(self, timeout: float | None = None) -> tuple[Any, BaseException | None]:
        """What the oldest call gave, or what it raised.

        `WorkerLost` if the child is dead, `TimeoutError` if it takes more seconds; then it can be used no more.
        """
        if not (ready := wait([self._outcomes, self._process.sentinel], timeout)):
            raise TimeoutError
        try:
            if self._outcomes not in ready and not self._outcomes.poll():
                raise EOFError
            outcome = self._outcomes.recv_bytes()
        except (EOFError, OSError):  # the latter in the middle of one
            raise WorkerLost(f"the process that ran it died (exit code {self._exit_code()})") from None
        return _read(outcome)

    def kill(self) -> None:
        """Of one whose fork server has ended nobody knows whether it lives: its closed pipes end it after its call."""
        if self.is_alive:
            self._process.kill()

    def end(self) -> None:
        """Kills it, and closes its pipes."""
        self.kill()
        self._calls.close()
        self._outcomes.close()

    def _exit_code(self) -> int | None:
        """Of a child that has closed its pipe, which it only does by its end, unless its model did it."""
        if not wait([self._process.sentinel], DYING_SECONDS):
            self.kill()
            wait([self._process.sentinel], DYING_SECONDS)
        with _starting:
            return self._process.exitcode


def called(function: Callable[..., Any], *arguments: Any) -> bytes:
    """A call, for `Child.begin`. The function is one of a module."""
    return pickle.dumps((function, arguments), pickle.HIGHEST_PROTOCOL)


@contextmanager
def _deaf() -> Iterator[None]:
    """Blocks the runner's signals in this thread, and so for the fork server, if it is started here.

    systemd and terminals send them to all processes; the children of a fork server that ended would count as dead.
    """
    resource_tracker.ensure_running()  # it comes with a fork server, and who starts it unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, RUNNERS_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _widen(writer: Connection) -> int:
    """Makes a pipe take whole chunks: with the 64 KiB of others, whoever writes one waits for its reader to wake.

    Returns how many bytes it takes that nobody reads; 0 if the system does not tell.
    """
    if not hasattr(fcntl, "F_SETPIPE_SZ"):
        return 0
    with suppress(OSError):  # this user has as many as may be
        fcntl.fcntl(writer.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return int(fcntl.fcntl(writer.fileno(), fcntl.F_GETPIPE_SZ))


def _read(outcome: bytes) -> tuple[Any, BaseException | None]:
    try:
        value, error = pickle.loads(outcome)  # noqa: S301 — from our own child
    except Exception as error:  # noqa: BLE001 — an exception's own class may raise anything when it is made anew
        return None, error
    return value, error


def _serve(calls: Connection, outcomes: Connection, settings: Settings) -> None:
    """What the child does, until its runner closes the pipe."""
    # By handlers, which end at an exec: what a model runs is not deaf.
    for number in RUNNERS_SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, RUNNERS_SIGNALS)
    # What is sent to a process that a model has just forked is kept for it until it is an ordinary one.
    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, RUNNERS_SIGNALS),
        after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, RUNNERS_SIGNALS),
        after_in_child=partial(_be_ordinary, calls, outcomes),
    )
    configure_logging(settings)
    threading.Thread(target=_end_with_runner, name="end with the runner", daemon=True).start()
    with suppress(EOFError, BrokenPipeError):
        while True:
            outcomes.send_bytes(_make(calls.recv_bytes()))


def _be_ordinary(calls: Connection, outcomes: Connection) -> None:
    """Makes what a model forks a process like any other: signals end it, and it holds no pipe of its parent's open."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, RUNNERS_SIGNALS)
    calls.close()
    outcomes.close()


def _end_with_runner() -> None:
    """Ends this process, whatever it does, when its runner is gone, which had no time to do it."""
    if (runner := parent_process()) is not None:
        runner.join()
    os._exit(1)


def _make(call: bytes) -> bytes:
    """Makes a call; its outcome, to be read with `_read`."""
    try:
        function, arguments = pickle.loads(call)  # noqa: S301 — from our own runner
        return pickle.dumps((function(*arguments), None), pickle.HIGHEST_PROTOCOL)
    except BaseException as error:  # noqa: BLE001 — sys.exit() in a model ends its chunk alone
        return _dump(error)


def _dump(error: BaseException) -> bytes:
    """An exception, with its traceback as a note, for that is lost on the way; in words, if it cannot go as it is."""
    try:
        error.add_note("".join(format_exception(error)))
        dumped = pickle.dumps((None, error), pickle.HIGHEST_PROTOCOL)
        pickle.loads(dumped)  # noqa: S301 — ours
    except Exception:  # noqa: BLE001 — an exception's own class may raise anything
        return pickle.dumps((None, ContractError(named(error))))
    return dumped
