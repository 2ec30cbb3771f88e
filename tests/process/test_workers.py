"""gunicorn's own ways to change its workers: whatever they do, there is exactly one runner, and it is no web worker."""

import http.client
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.process.conftest import Server, both_lanes, is_alive, one_lane
from tests.waiting import wait_until

PACE_SECONDS = 0.005
"""Between two requests of a client, which would take all of a processor otherwise."""
REGISTERED = "SELECT count(*) AS n FROM runners"


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """A server with one web worker and one runner, which its test leaves with one of each, or ended."""
    pid_file = str(shared_server.directory / "pid")
    with shared_server.lent("-w", "1", "--keep-alive", "30", "--pid", pid_file):
        shared_server.wait_workers(1)
        yield shared_server


@one_lane
def test_there_are_as_many_web_workers_as_asked_for_and_one_runner(server: Server) -> None:
    assert server.process is not None
    (runner,) = server.runners()
    registered = server.rows(REGISTERED)

    for n_web in (2, 3):
        server.process.send_signal(signal.SIGTTIN)
        server.wait_workers(n_web)
    for n_web in (2, 1):
        server.process.send_signal(signal.SIGTTOU)
        server.wait_workers(n_web)
    server.process.send_signal(signal.SIGTTOU)  # gunicorn keeps a last worker, and so do we
    server.log_says("Handling signal: ttou", 3)
    server.process.send_signal(signal.SIGTTIN)
    server.wait_workers(2)

    assert server.runners() == {runner}
    assert server.rows(REGISTERED) == registered
    server.finish(server.enqueue(3), 3)
    server.process.send_signal(signal.SIGTTOU)
    server.wait_workers(1)


@both_lanes
def test_an_old_worker_that_finishes_a_request_keeps_no_new_ones_waiting(server: Server) -> None:
    server.hold()
    answers: list[Any] = []

    def ask() -> None:
        answers.append(server.call("POST", "/v1/models/held/predict", {"data": [{"number": 4}]}))

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(server.seen, "the model to have begun")
    assert server.process is not None
    (worker,) = server.web_workers()

    server.process.send_signal(signal.SIGTTIN)
    server.wait_workers(2)
    wait_until(lambda: _n_listeners(server.port) == 2, "the new worker to take connections")
    server.process.send_signal(signal.SIGTTOU)  # stops the oldest
    wait_until(lambda: _n_listeners(server.port) == 1, "the old worker to take no new connections")
    asked = [server.call("GET", "/livez", timeout_seconds=20)[0] for _ in range(40)]

    assert asked == [200] * 40
    assert worker in server.children()
    assert answers == []
    server.let_go()
    asking.join(20)
    assert answers[0][0] == 200
    wait_gone(server, {worker})


@one_lane
def test_a_killed_runner_is_replaced_and_no_request_is_lost_meanwhile(server: Server) -> None:
    with requests_under_way(server):
        for _ in range(3):
            (runner,) = server.runners()
            os.kill(runner, signal.SIGKILL)
            wait_gone(server, {runner})
            wait_until(server.runners, "a new runner")

    server.wait_workers(1)
    (runner,) = server.runners()
    (victim,) = server.web_workers()
    os.kill(victim, signal.SIGKILL)
    wait_gone(server, {victim})
    server.wait_workers(1)
    assert server.runners() == {runner}, "a web worker is replaced by a web worker"
    wait_until(server.is_ready, "it to answer")
    server.finish(server.enqueue(3), 3)


@both_lanes
def test_an_upgrade_in_flight_hands_over_to_a_new_server(server: Server) -> None:
    old = server.process
    assert old is not None
    before = server.children()
    (runner,) = server.runners()

    old.send_signal(signal.SIGUSR2)
    (successor,) = wait_until(lambda: server.children() - before, "the new server")
    wait_until(lambda: len(server.children(successor)) == 2, "its web worker and its runner", 20)
    wait_until(lambda: len(server.runners(successor)) == 1, "its runner to have registered")
    assert server.stop() == 0
    assert runner not in server.registered()

    wait_until(server.is_ready, "the new server to be ready")
    server.finish(server.enqueue(3), 3)
    assert len(server.runners(successor)) == 1
    os.kill(successor, signal.SIGTERM)
    wait_until(lambda: not is_alive(successor), "the end of the new server")


@contextmanager
def requests_under_way(server: Server) -> Iterator[None]:
    """Keeps asking, on connections that are kept and on new ones; all must be answered."""
    is_over = threading.Event()
    n_answers = dict.fromkeys(("kept", "new"), 0)
    errors: list[Exception] = []

    def ask(kind: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        try:
            while not is_over.is_set():
                connection.request("GET", "/livez")
                response = connection.getresponse()
                assert (response.status, response.read()) == (200, b'{"status":"ok"}\n'), response.status
                n_answers[kind] += 1
                if kind == "new":
                    connection.close()
                is_over.wait(PACE_SECONDS)
        except Exception as error:  # noqa: BLE001 — told below, in the test's thread
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=(kind,)) for kind in (*n_answers, *n_answers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join(20)
    assert errors == []
    assert min(n_answers.values()) > 10


def wait_gone(server: Server, processes: set[int]) -> None:
    wait_until(lambda: not processes & server.children(), f"the end of {sorted(processes)}", 30)


def _n_listeners(port: int) -> int:
    """How many sockets listen at a port of 127.0.0.1."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(local == f"0100007F:{port:04X}" and state == "0A" for _, local, _, state, *_ in sockets)
