"""SIGTERM in the middle of a job: what ends in time is kept, the rest is given back, and nothing is lost or doubled."""

import signal
import threading
from collections import Counter

from tests.process.conftest import Server, both_lanes
from tests.waiting import wait_until

N_ITEMS = 12


@both_lanes
def test_what_ends_within_the_graceful_timeout_is_kept(server: Server) -> None:
    server.start("-w", "1", "--graceful-timeout", "20")
    server.hold()
    job_id = server.enqueue(N_ITEMS)
    wait_until(server.seen, "the model to have begun")
    letting_go = threading.Timer(0.5, server.let_go)  # the server can only be seen to drain by its end

    letting_go.start()
    assert server.stop() == 0
    letting_go.join()

    n_seen = len(server.seen())
    states = {row["status"]: row["n"] for row in server.rows(STATES)}
    assert states == {"done": n_seen, "queued": N_ITEMS - n_seen}
    assert 0 < n_seen < N_ITEMS

    server.start("-w", "1")
    server.finish(job_id, N_ITEMS)
    assert sorted(server.seen()) == list(range(N_ITEMS)), "no item was predicted twice"


def test_what_does_not_end_in_time_is_given_back(server: Server) -> None:
    server.start("-w", "1", "--graceful-timeout", "3")
    server.hold()
    job_id = server.enqueue(N_ITEMS)
    wait_until(server.seen, "the model to have begun")

    assert server.stop() == 0

    assert {row["status"]: row["n"] for row in server.rows(STATES)} == {"queued": N_ITEMS}
    assert server.rows("SELECT DISTINCT attempts FROM chunks") == [{"attempts": 0}]
    assert server.rows("SELECT count(*) AS n FROM runners WHERE stopped_at IS NULL") == [{"n": 0}]
    server.let_go()
    server.start("-w", "1")
    server.finish(job_id, N_ITEMS)
    counts = Counter(server.seen())
    assert sorted(counts) == list(range(N_ITEMS))
    assert max(counts.values()) == 2, "an item that was given back is predicted once more"


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

    assert {row["status"]: row["n"] for row in server.rows(STATES)} == {"queued": N_ITEMS}


STATES = "SELECT status, count(*) AS n FROM chunks GROUP BY status"
