"""A Dask cluster: workers on any hosts, which load the models for themselves and touch no SQL.

Rows stay the truth: the cluster gets a chunk's bytes, and what it does with them is only ever an answer, or no answer.
It knows nothing of attempts, which are the queue's. The extra `dask`.
"""

import threading
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from distributed import Client, KilledWorker, Scheduler, SchedulerPlugin

from app.errors import named
from app.executors.dask_worker import ChunkHangs, run_chunk
from app.executors.outcomes import WorkerLost
from app.jobs.claims import Claim
from app.jobs.ids import new_id
from app.models.served import ServedModel
from app.tasks.kinds import Means, TaskAnswer
from app.tasks.predict import Stopwatch, TransientFailure

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at how many threads the cluster has."""
CONNECT_SECONDS = 10.0
KEY_PREFIX = "twofold-"


class LoseOnce(SchedulerPlugin):
    """Tells the scheduler not to run a chunk again whose worker died: the queue counts attempts, and halves chunks.

    By itself it gives a task to three more workers, which may all die of it (`distributed.scheduler.allowed-failures`).
    That setting is the whole cluster's, and this is about our tasks alone.
    """

    name = "twofold"
    idempotent = True

    async def start(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def transition(self, key: Any, start: Any, finish: Any, *_: Any, **__: Any) -> None:
        if finish == "processing" and str(key).startswith(KEY_PREFIX):
            self._scheduler.tasks[key].suspicious = self._scheduler.allowed_failures


class DaskExecutor:
    """Runs chunks on a cluster. While its scheduler is away there are no slots, so nothing is claimed for it.

    A thread of its own keeps the connection, because a scheduler that is gone lets its callers wait.
    """

    ends_hung_chunks = True
    dies_alone = False

    def __init__(self, address: str, artifact_cache: Path, means: Means) -> None:
        self._artifact_cache = artifact_cache
        self._means = means
        self._address = address.replace("dask://", "tcp://", 1)
        self._client: Client | None = None
        self._threads_by_worker: dict[str, int] = {}
        self._trouble = ""
        self._is_over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="dask", daemon=True)
        self._keeper.start()

    def slots(self, served: ServedModel) -> int:
        """Threads of the cluster that this model may use; `concurrency` is of each worker process."""
        if self._client is None or self._client.status != "running":
            return 0
        concurrency = served.declaration.concurrency
        return sum(min(concurrency, n_threads) for n_threads in self._threads_by_worker.values())

    def submit(self, served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> Future[TaskAnswer]:
        """The future runs from the start: the cluster tells nobody whether a task has begun, so none is called off."""
        future: Future[TaskAnswer] = Future()
        future.set_running_or_notify_cancel()
        client = self._client
        if client is None or client.status != "running":
            future.set_exception(TransientFailure("the Dask scheduler is away"))
            return future
        executor = client.get_executor(pure=False, retries=0)
        task = executor.submit(
            run_chunk,
            served.declaration,
            self._artifact_cache,
            claim,
            self._means,
            key=f"{KEY_PREFIX}{new_id()}",
        )
        task.add_done_callback(partial(self._settle, future))
        return future

    def interlude(self) -> AbstractContextManager[None]:
        return nullcontext()

    def shutdown(self) -> None:
        self._is_over.set()

    def _settle(self, future: Future[TaskAnswer], task: Future[TaskAnswer]) -> None:
        """Hands on what became of a task, in words that mean the same under every executor."""
        if task.cancelled():
            future.set_exception(TransientFailure("the Dask scheduler went away"))
            return
        match error := task.exception():
            case None:
                future.set_result(task.result())
            case KilledWorker():
                future.set_exception(
                    WorkerLost(f"the Dask worker that ran it died ({error.last_worker.address})")
                )
            case ChunkHangs():
                future.set_exception(TimeoutError())
            case _:
                future.set_exception(error)

    def _keep(self) -> None:
        while not self._is_over.is_set():
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 — whatever a scheduler or its network does, this goes on trying
                self._threads_by_worker = {}
                self._tell(named(error))
            self._is_over.wait(LOOK_SECONDS)
        if self._client is not None:
            with suppress(TimeoutError):  # whoever does not answer is left
                self._client.close(timeout=1)

    def _look(self) -> None:
        """Connects if need be, and counts the threads."""
        if self._client is None or self._client.status == "closed":
            self._client = Client(self._address, timeout=CONNECT_SECONDS, set_as_default=False)
        self._client.register_plugin(LoseOnce())  # again and again: its scheduler may be a new one
        self._threads_by_worker = dict(self._client.nthreads())
        self._tell("")

    def _tell(self, trouble: str) -> None:
        """Logs what is wrong, or that all is well again, once."""
        if trouble and trouble != self._trouble:
            log.warning("dask_away", address=self._address, error=trouble)
        elif self._trouble and not trouble:
            log.info("dask_is_back", address=self._address)
        self._trouble = trouble
