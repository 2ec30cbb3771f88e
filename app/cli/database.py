"""`twofold db`, and the way of the other commands to the database."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from app.config import load_settings
from app.db import Database, is_away
from app.errors import Unavailable


@click.group()
def db() -> None:
    """Migrate and check the database."""


@db.command()
def upgrade() -> None:
    """Make the tables, or bring them to this version."""
    with connected(makes_file=True) as database:
        try:
            database.require_current_schema()
        except Unavailable:
            from alembic.util import CommandError

            try:
                database.upgrade()
            except CommandError as error:  # the tables are at a migration that this version does not have
                raise Unavailable(
                    f"the database cannot be upgraded: {error}: is it newer than this version of Twofold?"
                ) from error
            click.echo(f"{_shown(database.url)}: upgraded")
        else:
            click.echo(f"{_shown(database.url)}: is up to date")


@db.command()
def check() -> None:
    """Tell which database it is, and whether its tables fit this version: if not, exit with status 1."""
    with connected() as database:
        with database.engine.connect() as connection:
            kind = "PostgreSQL" if database.is_postgres else "SQLite"
            version = ".".join(map(str, connection.dialect.server_version_info or ()))
        click.echo(f"{_shown(database.url)}: {kind} {version}")
        database.require_current_schema()
        click.echo("The tables are those of this version.")


@contextmanager
def connected(*, makes_file: bool = False) -> Iterator[Database]:
    """The database of the settings; its connections are closed at the end.

    `Unavailable` if it does not answer, or if it is a SQLite file that is not there: to look at it must not
    make it, unless `makes_file`.
    """
    database = Database(load_settings().database_url)
    path = database.url.database or ""
    if not (makes_file or database.is_postgres or path.startswith("file:") or Path(path).exists()):
        raise Unavailable(f"there is no database file {path}: run 'twofold db upgrade' to make it")
    try:
        yield database
    except DBAPIError as error:
        if not is_away(error):
            raise
        raise Unavailable(f"the database {_shown(database.url)} does not answer: {error.orig}") from error
    finally:
        database.dispose()


def _shown(url: URL) -> str:
    """As an operator writes it, without the password and without the driver."""
    return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)
