"""What is particular to a cluster: workers that die cost one attempt each, and a scheduler that is away costs none."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest

from app.executors.outcomes import result_of
from app.jobs.claims import TRANSIENT, Broken, Claim, Done
from app.tasks.predict import Stopwatch
from tests.executors.conftest import Lab, MakeCluster, addresses, all_run, payload
from tests.ports import free_port
from tests.waiting import wait_until

if TYPE_CHECKING:
    from distributed import LocalCluster


@pytest.fixture
def lab(make_lab: Callable[[str], Lab]) -> Lab:
    return make_lab("dask")


@pytest.mark.parametrize("act", ["kill", "exit", "segfault"])
def test_a_worker_that_dies_costs_its_chunk_one_attempt(lab: Lab, cluster: "LocalCluster", act: str) -> None:
    before = addresses(cluster)
    (dead,) = lab.run([None, act])
    wait_until(lambda: all_run(cluster), "the nanny to bring a new worker", 60)
    after = addresses(cluster)

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


def test_a_worker_that_cannot_load_a_model_is_named_and_gets_few_of_its_chunks(lab: Lab) -> None:
    lame = lab.registry.get("lame")
    assert lame.wait_ready(30)
    claim = Claim(1, 1, "job", "lame@1", 0, 1, 1, 0, payload(["nap"]))

    submitted = [lab.executor.submit(lame, claim, Stopwatch()) for _ in range(12)]
    results = [result_of(future, claim) for future in submitted]

    refused = [result for result in results if isinstance(result, Broken)]
    assert 1 <= len(refused) <= 6, "of chunks of 0.3 seconds"
    assert {result.code for result in refused} == {TRANSIENT}
    (reason,) = {result.reason for result in refused}
    assert "there is no module of this name (on the Dask worker tcp://" in reason


def test_a_hung_worker_is_replaced(lab: Lab, cluster: "LocalCluster") -> None:
    before = addresses(cluster)
    (hung,) = lab.run(["hang"])
    assert isinstance(hung, Broken)
    assert hung.code == "timed_out"
    wait_until(lambda: before - addresses(cluster), "the hung worker to end", 60)
    wait_until(lambda: all_run(cluster), "the nanny to bring a new worker", 60)


def test_a_worker_whose_model_keeps_the_interpreter_is_replaced(lab: Lab, cluster: "LocalCluster") -> None:
    before = addresses(cluster)
    (lost,) = lab.run(["seize"])
    assert isinstance(lost, Broken)
    assert (lost.code, lost.blames_an_item) == ("runner_crashed", True)
    wait_until(lambda: before - addresses(cluster), "the worker to end", 60)
    wait_until(lambda: all_run(cluster), "the nanny to bring a new worker", 60)
    assert isinstance(lab.run([None])[0], Done)


def test_without_a_scheduler_nothing_is_claimed_and_with_it_all_goes_on(
    make_cluster: MakeCluster, tmp_path: Path
) -> None:
    """The scheduler goes, and a new one, which knows nothing of us, comes at the same address."""
    cluster_at = partial(make_cluster, n_workers=1, threads_per_worker=2)
    port = free_port()
    with cluster_at(scheduler_port=port):
        lab = Lab(f"dask://127.0.0.1:{port}", tmp_path)
        assert isinstance(lab.run([None])[0], Done)
    wait_until(lambda: lab.executor.slots(lab.served) == 0, "the scheduler to be missed", 40)
    (result,) = lab.run([None])
    assert isinstance(result, Broken)
    assert (result.code, result.blames_an_item) == (TRANSIENT, False)
    assert result.reason in {"the Dask scheduler is away", "the Dask scheduler went away"}

    with cluster_at(scheduler_port=port):
        wait_until(lambda: lab.executor.slots(lab.served) == 2, "the new cluster's threads", 40)
        dead, *_ = lab.run(["kill"])
        assert isinstance(dead, Broken)
        assert dead.code == "runner_crashed"
        assert isinstance(lab.run([None])[0], Done), "the nanny has brought a new worker"
    lab.executor.shutdown()
