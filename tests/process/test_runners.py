"""Several runners under one gunicorn (`TWOFOLD_RUNNERS`): however its workers change, they stay that many."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.conftest import ROOT, Server, is_alive
from tests.waiting import wait_until

STOPPED = "SELECT count(*) AS n FROM runners WHERE stopped_at IS NOT NULL"


@pytest.fixture
def two(sqlite_server: Server) -> Server:
    """A server with two runners; it has to be started."""
    sqlite_server.environment["TWOFOLD_RUNNERS"] = "2"
    return sqlite_server


def test_web_workers_come_and_go_beside_two_runners(two: Server) -> None:
    two.start("-w", "2")
    two.wait_workers(2, n_runners=2)
    assert two.process is not None
    runners = two.runners()

    two.process.send_signal(signal.SIGTTIN)
    two.wait_workers(3, n_runners=2)
    for n_web in (2, 1):
        two.process.send_signal(signal.SIGTTOU)
        two.wait_workers(n_web, n_runners=2)
    two.process.send_signal(signal.SIGTTOU)  # the last web worker stays
    two.log_says("Handling signal: ttou", 3)
    two.process.send_signal(signal.SIGTTIN)
    two.wait_workers(2, n_runners=2)

    assert two.runners() == runners
    two.finish(two.enqueue(6), 6)
    assert two.stop() == 0
    assert two.rows(STOPPED) == [{"n": 2}]


def test_a_killed_runner_is_replaced_while_the_other_goes_on(two: Server) -> None:
    two.environment["TWOFOLD_LEASE_SECONDS"] = "2"
    two.start("-w", "1")
    two.wait_workers(1, n_runners=2)
    two.hold()
    job_id = two.enqueue(12)
    wait_until(lambda: len(two.seen()) == 2, "a chunk in the model of each runner")
    victim, survivor = sorted(two.runners())

    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in two.children(), "its end")
    two.wait_workers(1, n_runners=2)

    assert survivor in two.runners()
    two.let_go()
    two.finish(job_id, 12)
    seen = two.seen()
    assert len(seen) == 13, "what ran in the killed one ran once more, and nothing else"
    assert set(seen) == set(range(12))

    (web,) = two.web_workers()
    runners = two.runners()
    os.kill(web, signal.SIGKILL)
    wait_until(lambda: web not in two.children(), "its end")
    two.wait_workers(1, n_runners=2)
    assert two.runners() == runners, "a web worker is replaced by a web worker"
    assert two.stop() == 0


def test_an_upgrade_in_flight_hands_over_to_a_server_with_two_runners(two: Server) -> None:
    two.start("-w", "1", "--pid", str(two.directory / "pid"))
    two.wait_workers(1, n_runners=2)
    assert two.process is not None
    before = two.children()

    two.process.send_signal(signal.SIGUSR2)
    (successor,) = wait_until(lambda: two.children() - before, "the new server")
    wait_until(lambda: two.rows(LIVING) == [{"n": 4}], "its runners to have registered", 30)
    assert len(_children(successor)) == 3
    assert two.stop() == 0

    wait_until(two.is_ready, "the new server to be ready")
    two.finish(two.enqueue(6), 6)
    assert two.rows(LIVING) == [{"n": 2}]
    os.kill(successor, signal.SIGTERM)
    wait_until(lambda: not is_alive(successor), "the end of the new server", 30)


@pytest.fixture
def daemon(two: Server) -> Iterator[int]:
    """The process id of a daemon of one web worker and two runners."""
    pid_file = two.directory / "pid"
    two.launch([*two.command("-w", "1"), "--daemon", "--pid", str(pid_file), "--chdir", str(ROOT)])
    assert two.process is not None
    assert two.process.wait(30) == 0
    wait_until(pid_file.exists, "the daemon's pid file")
    pid = int(pid_file.read_text())
    yield pid
    if is_alive(pid):
        os.kill(pid, signal.SIGKILL)
        for child in _children(pid):
            os.kill(child, signal.SIGKILL)


def test_winch_leaves_a_daemon_without_workers_and_one_more_brings_all_back(two: Server, daemon: int) -> None:
    wait_until(two.is_ready, "the daemon to be ready", 40)
    wait_until(lambda: two.rows(LIVING) == [{"n": 2}], "both runners", 30)

    os.kill(daemon, signal.SIGWINCH)
    wait_until(lambda: not _children(daemon), "the end of all workers", 30)
    assert two.rows(LIVING) == [{"n": 0}]

    os.kill(daemon, signal.SIGTTIN)
    wait_until(two.is_ready, "the daemon to be ready", 40)
    wait_until(lambda: two.rows(LIVING) == [{"n": 2}], "both runners", 30)
    assert len(_children(daemon)) == 3
    os.kill(daemon, signal.SIGTERM)
    wait_until(lambda: not is_alive(daemon), "the end of the daemon", 30)


LIVING = "SELECT count(*) AS n FROM runners WHERE stopped_at IS NULL"


def _children(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if is_alive(int(child))]
