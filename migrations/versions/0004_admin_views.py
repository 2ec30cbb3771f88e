"""Retention's indexes and to-do list, and views of what is stuck, what waits and who works.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

from app.columns import Id

revision = "0004"
down_revision = "0003"

IS_KEPT = sa.text("pruned_at IS NULL")
# Seconds since a time, and times relative to now, in each database's words.
SECONDS_SINCE = {
    "postgresql": "extract(epoch FROM now() - {time})::double precision",
    "sqlite": "(julianday('now') - julianday({time})) * 86400.0",
}
SECONDS_BETWEEN = {
    "postgresql": "extract(epoch FROM {later} - {earlier})::double precision",
    "sqlite": "(julianday({later}) - julianday({earlier})) * 86400.0",
}
NOW = {"postgresql": "now()", "sqlite": "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"}
MINUTE_AGO = {
    "postgresql": "now() - interval '1 minute'",
    "sqlite": "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-60 seconds')",
}

# A live runner of the queue is one that ran a chunk of it, has not left and was seen within three minutes.
STUCK_CHUNKS = """
CREATE VIEW stuck_chunks AS
SELECT chunks.id AS chunk_id, chunks.job_id, chunks.queue, chunks.status, chunks.first_item, chunks.n_items,
       chunks.attempts, runners.host, runners.pid, {lapsed} AS stuck_seconds,
       'its lease ran out, and nobody has rescued it yet' AS reason
FROM chunks
LEFT JOIN runners ON runners.id = chunks.runner_id
WHERE chunks.status = 'running' AND chunks.lease_until < {now}
UNION ALL
SELECT chunks.id, chunks.job_id, chunks.queue, chunks.status, chunks.first_item, chunks.n_items,
       chunks.attempts, runners.host, runners.pid, {waited},
       CASE WHEN EXISTS (SELECT 1 FROM runners WHERE {lives})
            THEN 'due for over a minute: the runners are busy, or none has this model'
            ELSE 'due for over a minute: no runner lives' END
FROM chunks
LEFT JOIN runners ON runners.id = chunks.runner_id
WHERE chunks.status = 'queued' AND chunks.ready_at < {minute_ago}
"""

QUEUE_AGE = """
CREATE VIEW queue_age AS
SELECT queue, count(*) AS queued_chunks, sum(n_items) AS queued_items,
       min(CASE WHEN ready_at <= {now} THEN ready_at END) AS oldest_due_at,
       coalesce({age}, 0.0) AS age_seconds
FROM chunks
WHERE status = 'queued'
GROUP BY queue
"""

RUNNER_THROUGHPUT = """
CREATE VIEW runner_throughput AS
SELECT runners.id AS runner_id, runners.host, runners.pid, runners.threads,
       coalesce(worked.chunks, 0) AS chunks, coalesce(worked.items, 0) AS items,
       worked.items / nullif({worked_seconds}, 0) AS items_per_second,
       runners.started_at, runners.seen_at, runners.stopped_at, runners.trouble
FROM runners
LEFT JOIN (
    SELECT runner_id, count(*) AS chunks, sum(n_items) AS items,
           min(started_at) AS first_at, max(finished_at) AS last_at
    FROM chunks
    WHERE status IN ('done', 'failed')
    GROUP BY runner_id
) AS worked ON worked.runner_id = runners.id
"""


def upgrade() -> None:
    op.create_table(
        "leftovers",
        sa.Column("id", Id(), nullable=False, comment="a job's or an input's id"),
        sa.PrimaryKeyConstraint("id", name=op.f("leftovers_pkey")),
        comment="Pruned jobs and inputs whose payloads are still being deleted, a few rows at a time.",
    )
    for table, column in (("inputs", "sealed_at"), ("jobs", "finished_at")):
        op.create_index(
            f"{table}_kept", table, [column], unique=False, sqlite_where=IS_KEPT, postgresql_where=IS_KEPT
        )
    database = op.get_bind().dialect.name
    now, since, between = NOW[database], SECONDS_SINCE[database], SECONDS_BETWEEN[database]
    op.execute(
        STUCK_CHUNKS.format(
            now=now,
            minute_ago=MINUTE_AGO[database],
            lapsed=since.format(time="chunks.lease_until"),
            waited=since.format(time="chunks.ready_at"),
            lives="stopped_at IS NULL AND trouble IS NULL AND " + f"{since.format(time='seen_at')} < 180",
        )
    )
    op.execute(
        QUEUE_AGE.format(
            now=now, age=since.format(time=f"min(CASE WHEN ready_at <= {now} THEN ready_at END)")
        )
    )
    op.execute(
        RUNNER_THROUGHPUT.format(
            worked_seconds=between.format(later="worked.last_at", earlier="worked.first_at")
        )
    )


def downgrade() -> None:
    for view in ("runner_throughput", "queue_age", "stuck_chunks"):
        op.execute(f"DROP VIEW {view}")
    for table in ("jobs", "inputs"):
        op.drop_index(f"{table}_kept", table_name=table, sqlite_where=IS_KEPT, postgresql_where=IS_KEPT)
    op.drop_table("leftovers")
