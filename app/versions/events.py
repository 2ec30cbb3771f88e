"""Model events: the history of reloads and promotions, and the sign by which every process sees that there is more."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from app.columns import utc_now
from app.tables import ModelEvent

RELOADED, PROMOTED = "reloaded", "promoted"


@dataclass(frozen=True, slots=True)
class Promotion:
    """The version that a model's default was moved to, and when."""

    version: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the history goes. Two that are equal mean that nothing has happened in between.

    Both numbers: on Postgres an event may be committed after one that has a higher id.
    """

    newest_id: int
    n_events: int


def tell_reload(session: Session) -> None:
    """Has every process read its `models.toml` again, and try again what failed to load."""
    session.execute(insert(ModelEvent).values(kind=RELOADED, at=utc_now()))


def promote(session: Session, model: str, version: str) -> None:
    """Makes a version the model's default, in every process; that it is one, the caller has checked."""
    session.execute(insert(ModelEvent).values(kind=PROMOTED, model=model, version=version, at=utc_now()))


def latest_event(session: Session) -> Mark:
    """How far the history goes now. Asked by every process about once a second, so it must stay cheap."""
    newest_id, n_events = session.execute(select(func.max(ModelEvent.id), func.count())).one()
    return Mark(newest_id or 0, n_events)


def promotions(session: Session) -> dict[str, Promotion]:
    """The last promotion of each model that ever had one."""
    newest = select(func.max(ModelEvent.id)).where(ModelEvent.kind == PROMOTED).group_by(ModelEvent.model)
    rows = session.execute(
        select(ModelEvent.model, ModelEvent.version, ModelEvent.at).where(ModelEvent.id.in_(newest))
    )
    return {row.model: Promotion(row.version, row.at) for row in rows}
