"""Runners on several hosts, as far as one machine shows it: each with a home of its own, and one Postgres."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.process.conftest import BIN, HELD_MODEL, HELD_TOML, Server, seen_in
from tests.waiting import wait_until

N_HOSTS, N_ITEMS = 3, 30


class Host:
    """A `twofold run` in a home of its own: nothing of another's files, only the database's address."""

    def __init__(self, server: Server, home: Path) -> None:
        home.mkdir()
        (home / "held.py").write_text(HELD_MODEL)
        (home / "models.toml").write_text(HELD_TOML.format(directory=home))
        (home / "hold").touch()
        self.home = home
        self.log = home / "log"
        environment = server.environment | {
            "HOME": str(home),
            "TMPDIR": str(home),
            "PYTHONPATH": str(home),
            "TWOFOLD_MODELS_FILE": "models.toml",
        }
        environment.pop("TWOFOLD_RUNNER")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(BIN / "twofold"), "run"], cwd=home, env=environment, stdout=log, stderr=log
            )

    def seen(self) -> list[int]:
        return [number for number, _ in seen_in(self.home)]

    def let_go(self) -> None:
        (self.home / "hold").unlink()


@pytest.fixture
def web(serve: Callable[[URL], Server], postgres_url: URL) -> Server:
    """A web host that runs no jobs."""
    server = serve(postgres_url)
    server.environment |= {"TWOFOLD_RUNNER": "off", "TWOFOLD_LEASE_SECONDS": "6"}
    server.start("-w", "1")
    return server


@pytest.fixture
def hosts(web: Server, tmp_path: Path) -> Iterator[list[Host]]:
    made = [Host(web, tmp_path / f"host{number}") for number in range(N_HOSTS)]
    yield made
    for host in made:
        if host.process.poll() is None:
            host.process.kill()
        host.process.wait(10)
        sys.stdout.write(host.log.read_text())


def test_a_job_of_three_hosts_ends_though_one_of_them_is_killed(web: Server, hosts: list[Host]) -> None:
    job_id = web.enqueue(N_ITEMS)
    wait_until(lambda: all(host.seen() for host in hosts), "a chunk in the model of each host", 40)
    victim, *survivors = hosts

    os.kill(victim.process.pid, signal.SIGKILL)
    for host in survivors:
        host.let_go()
    web.finish(job_id, N_ITEMS)

    seen = Counter(number for host in hosts for number in host.seen())
    assert set(seen) == set(range(N_ITEMS))
    assert [number for number, n_times in seen.items() if n_times > 1] == victim.seen()
    assert min(len(host.seen()) for host in survivors) > 1, "the survivors shared the work"
    for host in survivors:
        host.process.send_signal(signal.SIGTERM)
    assert [host.process.wait(30) for host in survivors] == [0, 0]
    assert web.stop() == 0
