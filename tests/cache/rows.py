"""Rows of the cache by small numbers: the prediction of number 7 is `{"n":7}`."""

from sqlalchemy import text

from app.cache.rows import store
from app.db import Database

VERSION = ("specimen", "1")


def key(number: int) -> str:
    return f"{number:032x}"


def keep(database: Database, *numbers: int, version: tuple[str, str] = VERSION, days_ago: float = 0) -> None:
    with database.writing() as session:
        store(session, *version, {key(n): b'{"n":%d}' % n for n in numbers})
    if days_ago:
        at = "now() - make_interval(hours => :h)"
        if not database.is_postgres:
            at = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', -:h || ' hours')"
        with database.writing() as session:
            for n in numbers:
                session.execute(
                    text(f"UPDATE cached_predictions SET created_at = {at} WHERE key = :key"),
                    {"h": int(days_ago * 24), "key": key(n)},
                )


def kept(database: Database) -> list[int]:
    with database.reading() as session:
        found = session.execute(text("SELECT prediction FROM cached_predictions ORDER BY key")).scalars()
        return [int(prediction[5:-1]) for prediction in found]
