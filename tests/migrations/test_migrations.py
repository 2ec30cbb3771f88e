"""The migrations make the tables that the code means, and can be undone."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from app.db import MIGRATIONS, Database, newest_migration
from app.errors import Unavailable
from app.tables import Row
from tests.conftest import selecting
from tests.jobs.conftest import Workshop, done
from tests.migrations.conftest import ROOT, Alembic

VIEWS = {"predictions", "job_history", "queue_age", "runner_throughput", "stuck_chunks"}
OF_ALEMBIC = {"alembic_version"}

SelectAll = Callable[..., list[dict[str, Any]]]


def names(database: Database) -> set[str]:
    """The tables and views that there are."""
    with database.engine.connect() as connection:
        found = inspect(connection)
        return {*found.get_table_names(), *found.get_view_names()}


def test_up_down_and_up_again(empty_database: Database, alembic: Alembic) -> None:
    wanted = {*Row.metadata.tables, *VIEWS}

    up = alembic("upgrade", "head")
    assert up.returncode == 0, up.stderr
    assert names(empty_database) - OF_ALEMBIC == wanted
    empty_database.require_current_schema()
    with empty_database.writing() as session:
        session.execute(
            text("INSERT INTO inputs (id, status, format, created_at) VALUES (:id, :s, :f, :t)"), INPUT
        )

    down = alembic("downgrade", "base")
    assert down.returncode == 0, down.stderr
    assert names(empty_database) <= OF_ALEMBIC
    again = Database(empty_database.url)
    with pytest.raises(Unavailable, match=r"at migration none.*run 'twofold db upgrade'"):
        again.require_current_schema()

    again.upgrade()
    assert names(again) - OF_ALEMBIC == wanted
    again.dispose()


def test_going_back_makes_outputs_whole_and_coming_again_leaves_them_so(
    empty_database: Database, alembic: Alembic
) -> None:
    select_all = selecting(empty_database)
    empty_database.upgrade()
    workshop = Workshop(empty_database, select_all)
    job_id = workshop.enqueue(n_items=8, chunk_items=4)
    first, second = workshop.claim(limit=2)
    workshop.finish(done(first, 1), done(second))
    workshop.retry(job_id)  # cuts the first into parts of the stored chunk
    workshop.run_all()
    before = workshop.answers(job_id)
    assert before == [{"id": place, "ok": True} for place in range(8)]
    view = "SELECT prediction FROM predictions ORDER BY item_index"
    in_view = select_all(view)

    down = alembic("downgrade", "0011")
    assert down.returncode == 0, down.stderr
    rows = select_all("SELECT items FROM outputs ORDER BY first_item")
    assert [answer for row in rows for answer in orjson.loads(row["items"])] == before
    assert select_all(view) == in_view

    empty_database.upgrade()
    assert workshop.answers(job_id) == before
    assert select_all(view) == in_view
    assert select_all("SELECT count(*) AS n FROM outputs WHERE NOT is_whole") == [{"n": 0}]


def test_the_newest_is_the_one_head_by_the_number_of_its_file() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_heads() == [newest_migration()]


def test_they_make_what_the_code_declares(empty_database: Database, alembic: Alembic) -> None:
    empty_database.upgrade()

    check = alembic("check")

    assert check.returncode == 0, check.stdout + check.stderr
    assert "No new upgrade operations detected" in check.stdout


def selected(url: Any, query: str) -> Sequence[Any]:
    """What a query gives, by a connection of its own."""
    database = Database(url)
    with database.reading() as session:
        rows = session.execute(text(query)).all()
    database.dispose()
    return rows


def test_every_table_and_column_carries_its_comment_in_postgres(postgres_url: Any) -> None:
    rows = selected(
        postgres_url,
        "SELECT relname, attname, col_description(pg_class.oid, attnum) AS about_column,"
        " obj_description(pg_class.oid) AS about_table"
        " FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped"
        " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
    )

    found = {(row.relname, row.attname): (row.about_table, row.about_column) for row in rows}
    declared = {
        (table.name, column.name): (table.comment, column.comment)
        for table in Row.metadata.tables.values()
        for column in table.columns
    }
    assert {place: comments for place, comments in found.items() if place[0] not in OF_ALEMBIC} == declared
    assert all(table and column for table, column in declared.values())


def test_postgres_stores_payloads_as_they_are(postgres_url: Any) -> None:
    rows = selected(
        postgres_url,
        "SELECT attrelid::regclass::text AS name FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
        " WHERE relkind = 'r' AND attname = 'items' AND attstorage = 'e'",
    )

    assert {row.name for row in rows} == {"input_chunks", "outputs"}


def test_the_page_about_sql_tells_of_every_table_column_and_view(database: Database) -> None:
    page = (ROOT / "docs" / "sql.md").read_text()
    sections = {
        heading.strip("` "): body
        for heading, body in re.findall(r"^#+ (.+?)\n(.*?)(?=^#|\Z)", page, re.DOTALL | re.MULTILINE)
    }
    with database.engine.connect() as connection:
        found = inspect(connection)
        columns = {
            (name, column["name"])
            for name in names(database) - OF_ALEMBIC
            for column in found.get_columns(name)
        }

    told = {
        (heading, column)
        for heading, body in sections.items()
        for first_cell in re.findall(r"^\| (.+?) \|", body, re.MULTILINE)
        for column in re.findall(r"`(\w+)`", first_cell)
    }
    assert columns - told == set()
    for table in Row.metadata.tables.values():
        lines = {
            line.split("`")[1]: line for line in sections[table.name].splitlines() if line.startswith("| `")
        }
        for column in table.columns:
            assert str(column.comment) in lines[column.name], (
                f"{table}.{column.name}: another comment in app/tables"
            )
        assert str(table.comment) in sections[table.name]


INPUT = {
    "id": "01890a5d-ac96-774b-bcce-b302099a8057",
    "s": "receiving",
    "f": "json",
    "t": "2026-01-01T00:00:00.000Z",
}
