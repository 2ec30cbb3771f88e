"""What is done to the processes: killed, stopped past their lease, cut off from their database."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.outage.postgres import OwnPostgres
from tests.process.conftest import BIN, ROOT, Server, is_alive
from tests.waiting import wait_until

PAUSE_SECONDS = (0.2, 2.0)
STOP_SECONDS = (1.2, 2.5)
"""Longer than a lease, which is a second here."""
RUN = [sys.executable, "-c", "from app.cli import main; main()", "run"]
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity"
    " WHERE application_name = 'twofold' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 3) AS victims"
)


class Violence:
    """gunicorn with two web workers and a runner, a second runner beside them, and no peace for any of them."""

    def __init__(self, server: Server, chance: Random, postgres: OwnPostgres | None) -> None:
        self.server = server
        self.chance = chance
        self.postgres = postgres
        self.done: Counter[str] = Counter()
        self.second: subprocess.Popen[bytes] | None = None
        self.stopped: dict[int, threading.Timer] = {}
        has_children = server.environment["TWOFOLD_EXECUTOR"] == "process"
        self.acts: list[tuple[int, Callable[[], None]]] = [
            (8, self.kill_child),
            (8 if has_children else 0, self.kill_grandchild),
            (8, self.kill_second),
            (1, self.kill_master),
            (1, self.kill_all),
            (3, self.stop_runner),
        ]
        if postgres is not None:
            self.acts += [(2, self.terminate), (1, self.restart)]

    def __str__(self) -> str:
        return ", ".join(f"{name} {n}" for name, n in sorted(self.done.items())) + f" = {self.n_kills} kills"

    @property
    def n_kills(self) -> int:
        return sum(n for name, n in self.done.items() if name.startswith("kill"))

    def start(self) -> None:
        self.start_master()
        self.start_second()
        self.server.wait_ready()

    def strike(self) -> None:
        """Does one thing, after a while."""
        threading.Event().wait(self.chance.uniform(*PAUSE_SECONDS))
        weights = [weight for weight, _ in self.acts]
        self.chance.choices([act for _, act in self.acts], weights)[0]()
        self.revive()

    def revive(self) -> None:
        """What a supervisor outside does: starts again what has ended."""
        assert self.server.process is not None
        if self.server.process.poll() is not None:
            self.start_master()
        if self.second is None or self.second.poll() is not None:
            self.start_second()

    def relent(self) -> None:
        """Lets everybody go on; who still ends, because the address was taken, say, is started again."""
        for pid in list(self.stopped):
            self._continue(pid)

        def serves() -> bool:
            self.revive()
            return self.server.is_ready()

        wait_until(serves, "the service to be back", 60)

    def start_master(self) -> None:
        address = f"127.0.0.1:{self.server.port}"
        self.server.launch(
            [str(BIN / "gunicorn"), "asgi:app", "-b", address, "-w", "2", "--graceful-timeout", "5"]
        )

    def start_second(self) -> None:
        with self.server.log.open("ab") as log:
            self.second = subprocess.Popen(
                RUN,
                cwd=ROOT,
                env=self.server.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill_child(self) -> None:
        """A web worker or the runner, whichever."""
        if children := sorted(self._children()):
            self._kill(self.chance.choice(children), "kill child")

    def kill_grandchild(self) -> None:
        """What a runner runs chunks in, the server that forks them, or what tracks their resources."""
        assert self.server.process is not None
        if processes := sorted(_descendants(self.server.process.pid) - self._children()):
            self._kill(self.chance.choice(processes), "kill grandchild")

    def kill_second(self) -> None:
        if self.second is not None:
            self._kill(self.second.pid, "kill runner")
            self.second.wait(10)

    def kill_master(self) -> None:
        """gunicorn alone: its children find that out, and end by themselves."""
        assert self.server.process is not None
        self._kill(self.server.process.pid, "kill master")
        self.server.process.wait(10)

    def kill_all(self) -> None:
        """gunicorn and its children, in one moment."""
        assert self.server.process is not None
        n_processes = 1 + len(self._children())
        os.killpg(self.server.process.pid, signal.SIGKILL)
        self.server.process.wait(10)
        self.done["kill whole server"] += n_processes

    def stop_runner(self) -> None:
        """A process that does nothing for longer than its lease, and then goes on as if nothing had been."""
        if self.second is not None and is_alive(self.second.pid) and self.second.pid not in self.stopped:
            pid = self.second.pid
            os.kill(pid, signal.SIGSTOP)
            timer = threading.Timer(self.chance.uniform(*STOP_SECONDS), self._continue, [pid])
            self.stopped[pid] = timer
            timer.start()
            self.done["stop"] += 1

    def terminate(self) -> None:
        with suppress(DBAPIError), self.server.database.engine.begin() as connection:
            connection.execute(text(TERMINATE))
            self.done["pg_terminate_backend"] += 1

    def restart(self) -> None:
        assert self.postgres is not None
        self.postgres.stop()
        threading.Event().wait(self.chance.uniform(0, 1))
        self.postgres.start()
        self.done["postgres restart"] += 1

    def end(self) -> None:
        for pid in list(self.stopped):
            self._continue(pid)
        if self.second is not None and self.second.poll() is None:
            self.second.kill()
            self.second.wait(10)

    def _continue(self, pid: int) -> None:
        if timer := self.stopped.pop(pid, None):
            timer.cancel()
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _children(self) -> set[int]:
        try:
            return self.server.children()
        except FileNotFoundError:
            return set()

    def _kill(self, pid: int, name: str) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.done[name] += 1


def _descendants(pid: int) -> set[int]:
    """The processes that this one started, from any of its threads, and those that they started."""
    children: set[int] = set()
    with suppress(OSError):  # it may end meanwhile
        for listed in Path(f"/proc/{pid}/task").glob("*/children"):
            children |= set(map(int, listed.read_text().split()))
    return children.union(*map(_descendants, children))
