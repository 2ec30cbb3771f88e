"""History grows without slowing a claim: with 200,000 finished chunks there, nothing looks at them."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.db import Database
from app.jobs import queue
from app.jobs.ids import new_id
from tests.conftest import on_fresh_databases
from tests.jobs.conftest import QUEUE, Workshop, done

pytestmark = on_fresh_databases

N_FINISHED = 200_000
N_QUEUED = 40
N_LISTED = 100
"""Postgres expects so many members of a JSON list, whose length it does not know as it plans."""

SCAN = re.compile(r"SCAN chunks(?! USING (COVERING )?INDEX chunks_(queued|pending|leased))")
"""Of all chunks. To scan one of the partial indexes is to read what is alive."""

Statement = tuple[str, Any]


@pytest.fixture
def crowded(workshop: Workshop) -> Workshop:
    """A queue with a few chunks to claim, in a table with 200,000 that have ended."""
    workshop.enqueue(n_items=1)
    (claim,) = workshop.claim()
    workshop.finish(done(claim))
    numbers = (
        f"generate_series(1, {N_FINISHED}) AS numbers (n)"
        if workshop.database.is_postgres
        else f"(WITH RECURSIVE counted (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM counted WHERE n < {N_FINISHED})"
        " SELECT n FROM counted) AS numbers"
    )
    copied = (
        "job_id, seq, n_items, queue, status, ready_at, sched_key, epoch, attempts, runner_id, started_at"
    )
    copied += ", finished_at, n_succeeded, n_errored"
    with workshop.database.writing() as session:
        session.connection().exec_driver_sql(
            f"INSERT INTO chunks (first_item, {copied}) SELECT n, {copied} FROM chunks CROSS JOIN {numbers}"
        )
    workshop.enqueue(n_items=N_QUEUED)
    return workshop


@contextmanager
def recorded(database: Database) -> Iterator[tuple[Session, list[Statement]]]:
    """A session whose statements are written down as the driver gets them; rolled back at the end."""
    statements: list[Statement] = []

    def record(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            statements.append((statement, parameters))

    with Session(database.engine.execution_options(writes=True)) as session:
        event.listen(database.engine, "before_cursor_execute", record)
        try:
            yield session, statements
        finally:
            event.remove(database.engine, "before_cursor_execute", record)


def explain(database: Database, statement: Statement) -> Any:
    """The plan: on Postgres its nodes, on SQLite its lines, those within another indented."""
    sql, parameters = statement
    if isinstance(parameters, list):  # of an executemany
        parameters = parameters[0]
    with database.engine.connect() as connection:
        if database.is_postgres:
            answer = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", parameters).scalar_one()
            return list(nodes((orjson.loads(answer) if isinstance(answer, str) else answer)[0]["Plan"]))
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters)
        return [("  " if row.parent else "") + row.detail for row in rows]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def check_plan(database: Database, statement: Statement, *, uses: str | None) -> None:
    """No scan of `chunks`, no sort of more than a claim's rows; and the index named is used."""
    plan = explain(database, statement)
    if database.is_postgres:
        of_chunks = [node for node in plan if node.get("Relation Name") == "chunks"]
        assert not [node for node in of_chunks if node["Node Type"] == "Seq Scan"], plan
        sorts = [node for node in plan if "Sort" in node["Node Type"] and node["Plan Rows"] > N_LISTED]
        indexes = {node.get("Index Name") for node in plan}
        rows_read = max((node["Plan Rows"] for node in of_chunks), default=0)
        assert rows_read < N_FINISHED / 100, plan
    else:
        assert not [line for line in plan if SCAN.search(line)], plan
        # The outermost sort is of one row for each queue, or of the claimed rows.
        sorts = [line for line in plan if line.startswith("  ") and "TEMP B-TREE" in line]
        indexes = {
            name for line in plan for name in line.replace("(", " ").split() if name.startswith("chunks_")
        }
    assert sorts == [], plan
    if uses:
        assert uses in indexes, plan


@pytest.mark.parametrize("is_analyzed", [False, True])
def test_a_claim_reads_the_queued_chunks_alone(
    crowded: Workshop, is_analyzed: bool, select_all: Callable[..., list[dict[str, Any]]]
) -> None:
    database = crowded.database
    (row,) = select_all("SELECT count(*) AS n FROM chunks WHERE status = 'done'")
    assert row["n"] == N_FINISHED + 1
    if is_analyzed:
        with database.writing() as session:
            session.connection().exec_driver_sql("ANALYZE")

    with recorded(database) as (session, statements):
        (head,) = queue.heads(session, [QUEUE, "other@1"])
        assert head.queue == QUEUE
        claims = queue.claim(session, queue=QUEUE, runner_id=new_id(), limit=16, lease_seconds=60)
        assert len(claims) == 16

    probe, take, *rest = statements
    assert take[0].startswith("WITH due")
    for statement in (probe, take):
        check_plan(database, statement, uses="chunks_queued")
    for statement in rest:
        check_plan(database, statement, uses=None)


def test_what_a_runner_does_besides_reads_no_finished_chunk_either(crowded: Workshop) -> None:
    """Finish, promote, renew and release: none may slow down with history."""
    database = crowded.database
    crowded.enqueue(n_items=N_QUEUED, window=1)
    with database.writing() as session:
        session.connection().exec_driver_sql("ANALYZE")
    runner_id = new_id()
    first, *claims = crowded.claim(limit=N_QUEUED + 1, runner_id=runner_id)

    with recorded(database) as (session, statements):
        queue.finish(session, [done(claim) for claim in claims])
        queue.renew(session, runner_id=runner_id, lease_seconds=60)
        queue.release(session, [first])

    for statement in statements:
        if not statement[0].startswith("INSERT"):
            check_plan(database, statement, uses=None)
