"""Runners in the database: who is there, who was."""

import os
import socket

from sqlalchemy import insert, update
from sqlalchemy.orm import Session

from app.columns import utc_now
from app.jobs.ledger import UNSYNCHRONIZED
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
