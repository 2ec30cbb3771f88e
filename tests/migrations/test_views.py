"""The views answer what an admin asks, the same on both databases."""

from collections.abc import Callable
from typing import Any

import orjson

from app.jobs.claims import Failed
from tests.jobs.conftest import Workshop, done

SelectAll = Callable[..., list[dict[str, Any]]]


def parsed(value: Any) -> Any:
    """JSON comes parsed from Postgres, and as text from SQLite."""
    return orjson.loads(value) if isinstance(value, str) else value


def predictions(select_all: SelectAll, job_id: str) -> list[tuple[int, Any, Any]]:
    rows = select_all(
        "SELECT item_index, item, prediction FROM predictions WHERE job_id = :id ORDER BY item_index",
        id=job_id,
    )
    return [(row["item_index"], parsed(row["item"]), parsed(row["prediction"])) for row in rows]


def test_predictions_has_one_row_for_each_item_whatever_became_of_it(
    workshop: Workshop, select_all: SelectAll
) -> None:
    job_id = workshop.enqueue(n_items=8, chunk_items=2)
    workshop.enqueue(n_items=2)  # another job's, which must not show
    erring, good, broken = workshop.claim(limit=3)
    workshop.finish(done(erring, 1), done(good), Failed(broken, "no luck"))

    answered = {0, 2, 3}  # 1 errored, 4 and 5 failed with their chunk, 6 and 7 still wait
    assert predictions(select_all, job_id) == [
        (index, {"id": index}, {"id": index, "ok": True} if index in answered else None) for index in range(8)
    ]
    (row,) = select_all("SELECT count(*) AS n FROM predictions")
    assert row["n"] == 10


def test_predictions_says_null_in_sql_for_what_has_no_prediction(
    workshop: Workshop, select_all: SelectAll
) -> None:
    job_id = workshop.enqueue(n_items=3, chunk_items=3)
    (claim,) = workshop.claim()
    workshop.finish(done(claim, 0, 2))

    assert select_all(
        "SELECT item_index FROM predictions WHERE job_id = :id AND prediction IS NULL ORDER BY item_index",
        id=job_id,
    ) == [{"item_index": 0}, {"item_index": 2}]


def test_job_history_tells_how_long_and_how_fast(workshop: Workshop, select_all: SelectAll) -> None:
    job_id = workshop.enqueue(n_items=6, chunk_items=3)
    first, second = workshop.claim(limit=2)
    workshop.finish(done(first, 0), done(second))
    with workshop.database.writing() as session:
        session.connection().exec_driver_sql(
            "UPDATE jobs SET created_at = '2026-01-01T00:00:00.000Z', started_at = '2026-01-01T00:00:02.000Z',"
            " finished_at = '2026-01-01T00:00:05.000Z'"
        )

    (row,) = select_all("SELECT * FROM job_history WHERE job_id = :id", id=job_id)

    assert (row["kind"], row["model"], row["version"], row["status"]) == (
        "predict",
        "sentiment",
        "1",
        "partial",
    )
    assert (row["n_items"], row["n_succeeded"], row["n_errored"], row["n_canceled"]) == (6, 5, 1, 0)
    times = [round(float(row[name]), 3) for name in ("wait_seconds", "run_seconds", "items_per_second")]
    assert times == [2.0, 3.0, 2.0]


def test_job_history_has_no_rate_for_what_never_ran(workshop: Workshop, select_all: SelectAll) -> None:
    waiting, canceled = workshop.enqueue(), workshop.enqueue()
    workshop.cancel(canceled)

    rows = {str(row["job_id"]): row for row in select_all("SELECT * FROM job_history")}

    for job_id in (waiting, canceled):
        row = rows[job_id]
        assert (row["run_seconds"], row["items_per_second"]) == (None, None)
        assert 0 <= float(row["wait_seconds"]) < 60
