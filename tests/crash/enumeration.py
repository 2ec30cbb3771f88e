"""Tells a story once for each of its kill points, with the process dying there, and once more to the end.

A program of its own, because it forks: it has one thread and no connection, and is warm, so that a kill costs
milliseconds. `python -m tests.crash.enumeration URL STORY [POINT]`; prints the number of points, and what went wrong.
"""

import gc
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import event, make_url

from app.db import Database
from tests.crash.killer import KILLED, Killer
from tests.crash.stories import STORIES, plain
from tests.crash.world import World

TABLES = ("jobs", "input_chunks", "inputs", "runners")
"""Emptied between two tellings; what else there is goes with these."""


def enumerate_points(
    database: Database, story: Callable[[World], None], only: int | None
) -> tuple[int, list[str]]:
    """How many points there are, and the traces of the tellings that did not end well."""
    failures: list[str] = []
    point = only or 1
    while True:
        status, acknowledged, trace = tell(database, story, {}, point)
        if status == KILLED:
            status, _, trace = tell(database, story, acknowledged, None)
        elif status == 0 and only is None:
            return point - 1, failures
        if status != 0:
            failures.append(f"killed at point {point}, acknowledged {sorted(acknowledged)}:\n{trace}")
        if only is not None or len(failures) > 5:
            return point, failures
        point += 1


def tell(
    database: Database, story: Callable[[World], None], acknowledged: dict[str, Any], fatal: int | None
) -> tuple[int, dict[str, Any], str]:
    """Tells a story in a process of its own: its exit status, the answers it gave, and why it failed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os._exit(_live(database, story, dict(acknowledged), fatal, writing))
    os.close(writing)
    with os.fdopen(reading) as answers:
        lines = [json.loads(line) for line in answers]
    _, status = os.waitpid(pid, 0)
    answered = {request: answer for request, answer in lines if request != "trace"}
    return os.waitstatus_to_exitcode(status), answered, dict(lines).get("trace", "")


def _live(
    database: Database,
    story: Callable[[World], None],
    acknowledged: dict[str, Any],
    fatal: int | None,
    answers: int,
) -> int:
    # The parent's engine has no connection and every statement compiled: a Database would make a cold one.
    database._pid = os.getpid()
    gc.disable()  # too short a life to collect anything, and to look for it would copy the parent's pages
    world = World(database, acknowledged, answers)
    killer = Killer(fatal)
    killer.watch(database.engine)
    # All but the plain story, which shows that a job is made or is not, count from there on.
    starts = () if story is plain else ("create",)
    killer.is_armed = lambda: not world.is_aside and world.acknowledged.keys() >= set(starts)
    try:
        story(world)
        empty(world)
    except BaseException:  # noqa: BLE001 — told by the parent
        os.write(answers, json.dumps(["trace", traceback.format_exc()]).encode() + b"\n")
        empty(world)
        return 1
    return 0


def hurry(database: Database) -> None:
    """Commits without waiting for the disk: a process dies in these stories, and never the machine."""
    if not database.is_postgres:
        event.listen(
            database.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF")
        )
    else:
        event.listen(
            database.engine, "connect", lambda connection, _: connection.execute("SET synchronous_commit=off")
        )


def warm_up(database: Database, story: Callable[[World], None]) -> None:
    """Imports and compiles all that a telling needs, in this process; no connection stays, nor any row."""
    hurry(database)
    with open(os.devnull, "w") as nowhere:
        world = World(database, {}, nowhere.fileno())
        story(world)
        empty(world)
    database.dispose()


def empty(world: World) -> None:
    world.write(*(f"DELETE FROM {table}" for table in TABLES))


def main() -> None:
    url, name, *rest = sys.argv[1:]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    database = Database(make_url(url))
    warm_up(database, STORIES[name])
    gc.freeze()
    n_points, failures = enumerate_points(database, STORIES[name], int(rest[0]) if rest else None)
    json.dump({"n_points": n_points, "failures": failures}, sys.stdout)


if __name__ == "__main__":
    main()
