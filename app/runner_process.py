"""The process around a runner: its signals, its logging, and an end that waits for no thread of user code."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import structlog

from app.config import Settings
from app.db import Database
from app.interpreter import share_interpreter
from app.log import configure_logging
from app.models.current import current_declarations
from app.models.registry import Registry
from app.runner import Runner
from app.versions.follower import Follower

CRASH_PAUSE_SECONDS = 1.0
"""Whoever starts another runner does so at once, and again, if that crashes as soon as it looks at the database."""

log = structlog.get_logger(__name__)


def run_process(
    settings: Settings, *, drain_seconds: float = 30.0, heartbeat: Callable[[], None] = lambda: None
) -> None:
    """Runs jobs in this process until a signal ends it; for the main thread, which alone gets signals.

    SIGTERM and SIGINT drain for `drain_seconds` at most; SIGQUIT, or SIGINT again, gives back at once what
    runs. `heartbeat` is called about once a second for as long as the loop lives. Returns when all is done. If
    user code still runs then, it does not return but ends the process with status 0; with 1 if a model has
    hung, or after a crash of the loop, so that a supervisor starts another. `ConfigurationError` if the
    models' file is wrong.
    """
    configure_logging(settings)
    share_interpreter()
    database = Database(settings.database_url)
    registry = Registry(current_declarations(settings.models_file), settings.artifact_cache)
    Follower(database, registry, settings.models_file).start()
    registry.freeze_when_loaded()
    runner = Runner(database, registry, settings, heartbeat=heartbeat)
    received: list[int] = []

    def receive(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        runner.stop(hurry=number == signal.SIGQUIT or received.count(signal.SIGINT) > 1)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, receive)
    try:
        is_idle = runner.run(drain_seconds)
    except Exception:
        # What it holds stays leased: given back, a chunk that crashes the loop would be no attempt, and come again.
        log.exception("runner_crashed", runner_id=runner.id)
        time.sleep(CRASH_PAUSE_SECONDS)
        _end_process(1)
    if not is_idle or runner.trouble is not None:
        _end_process(0 if runner.trouble is None else 1)
    database.dispose()


def _end_process(status: int) -> NoReturn:
    """Ends without the interpreter's own exit, which would wait for the executor's threads, however long they take."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
