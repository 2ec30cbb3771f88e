"""What a runner has under way: chunks from the COMMIT of their claim to that of their result."""

from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from app.executors import ChunkExecutor
from app.executors.supply import Supply
from app.jobs.claims import Claim
from app.models.served import ServedModel
from app.tables import JobKind
from app.tasks.kinds import TaskAnswer, limit_seconds
from app.tasks.predict import Stopwatch


@dataclass(frozen=True, slots=True)
class Begun:
    """A chunk that the executor has."""

    claim: Claim
    limit_seconds: float | None
    """How long it may be in its model."""
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def is_overdue(self) -> bool:
        return self.limit_seconds is not None and self.stopwatch.seconds > self.limit_seconds


class Underway:
    """The chunks that an executor has of its runner, whose loop alone calls this; `wake` is called by any thread,
    when the loop should look for results."""

    def __init__(self, executor: ChunkExecutor, wake: Callable[[], None]) -> None:
        self.supply = Supply()
        self._executor = executor
        self._wake = wake
        self._chunks: dict[Future[TaskAnswer], Begun] = {}

    def __len__(self) -> int:
        return len(self._chunks)

    @property
    def claims(self) -> list[Claim]:
        """Of all that is under way, whether it runs, waits or is done."""
        return [chunk.claim for chunk in self._chunks.values()]

    @property
    def not_done(self) -> list[Begun]:
        """What runs, or waits for a thread."""
        return [chunk for future, chunk in self._chunks.items() if not future.done()]

    @property
    def done(self) -> dict[Future[TaskAnswer], Claim]:
        """What waits for its results to be committed."""
        return {future: chunk.claim for future, chunk in self._chunks.items() if future.done()}

    def begin(self, served: ServedModel, claim: Claim) -> None:
        """Gives the executor a chunk."""
        chunk = Begun(claim, limit_seconds(served.declaration, claim.kind))
        future = self._executor.submit(served, claim, chunk.stopwatch)
        self._chunks[future] = chunk
        # Nothing waits behind a training, so nothing has to be ahead of it.
        is_training = claim.kind is JobKind.TRAIN
        self.supply.begin(claim.queue, 0 if is_training else self._executor.slots(served))
        future.add_done_callback(partial(self._end, claim.queue))

    def forget(self, futures: Collection[Future[TaskAnswer]]) -> list[Claim]:
        """Lets go of what is committed or will never be; whose claims they were."""
        claims = [self._chunks.pop(future).claim for future in futures]
        for claim in claims:
            self.supply.forget(claim.queue)
        return claims

    def call_off(self, job_ids: Collection[str] | None = None) -> list[Claim]:
        """Takes back what has not begun, of these jobs or of all."""
        called_off = [
            future
            for future, chunk in self._chunks.items()
            if (job_ids is None or chunk.claim.job_id in job_ids) and future.cancel()
        ]
        return self.forget(called_off)

    def call_off_surplus(self, slow_seconds: float) -> list[Claim]:
        """Takes back what has not begun of models with more ahead than the least that have done none for so long.

        The last ones go first, so that what stays is in order.
        """
        surplus = self.supply.surplus(slow_seconds)
        called_off = []
        for future, chunk in reversed(self._chunks.items()):
            if surplus[chunk.claim.queue] > 0 and future.cancel():
                surplus[chunk.claim.queue] -= 1
                called_off.append(future)
        return self.forget(called_off)

    def _end(self, queue: str, _: Future[TaskAnswer]) -> None:
        """Called by whichever thread has done a chunk."""
        if self.supply.end(queue):
            self._wake()
