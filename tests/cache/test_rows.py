"""The rows of the cache, on both databases."""

import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import event, text

from app.cache.rows import look_up, store
from app.db import Database
from tests.cache.rows import VERSION, keep, kept, key
from tests.conftest import on_fresh_databases

SelectAll = Callable[..., list[dict[str, Any]]]


def test_what_was_stored_is_found_under_its_key_alone(database: Database) -> None:
    keep(database, 1, 2, 3)

    with database.reading() as session:
        found = look_up(session, [key(3), key(7), key(1), key(3)])

    assert found == {key(3): b'{"n":3}', key(1): b'{"n":1}'}


@on_fresh_databases
def test_a_chunk_is_looked_up_and_stored_in_one_statement_each(database: Database) -> None:
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    keep(database, *range(2000))
    with database.reading() as session:
        assert len(look_up(session, list(map(key, range(3000))))) == 2000
    assert [statement.split()[0] for statement in statements if "cached" in statement] == ["INSERT", "SELECT"]


@on_fresh_databases
def test_a_lookup_goes_by_the_index(database: Database, select_all: SelectAll) -> None:
    keep(database, *range(50_000))
    with database.writing() as session:
        session.execute(text("ANALYZE"))
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        prefix = "EXPLAIN" if database.is_postgres else "EXPLAIN QUERY PLAN"
        cursor.execute(f"{prefix} {statement}", parameters)
        plans.extend(str(row) for row in cursor.fetchall())

    event.listen(database.engine, "before_cursor_execute", explain)
    with database.reading() as session:
        look_up(session, list(map(key, range(10))))

    plan = " ".join(plans)
    assert ("cached_predictions_pkey" if database.is_postgres else "SEARCH cached USING INDEX") in plan


def test_the_first_prediction_of_an_item_stays(database: Database) -> None:
    keep(database, 1)
    with database.writing() as session:
        store(session, *VERSION, {key(1): b'{"n":9}', key(2): b'{"n":2}'})
    assert kept(database) == [1, 2]


def test_two_that_store_the_same_items_in_other_orders_do_not_deadlock(database: Database) -> None:
    numbers = list(range(500))
    both_begin = threading.Barrier(2)
    errors: list[BaseException] = []

    def run(order: list[int]) -> None:
        try:
            both_begin.wait(10)
            for start in range(0, 500, 100):
                keep(database, *order[start:] + order[:start])
        except BaseException as error:  # noqa: BLE001 — shown by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=[order]) for order in (numbers, numbers[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert kept(database) == numbers
