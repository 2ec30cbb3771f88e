"""`twofold db`, and what every command says of a database that it cannot use."""

from pathlib import Path

import alembic.command
import pytest
from alembic.config import Config
from sqlalchemy import URL, text

from app.db import MIGRATIONS, Database
from tests.cli.conftest import Twofold, shown
from tests.jobs.conftest import Workshop


def test_check_tells_the_kind_and_the_version(twofold: Twofold, workshop: Workshop) -> None:
    result = twofold("db", "check")

    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert ": PostgreSQL 1" in first if workshop.database.is_postgres else ": SQLite 3." in first
    assert "psycopg" not in first
    assert second == "The tables are those of this version."


def test_an_old_schema_is_told_and_mended(
    twofold: Twofold, database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", shown(database_url))
    database = Database(database_url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.execution_options(writes=True).begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.downgrade(config, "0001")
    database.dispose()

    for command in (("db", "check"), ("jobs", "list")):
        result = twofold(*command)
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("twofold: the database is at migration 0001, this version needs ")
        assert line.endswith(": run 'twofold db upgrade'")

    assert twofold("db", "upgrade").stdout.endswith(": upgraded\n")
    assert twofold("db", "check").exit_code == 0
    assert twofold("db", "upgrade").stdout.endswith(": is up to date\n")


def test_tables_of_a_newer_version_are_one_line(
    twofold: Twofold, database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", shown(database_url))
    _set_revision(database_url, "9999")

    result = twofold("db", "upgrade")

    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert "'9999': is it newer than this version of Twofold?" in line


def test_upgrade_makes_the_file_that_others_only_look_for(twofold: Twofold, bare: Path) -> None:
    for command in (("jobs", "list"), ("db", "check")):
        result = twofold(*command)
        assert (result.exit_code, result.output) == (
            1,
            "twofold: there is no database file twofold.db: run 'twofold db upgrade' to make it\n",
        )
    assert list(bare.iterdir()) == []

    assert twofold("db", "upgrade").output == "sqlite:///twofold.db: upgraded\n"
    assert twofold("jobs", "list", "--json").output == "[]\n"


@pytest.mark.parametrize(
    "url", ["sqlite:////nowhere/twofold.db", "postgresql://me:secret@127.0.0.1:1/twofold"]
)
def test_an_unreachable_database_is_one_line(
    url: str, twofold: Twofold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)

    result = twofold("db", "upgrade")

    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith(f"twofold: the database {url.replace('secret', '***')} does not answer: ")


def test_a_wrong_setting_is_one_line_and_status_2(twofold: Twofold, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_RUNER", "off")
    for command in (("jobs", "list"), ("db", "upgrade"), ("models", "list"), ("serve",), ("run",)):
        result = twofold(*command)
        assert (result.exit_code, result.output) == (
            2,
            "twofold: TWOFOLD_RUNER is not a setting: did you mean TWOFOLD_RUNNER?\n",
        )
    assert twofold("serve", "--help").exit_code == 0


def _set_revision(url: URL, revision: str) -> None:
    database = Database(url)
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    database.dispose()
