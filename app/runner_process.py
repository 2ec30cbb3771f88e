"""The process around a runner: its signals, its logging, and an end that waits for no thread of user code."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import structlog
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import Database, is_away
from app.jobs import presence, queue
from app.jobs.claims import Claim
from app.log import configure_logging
from app.models.declarations import read_declarations
from app.models.registry import Registry
from app.runner import Runner
from app.tables import Chunk, ChunkState

log = structlog.get_logger(__name__)


class _CutShort(Exception):
    """The drain ends now. Raised in the runner's heartbeat, which it calls where no transaction is open."""


def run_process(
    settings: Settings, *, drain_seconds: float = 30.0, heartbeat: Callable[[], None] = lambda: None
) -> None:
    """Runs jobs in this process until a signal ends it; for the main thread, which alone gets signals.

    SIGTERM and SIGINT drain for `drain_seconds` at most; SIGQUIT, or SIGINT again, gives back at once what
    runs. `heartbeat` is called about once a second for as long as the loop lives. Returns when all is done. If
    user code still runs then, it does not return but ends the process: with status 0, or with 1 after a
    crash of the loop, so that a supervisor can start another. `ConfigurationError` if the models' file is wrong.
    """
    configure_logging(settings)
    database = Database(settings.database_url)
    received: list[int] = []

    def receive(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        runner.stop()

    def beat() -> None:
        heartbeat()
        if signal.SIGQUIT in received or received.count(signal.SIGINT) > 1:
            raise _CutShort

    runner = Runner(database, Registry(read_declarations(settings.models_file)), settings, heartbeat=beat)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, receive)
    try:
        is_idle = _run(runner, database, drain_seconds)
    except Exception:
        log.exception("runner_crashed", runner_id=runner.id)
        _end_process(1)
    if not is_idle:
        _end_process(0)
    database.dispose()


def _run(runner: Runner, database: Database, drain_seconds: float) -> bool:
    """Runs until told to stop; returns whether no user code is running any more."""
    try:
        return runner.run(drain_seconds)
    except _CutShort:
        _give_back(database, runner.id)
        return False


def _give_back(database: Database, runner_id: str) -> None:
    """Releases all that the runner holds, and signs it off; if the database is away, the leases end by themselves."""
    try:
        with database.writing() as session:
            queue.release(session, _held(session, runner_id))
            presence.leave(session, runner_id)
    except DBAPIError as error:
        log.warning("chunks_not_given_back", away=is_away(error), error=" ".join(str(error.orig).split()))


def _held(session: Session, runner_id: str) -> list[Claim]:
    """What a runner holds, without the payloads: nobody needs them to give it back."""
    rows = session.execute(
        select(Chunk.id, Chunk.epoch, Chunk.job_id, Chunk.queue, Chunk.first_item, Chunk.n_items).where(
            Chunk.runner_id == runner_id, Chunk.status == ChunkState.RUNNING
        )
    )
    return [
        Claim(row.id, row.epoch, row.job_id, row.queue, row.first_item, row.n_items, b"[]") for row in rows
    ]


def _end_process(status: int) -> NoReturn:
    """Ends without the interpreter's own exit, which would wait for the executor's threads, however long they take."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
