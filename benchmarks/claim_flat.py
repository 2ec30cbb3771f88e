"""What a claim costs on an empty table, and behind millions of finished chunks.

    make bench ARGS="claim_flat --chunks 5000000"

Each figure is the median of claims of one chunk, transaction and commit included, from a queue of a thousand
waiting chunks. The finished chunks are written by one statement, and stay without outputs: a claim reads none.
"""

import argparse
import statistics
import time

from sqlalchemy import text

from app.data.chunks import Limits
from app.db import Database
from app.jobs import control, queue, uploads
from app.jobs.ids import new_id
from benchmarks.databases import fresh

N_CLAIMS = 300
LIMITS = Limits(chunk_items=1, chunk_bytes=1 << 20, max_item_bytes=1 << 20, max_bytes=1 << 30)
NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :n_chunks)"
FILL = """
INSERT INTO chunks (job_id, seq, first_item, n_items, status, queue, owner, ready_at, sched_key, epoch, attempts,
                    runner_id, started_at, finished_at, n_succeeded)
{numbers}
SELECT jobs.id, 0, numbers.n, 1, 'done', 'nothing@1', '', jobs.created_at, jobs.created_at, 1, 1,
       jobs.id, jobs.created_at, jobs.created_at, 1
FROM jobs CROSS JOIN numbers WHERE jobs.id = :job_id
"""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="claim_flat")
    parser.add_argument("--chunks", type=int, default=5_000_000)
    options = parser.parse_args(arguments)
    for kind in ("sqlite", "postgres"):
        with fresh(kind) as url:
            database = Database(url)
            waiting = enqueue(database, 2 * N_CLAIMS + 100)
            empty = median_milliseconds(database)
            fill(database, waiting, options.chunks)
            full = median_milliseconds(database)
            database.dispose()
        print(f"{kind}: median of {N_CLAIMS} claims")
        print(f"  no finished chunk           {empty:8.3f} ms")
        print(f"  {options.chunks:>9,} finished chunks {full:8.3f} ms, {full / empty:.2f} times", flush=True)


def enqueue(database: Database, n_chunks: int) -> str:
    """A job of so many one-item chunks, all of them waiting; its id."""
    job_id = new_id()
    with database.writing() as session:
        input_id = uploads.receive_items(session, [{"id": number} for number in range(n_chunks)], LIMITS)
        control.enqueue(
            session, job_id=job_id, model="nothing", version="1", input_id=input_id, window=n_chunks
        )
    return job_id


def fill(database: Database, job_id: str, n_chunks: int) -> None:
    """Finished chunks of another job, as a year of work leaves them."""
    finished = enqueue(database, 1)
    with database.writing() as session:
        session.execute(text("DELETE FROM chunks WHERE job_id = :job_id"), {"job_id": finished})
        session.execute(text(FILL.format(numbers=NUMBERS)), {"job_id": finished, "n_chunks": n_chunks})
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("ANALYZE"))  # as both databases' upkeep does sooner or later


def median_milliseconds(database: Database) -> float:
    times = []
    for _ in range(N_CLAIMS):
        started = time.perf_counter()
        with database.writing() as session:
            claims = queue.claim(session, queue="nothing@1", runner_id=new_id(), limit=1, lease_seconds=3600)
        times.append(time.perf_counter() - started)
        assert len(claims) == 1
    return statistics.median(times) * 1000
