"""Runners in the database: who is there, who was."""

import os
import socket
from collections.abc import Iterable

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from app.columns import utc_now
from app.db import UNSYNCHRONIZED
from app.errors import Unavailable
from app.tables import Runner


def register(session: Session, runner_id: str, threads: int) -> None:
    """Writes this process down as a runner."""
    session.execute(
        insert(Runner).values(
            id=runner_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            threads=threads,
            started_at=utc_now(),
            seen_at=utc_now(),
        )
    )


def refuse_other_hosts(session: Session, lease_seconds: float, host: str) -> None:
    """`Unavailable` if a runner on another host than `host` has lived within the last lease: for SQLite.

    No error that ends the process: where the other one has crashed and moved, as containers do, waiting mends it.
    """
    other = session.execute(
        select(Runner.host, Runner.pid).where(
            Runner.host != host, Runner.stopped_at.is_(None), Runner.seen_at > utc_now(-lease_seconds)
        )
    ).first()
    if other is not None:
        raise Unavailable(
            f"runner {other.host}:{other.pid} uses this SQLite file, and this host is {host}: SQLite's locks do not "
            "reach other hosts; stop that runner, or use Postgres"
        )


def see(session: Session, runner_id: str) -> None:
    """Notes that this runner lives."""
    session.execute(
        update(Runner).where(Runner.id == runner_id).values(seen_at=utc_now()),
        execution_options=UNSYNCHRONIZED,
    )


def leave(session: Session, runner_id: str) -> None:
    """Notes that this runner has drained and is gone."""
    session.execute(
        update(Runner).where(Runner.id == runner_id).values(stopped_at=utc_now(), seen_at=utc_now()),
        execution_options=UNSYNCHRONIZED,
    )


def names(session: Session, runner_ids: Iterable[str]) -> dict[str, str]:
    """`host:pid` of runners, by their ids."""
    rows = session.execute(select(Runner.id, Runner.host, Runner.pid).where(Runner.id.in_(set(runner_ids))))
    return {row.id: f"{row.host}:{row.pid}" for row in rows}


def confess(session: Session, runner_id: str, trouble: str) -> None:
    """Notes why this runner claims no more."""
    session.execute(
        update(Runner).where(Runner.id == runner_id).values(trouble=trouble), execution_options=UNSYNCHRONIZED
    )
