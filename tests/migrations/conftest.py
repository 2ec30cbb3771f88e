"""Databases with nothing in them, and a queue to fill one for the views."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, make_url

from app.db import Database
from tests.jobs.conftest import Workshop

ROOT = Path(__file__).parent.parent.parent

Alembic = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without a table, of either kind in turn."""
    if request.param == "sqlite":
        database = Database(make_url(f"sqlite:///{tmp_path / 'empty.db'}"))
        yield database
        database.dispose()
        return
    server: URL = request.getfixturevalue("postgres")
    admin = Database(server).engine.execution_options(isolation_level="AUTOCOMMIT")
    database = Database(server.set(database="empty"))
    with admin.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE empty TEMPLATE template0")
        yield database
        database.dispose()
        connection.exec_driver_sql("DROP DATABASE empty WITH (FORCE)")
    admin.dispose()


@pytest.fixture
def alembic(empty_database: Database) -> Alembic:
    """Runs alembic's own command, as an operator does, on the empty database."""

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("TWOFOLD_")
        } | {"DATABASE_URL": empty_database.url.render_as_string(hide_password=False)}
        command = [str(Path(sys.executable).parent / "alembic"), *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.fixture
def workshop(database: Database, select_all: Callable[..., list[dict[str, Any]]]) -> Workshop:
    return Workshop(database, select_all)
