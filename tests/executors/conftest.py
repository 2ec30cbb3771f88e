"""All executors behind one set of tests, with a model that fails on demand."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from sqlalchemy import make_url

from app.config import Settings
from app.data.chunks import pack
from app.executors import ChunkExecutor, make_executor
from app.executors.outcomes import result_of
from app.jobs.claims import Broken, Claim, Done, Failed, Trained
from app.models.declarations import read_declarations
from app.models.registry import Registry
from app.models.served import ServedModel
from app.tasks.kinds import TaskAnswer
from app.tasks.predict import Stopwatch
from tests.waiting import wait_until

if TYPE_CHECKING:
    from distributed import LocalCluster

MakeCluster = Callable[..., "LocalCluster"]

MODELS = """
[[model]]
name = "unruly"
version = "1"
class = "tests.executors.unruly:Unruly"
concurrency = 2
chunk_timeout_seconds = {timeout}

[[model]]
name = "fatal"
version = "1"
class = "tests.executors.unruly:Fatal"

[[model]]
name = "lame"
version = "1"
class = "tests.executors.unruly:Lame"
artifact = "{folder}"

[[model]]
name = "pupil"
version = "0"
class = "tests.models.pupils:Pupil"
chunk_timeout_seconds = {timeout}
"""
TIMEOUT_SECONDS = 6.0


class Lab:
    """One executor of two slots, its settings, and the model."""

    def __init__(self, executor: str, folder: Path) -> None:
        models_file = folder / "models.toml"
        models_file.write_text(MODELS.format(timeout=TIMEOUT_SECONDS, folder=folder))
        self.settings = Settings(
            database_url=make_url("sqlite:///unused.db"),
            models_file=models_file,
            executor=executor,
            runner_threads=2,
            poll_seconds=0.05,
            storage_prefixes=(f"file://{folder}",),
        )
        self.registry = Registry(read_declarations(models_file))
        self.served: ServedModel = self.registry.get("unruly")
        self.served.wait_ready(10)
        self.executor: ChunkExecutor = make_executor(self.settings, self.registry)
        wait_until(lambda: self.executor.slots(self.served) == 2, "two slots", 60)

    def run(self, *chunks: Sequence[Any]) -> list[Done | Trained | Failed | Broken]:
        """What becomes of one job's chunks whose items do these acts; all are submitted before the first is awaited."""
        return self.told(self.submit(*chunks))

    def told(
        self, submitted: list[tuple[Future[TaskAnswer], Claim]]
    ) -> list[Done | Trained | Failed | Broken]:
        return [result_of(future, claim) for future, claim in submitted]

    def submit(self, *chunks: Sequence[Any]) -> list[tuple[Future[TaskAnswer], Claim]]:
        return self.submit_claims(
            [
                Claim(number, 1, "job", "unruly@1", 0, len(acts), 1, 0, payload(acts))
                for number, acts in enumerate(chunks)
            ]
        )

    def submit_claims(self, claims: Sequence[Claim]) -> list[tuple[Future[TaskAnswer], Claim]]:
        return [(self.executor.submit(self.served, claim, Stopwatch()), claim) for claim in claims]

    def run_claims(self, claims: Sequence[Claim]) -> list[Done | Trained | Failed | Broken]:
        return self.told(self.submit_claims(claims))


def payload(acts: Sequence[Any]) -> bytes:
    return pack(orjson.dumps({"id": place, "act": act}) for place, act in enumerate(acts))


@pytest.fixture(scope="package", autouse=True)
def _forkserver() -> None:
    """Children are forked from a process that has imported what those of any executor need: a CPU second for each."""
    forkserver.set_forkserver_preload(["app.executors.processes", "app.executors.dask_worker"])
    forkserver.ensure_running()


@pytest.fixture(scope="package")
def make_cluster(_forkserver: None) -> MakeCluster:
    """Makes a Dask cluster of worker processes, each watched by a nanny."""
    import dask
    from distributed import LocalCluster

    dask.config.set(
        {
            "distributed.worker.multiprocessing-method": "forkserver",
            # A worker that is just being restarted is given up 15 seconds after an earlier restart.
            "distributed.deploy.lost-worker-timeout": "1h",
        }
    )
    return partial(LocalCluster, dashboard_address=":0", silence_logs=logging.CRITICAL)


@pytest.fixture(scope="module")
def cluster(make_cluster: MakeCluster) -> Iterator["LocalCluster"]:
    """A Dask cluster of two worker processes of one thread each."""
    with make_cluster(n_workers=2, threads_per_worker=1) as made:
        yield made


def addresses(cluster: "LocalCluster") -> set[str]:
    """Of the workers that its scheduler knows; one that is replaced has another."""
    assert cluster.scheduler is not None
    return set(cluster.scheduler.workers)


def all_run(cluster: "LocalCluster") -> bool:
    """Whether it has its two workers, and none of them is about to end."""
    assert cluster.scheduler is not None
    return len(cluster.scheduler.running) == len(cluster.scheduler.workers) == 2


@pytest.fixture
def make_lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Lab]]:
    """Makes a lab whose executor is "thread", "process" or "dask"."""
    labs: list[Lab] = []

    def make(kind: str) -> Lab:
        if kind == "dask":
            cluster: LocalCluster = request.getfixturevalue("cluster")
            wait_until(
                lambda: all_run(cluster), "the replacement of those that ended for an earlier test", 60
            )
            kind = cluster.scheduler_address.replace("tcp://", "dask://")
        labs.append(Lab(kind, tmp_path))
        return labs[-1]

    yield make
    for lab in labs:
        lab.executor.shutdown()


@pytest.fixture(params=["thread", "process", "dask"])
def lab(request: pytest.FixtureRequest, make_lab: Callable[[str], Lab]) -> Lab:
    return make_lab(request.param)
