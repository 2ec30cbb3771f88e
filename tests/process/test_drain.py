"""SIGTERM in the middle of a job: what ends in time is kept, the rest is given back, and nothing is lost or doubled."""

import signal
import threading

import pytest

from tests.process.conftest import Server, both_lanes
from tests.waiting import wait_until

N_ITEMS = 12


@pytest.mark.parametrize(("lane", "database_url"), [("asgi", "sqlite"), ("wsgi", "postgres")], indirect=True)
def test_what_does_not_end_in_time_is_given_back_and_what_does_is_kept(server: Server) -> None:
    server.start("-w", "1", "--graceful-timeout", "3")
    server.hold()
    job_id = server.enqueue(N_ITEMS)
    wait_until(server.seen, "the model to have begun")

    assert server.stop() == 0

    n_given_back = len(server.seen())
    assert states(server) == {"queued": N_ITEMS}
    assert server.rows("SELECT DISTINCT attempts FROM chunks") == [{"attempts": 0}]
    assert server.registered() == set()

    server.start("-w", "1", "--graceful-timeout", "20")
    wait_until(lambda: len(server.seen()) > n_given_back, "the model to have begun again")
    letting_go = threading.Timer(0.5, server.let_go)  # the server can only be seen to drain by its end
    letting_go.start()

    assert server.stop() == 0

    letting_go.join()
    n_kept = len(server.seen()) - n_given_back
    assert states(server) == {"done": n_kept, "queued": N_ITEMS - n_kept}
    assert 0 < n_kept < N_ITEMS

    server.start("-w", "1")
    server.finish(job_id, N_ITEMS)
    assert server.stop() == 0
    assert set(server.seen()) == set(range(N_ITEMS))
    assert len(server.seen()) == n_given_back + N_ITEMS, "nothing but what was given back is predicted again"
    server.check_log()


@both_lanes
def test_a_quick_shutdown_gives_back_at_once(sqlite_server: Server) -> None:
    server = sqlite_server
    server.start("-w", "1")
    server.hold()
    server.enqueue(N_ITEMS)
    wait_until(server.seen, "the model to have begun")
    assert server.process is not None

    server.process.send_signal(signal.SIGINT)
    server.process.wait(10)  # far less than the graceful timeout

    assert states(server) == {"queued": N_ITEMS}


def states(server: Server) -> dict[str, int]:
    """How many chunks are in each."""
    rows = server.rows("SELECT status, count(*) AS n FROM chunks GROUP BY status")
    return {row["status"]: row["n"] for row in rows}
