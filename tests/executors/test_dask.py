"""What is particular to a cluster: workers that die cost one attempt each, and a scheduler that is away costs none."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from distributed import Client, LocalCluster

from app.jobs.claims import TRANSIENT, Broken, Done
from tests.executors.conftest import QUIET, Lab
from tests.waiting import wait_until


@pytest.fixture
def lab(make_lab: Callable[[str], Lab]) -> Lab:
    return make_lab("dask")


@pytest.mark.parametrize("act", ["kill", "exit", "segfault"])
def test_a_worker_that_dies_costs_its_chunk_one_attempt(lab: Lab, cluster: LocalCluster, act: str) -> None:
    with Client(cluster, set_as_default=False) as client:
        before = set(client.run(os.getpid).values())
        (dead,) = lab.run([None, act])
        wait_until(lambda: len(client.nthreads()) == 2, "the nanny to bring a new worker", 30)
        after = set(client.run(os.getpid).values())

    assert isinstance(dead, Broken)
    assert (dead.code, dead.blames_an_item) == ("runner_crashed", True)
    assert dead.reason.startswith("the Dask worker that ran it died (tcp://")
    assert len(before - after) == 1, "by itself Dask would have tried it on three more"
    assert isinstance(lab.run([None])[0], Done)


def test_each_worker_loads_a_model_once(lab: Lab, tmp_path: Path) -> None:
    results = lab.run(*[["loads"]] * 12)
    answers = [orjson.loads(result.items)[0] for result in results if isinstance(result, Done)]
    assert len(answers) == 12
    loads = {(answer["pid"], answer["loads"]) for answer in answers}
    assert len(loads) == len({pid for pid, _ in loads}) <= 2
    assert {n_loads for _, n_loads in loads} == {1}


def test_a_hung_worker_is_replaced(lab: Lab, cluster: LocalCluster) -> None:
    with Client(cluster, set_as_default=False) as client:
        before = set(client.run(os.getpid).values())
        (hung,) = lab.run(["hang"])
        assert isinstance(hung, Broken)
        assert hung.code == "timed_out"
        wait_until(lambda: before - set(client.run(os.getpid).values()), "the hung worker to end", 30)
        wait_until(lambda: len(client.nthreads()) == 2, "the nanny to bring a new worker", 30)


def test_without_a_scheduler_nothing_is_claimed_and_with_it_all_goes_on(tmp_path: Path) -> None:
    """The scheduler goes, and a new one, which knows nothing of us, comes at the same address."""
    with cluster_at(0) as cluster:
        port = int(cluster.scheduler_address.rpartition(":")[2])
        lab = Lab(f"dask://127.0.0.1:{port}", tmp_path)
        assert isinstance(lab.run([None])[0], Done)
    wait_until(lambda: lab.executor.slots(lab.served) == 0, "the scheduler to be missed", 40)
    (result,) = lab.run([None])
    assert isinstance(result, Broken)
    assert (result.code, result.blames_an_item) == (TRANSIENT, False)
    assert result.reason in {"the Dask scheduler is away", "the Dask scheduler went away"}

    with cluster_at(port):
        wait_until(lambda: lab.executor.slots(lab.served) == 2, "the new cluster's threads", 40)
        dead, *_ = lab.run(["kill"])
        assert isinstance(dead, Broken)
        assert dead.code == "runner_crashed"
    lab.executor.shutdown()


@contextmanager
def cluster_at(port: int) -> Iterator[LocalCluster]:
    """A cluster of one worker with two threads; any port if it is 0."""
    with LocalCluster(n_workers=1, threads_per_worker=2, scheduler_port=port, **QUIET) as made:
        yield made
