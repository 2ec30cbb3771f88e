"""Child processes of the runner, each with models of its own."""

import fcntl
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from weakref import WeakSet

from pebble import ProcessPool

from app.config import Settings
from app.executors.loaded import load_once
from app.jobs.claims import Claim
from app.log import configure_logging
from app.models.declarations import Declaration
from app.models.garbage import freeze
from app.models.registry import Registry
from app.models.served import ServedModel
from app.tasks.kinds import Means, TaskAnswer, limit_seconds, perform
from app.tasks.predict import Stopwatch, TransientFailure

PIPE_BYTES = 1 << 20
"""What a pipe holds that nobody has read: the most that Linux gives to all, and some chunks."""


class RoomyContext(ForkServerContext):
    """Its pipes take whole chunks: with the 64 KiB of others, whoever writes one waits for its reader to wake."""

    def Pipe(self, duplex: bool = True) -> tuple[Connection, Connection]:  # noqa: N802 — multiprocessing's name
        reader, writer = super().Pipe(duplex)
        if not duplex and hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):  # this user has as many as may be
                fcntl.fcntl(writer.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return reader, writer


CONTEXT = RoomyContext()
CONTEXT.set_forkserver_preload([__name__])


class ProcessExecutor:
    """Child processes, for models that hold the GIL or crash natively: a child that dies costs its chunk's attempt.

    Each child loads every model for itself. The runner does not fork them, for it has threads, whose locks a fork
    copies: a server of multiprocessing's does, that has imported this module, so that a child is there at once.
    When the runner's models change, new children come, with what there is then; the old finish what they have, and end.
    """

    ends_hung_chunks = True
    dies_alone = True

    def __init__(self, registry: Registry, settings: Settings, processes: int, means: Means) -> None:
        self._registry = registry
        self._settings = settings
        self._means = means
        self._processes = processes
        self._pool: ProcessPool | None = None
        self._known: WeakSet[ServedModel] = WeakSet()  # the models that its children have
        self._closing: WeakSet[ProcessPool] = WeakSet()

    def slots(self, served: ServedModel) -> int:
        return self._processes

    def submit(self, served: ServedModel, claim: Claim, stopwatch: Stopwatch) -> Future[TaskAnswer]:
        if self._pool is None or not self._is_current(served):
            self._pool = self._renew()
        try:
            return self._schedule(self._pool, served, claim)
        except RuntimeError:  # a child that dies while none is at work takes its pool with it
            self._pool = self._renew()
            return self._schedule(self._pool, served, claim)

    def _schedule(self, pool: ProcessPool, served: ServedModel, claim: Claim) -> Future[TaskAnswer]:
        declared = served.declaration
        future: Future[TaskAnswer] = pool.schedule(
            _in_child,
            args=[declared, self._settings.artifact_cache, claim, self._means],
            timeout=limit_seconds(declared, claim.kind),
        )
        return future

    def interlude(self) -> AbstractContextManager[None]:
        return nullcontext()

    def shutdown(self) -> None:
        for pool in (self._pool, *self._closing):
            if pool is not None:
                pool.stop()  # type: ignore[no-untyped-call]  # pebble types its public calls, and not this one

    def _is_current(self, served: ServedModel) -> bool:
        """Whether the children have this model, and none that has gone."""
        return served in self._known and set(self._registry.models()).issuperset(self._known)

    def _renew(self) -> ProcessPool:
        """New children with the models that are here now; the old are closed by a thread, for that means to wait."""
        if self._pool is not None:
            self._pool.close()  # type: ignore[no-untyped-call]
            self._closing.add(self._pool)
            threading.Thread(target=self._pool.join, name="close children", daemon=True).start()
        self._known = WeakSet(
            served for served in self._registry.models() if served.state in ("ready", "untrained")
        )
        return ProcessPool(
            max_workers=self._processes,
            initializer=_load_in_child,
            initargs=[[served.declaration for served in self._known], self._settings],
            context=CONTEXT,
        )


def _load_in_child(declarations: Sequence[Declaration], settings: Settings) -> None:
    """Loads the models before the child takes its first chunk, so that a chunk's time is its own."""
    configure_logging(settings)
    for declaration in declarations:
        with suppress(TransientFailure):  # the chunks of this model will say so
            load_once(declaration, settings.artifact_cache)
    freeze()


def _in_child(declaration: Declaration, artifact_cache: Path, claim: Claim, means: Means) -> TaskAnswer:
    return perform(load_once(declaration, artifact_cache), claim, means)
