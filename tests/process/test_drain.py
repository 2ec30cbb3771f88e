"""A stop in the middle of a job: what ends in time is kept, the rest is given back, and nothing is lost or doubled."""

import signal

import pytest

from tests.process.conftest import Server
from tests.waiting import wait_until

N_ITEMS = 12


@pytest.mark.parametrize(("lane", "database_url"), [("asgi", "sqlite"), ("wsgi", "postgres")], indirect=True)
def test_each_way_to_stop_keeps_what_ends_in_its_time_and_gives_back_the_rest(server: Server) -> None:
    # Nothing ends while the server waits.
    server.start("-w", "1", "--graceful-timeout", "3")
    server.hold()
    job_id = server.enqueue(N_ITEMS)
    wait_until(server.seen, "the model to have begun")

    assert server.stop() == 0

    n_given_back = len(server.seen())
    assert states(server) == {"queued": N_ITEMS}
    assert server.rows("SELECT DISTINCT attempts FROM chunks") == [{"attempts": 0}]
    assert server.registered() == set()

    # What runs ends while it waits.
    server.start("-w", "1", "--graceful-timeout", "20")
    wait_until(lambda: len(server.seen()) > n_given_back, "the model to have begun again")
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: states(server).get("running") == 1, "the runner to give back what it claimed ahead")
    server.let_go()

    assert server.process.wait(45) == 0

    n_kept = len(server.seen()) - n_given_back
    assert states(server) == {"done": n_kept, "queued": N_ITEMS - n_kept}
    assert 0 < n_kept < N_ITEMS

    # The next server ends the job.
    server.start("-w", "1")
    server.finish(job_id, N_ITEMS)
    assert set(server.seen()) == set(range(N_ITEMS))
    n_seen = len(server.seen())
    assert n_seen == n_given_back + N_ITEMS, "nothing but what was given back is predicted again"

    # A quick shutdown waits for nothing.
    server.hold()
    server.enqueue(N_ITEMS)
    wait_until(lambda: len(server.seen()) > n_seen, "the model to have begun the next job")
    assert server.process is not None

    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(10) == 0  # far less than the graceful timeout

    assert states(server) == {"done": N_ITEMS, "queued": N_ITEMS}
    assert server.registered() == set()
    server.check_log()


def states(server: Server) -> dict[str, int]:
    """How many chunks are in each."""
    rows = server.rows("SELECT status, count(*) AS n FROM chunks GROUP BY status")
    return {row["status"]: row["n"] for row in rows}
