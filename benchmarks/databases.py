"""A fresh, migrated database of each kind for a benchmark, with its real durability settings."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, make_url, text

from app.db import Database
from tests.postgres import start_postgres


@contextmanager
def fresh(kind: str) -> Iterator[URL]:
    """The URL of an empty database, "sqlite" or "postgres"; it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="twofold-bench-", ignore_cleanup_errors=True) as folder:
        if kind == "sqlite":
            url = make_url(f"sqlite:///{folder}/bench.db")
            Database(url).upgrade()
            yield url
            return
        server = start_postgres(Path(folder) / "pg")
        admin = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        engine = Database(admin).engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("CREATE DATABASE bench"))
        engine.dispose()
        url = admin.set(database="bench")
        Database(url).upgrade()
        yield url
        server.cleanup()
