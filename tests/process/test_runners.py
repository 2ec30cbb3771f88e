"""Several runners under one gunicorn (`TWOFOLD_RUNNERS`): however its workers change, they stay that many."""

import os
import signal
from collections.abc import Iterator

import pytest

from app.executors.supply import MOST_PER_SLOT
from tests.process.conftest import ROOT, Server, is_alive
from tests.waiting import wait_until

N_ITEMS = MOST_PER_SLOT + 8
"""More than one runner claims, however short the chunks were that it had before."""


@pytest.fixture
def two(shared_server: Server) -> Iterator[Server]:
    """A server with one web worker and two runners, which its test leaves with as many, or ended."""
    shared_server.environment |= {
        "TWOFOLD_RUNNERS": "2",
        "TWOFOLD_LEASE_SECONDS": "6",
        "TWOFOLD_JOB_WINDOW": str(N_ITEMS),
    }
    with shared_server.lent("-w", "1", "--pid", str(shared_server.directory / "pid")):
        shared_server.wait_workers(1, n_runners=2)
        yield shared_server


def test_web_workers_come_and_go_beside_two_runners(two: Server) -> None:
    assert two.process is not None
    runners = two.runners()

    for n_web in (2, 3):
        two.process.send_signal(signal.SIGTTIN)
        two.wait_workers(n_web, n_runners=2)
    for n_web in (2, 1):
        two.process.send_signal(signal.SIGTTOU)
        two.wait_workers(n_web, n_runners=2)
    two.process.send_signal(signal.SIGTTOU)  # the last web worker stays
    two.log_says("Handling signal: ttou", 3)
    two.process.send_signal(signal.SIGTTIN)
    two.wait_workers(2, n_runners=2)

    assert two.runners() == runners
    two.finish(two.enqueue(6), 6)
    two.process.send_signal(signal.SIGTTOU)
    two.wait_workers(1, n_runners=2)


def test_a_killed_runner_is_replaced_while_the_other_goes_on(two: Server) -> None:
    two.hold()
    job_id = two.enqueue(N_ITEMS)
    victim, survivor = sorted(two.runners())
    wait_until(lambda: two.seen_by(victim) and two.seen_by(survivor), "chunks in the model of each runner")

    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in two.children(), "its end")
    two.wait_workers(1, n_runners=2)

    assert survivor in two.runners()
    two.let_go()
    two.finish(job_id, N_ITEMS)
    once_more = two.seen_by(victim)
    assert sorted(two.seen()) == sorted([*range(N_ITEMS), *once_more]), (
        "what ran in the killed one, and nothing else"
    )

    (web,) = two.web_workers()
    runners = two.runners()
    os.kill(web, signal.SIGKILL)
    wait_until(lambda: web not in two.children(), "its end")
    two.wait_workers(1, n_runners=2)
    assert two.runners() == runners, "a web worker is replaced by a web worker"


def test_an_upgrade_in_flight_hands_over_to_a_server_with_two_runners(two: Server) -> None:
    assert two.process is not None
    before = two.children()
    runners = two.runners()

    two.process.send_signal(signal.SIGUSR2)
    (successor,) = wait_until(lambda: two.children() - before, "the new server")
    wait_until(lambda: len(two.children(successor)) == 3, "its web worker and its runners", 30)
    wait_until(lambda: len(two.runners(successor)) == 2, "its runners to have registered")
    assert two.stop() == 0
    assert not runners & two.registered()

    wait_until(two.is_ready, "the new server to be ready")
    two.finish(two.enqueue(6), 6)
    assert len(two.runners(successor)) == 2
    os.kill(successor, signal.SIGTERM)
    wait_until(lambda: not is_alive(successor), "the end of the new server", 30)


@pytest.fixture
def daemon(sqlite_server: Server) -> Iterator[int]:
    """The process id of a daemon of one web worker and two runners."""
    sqlite_server.environment["TWOFOLD_RUNNERS"] = "2"
    pid_file = sqlite_server.directory / "pid"
    options = "-w", "1", "--daemon", "--pid", str(pid_file), "--chdir", str(ROOT)
    sqlite_server.launch(sqlite_server.command(*options))
    assert sqlite_server.process is not None
    assert sqlite_server.process.wait(30) == 0
    wait_until(pid_file.exists, "the daemon's pid file")
    pid = int(pid_file.read_text())
    yield pid
    if is_alive(pid):
        os.kill(pid, signal.SIGKILL)
        for child in sqlite_server.children(pid):
            os.kill(child, signal.SIGKILL)


def test_winch_leaves_a_daemon_without_workers_and_one_more_brings_all_back(
    sqlite_server: Server, daemon: int
) -> None:
    server = sqlite_server
    wait_until(server.is_ready, "the daemon to be ready", 40)
    wait_until(lambda: len(server.runners(daemon)) == 2, "both runners", 30)

    os.kill(daemon, signal.SIGWINCH)
    wait_until(lambda: not server.children(daemon), "the end of all workers", 30)
    assert server.registered() == set()

    os.kill(daemon, signal.SIGTTIN)
    wait_until(server.is_ready, "the daemon to be ready", 40)
    wait_until(lambda: len(server.children(daemon)) == 3, "the web worker and both runners", 30)
    wait_until(lambda: len(server.runners(daemon)) == 2, "both runners", 30)
    os.kill(daemon, signal.SIGTERM)
    wait_until(lambda: not is_alive(daemon), "the end of the daemon", 30)
