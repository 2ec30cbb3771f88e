"""A service whose chunks run in child processes, when all of its processes are told to end, and when it is killed."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.process.conftest import Server, is_alive
from tests.waiting import wait_until

N_ITEMS = 6


@pytest.fixture
def server(serve: Callable[[URL], Server], sqlite_url: URL) -> Server:
    server = serve(sqlite_url)
    server.environment |= {"TWOFOLD_EXECUTOR": "process", "TWOFOLD_RUNNER_THREADS": "2"}
    return server


def test_a_sigterm_to_every_process_of_it_costs_no_chunk_an_attempt(server: Server) -> None:
    """What systemd sends by default (`KillMode=control-group`)."""
    server.start("-w", "1", "--graceful-timeout", "20")
    server.hold()
    job_id = server.enqueue(N_ITEMS)
    wait_until(server.seen, "the model to have begun")
    letting_go = threading.Timer(0.5, server.let_go)  # the server can only be seen to drain by its end
    letting_go.start()

    for process in session(server):
        with suppress(ProcessLookupError):  # it ended by what was sent to another
            os.kill(process, signal.SIGTERM)
    assert server.process is not None
    assert server.process.wait(45) == 0

    letting_go.join()
    assert server.rows("SELECT DISTINCT crashes FROM chunks") == [{"crashes": 0}]
    n_done = server.rows("SELECT count(*) AS n FROM chunks WHERE status = 'done'")[0]["n"]
    assert 0 < n_done == len(server.seen())
    server.check_log()

    server.start("-w", "1")
    server.finish(job_id, N_ITEMS)
    assert sorted(server.seen()) == list(range(N_ITEMS))
    assert server.stop() == 0
    wait_until(lambda: not session(server), "the end of all of its processes")


def test_the_children_of_a_runner_that_is_killed_end_in_the_middle_of_a_chunk(server: Server) -> None:
    server.environment["TWOFOLD_LEASE_SECONDS"] = "2"
    server.start("-w", "1")
    before = session(server)
    server.hold()
    job_id = server.enqueue(N_ITEMS)
    wait_until(server.seen, "the model to have begun")
    children = session(server) - before
    (runner,) = server.runners()

    os.kill(runner, signal.SIGKILL)

    wait_until(lambda: not any(map(is_alive, children)), "the end of the children")
    server.let_go()
    server.finish(job_id, N_ITEMS)
    assert server.stop() == 0


def session(server: Server) -> set[int]:
    """Every process that the server's main one started, at whatever remove."""
    assert server.process is not None
    return {
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and is_alive(int(folder.name)) and _session(folder) == server.process.pid
    }


def _session(folder: Path) -> int:
    try:
        return int((folder / "stat").read_text().rpartition(")")[2].split()[3])
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it ended meanwhile
