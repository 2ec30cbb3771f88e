"""`twofold schedules`: what fires when."""

import click

from app.cli.database import connected
from app.cli.options import json_option, limit_option
from app.cli.printing import print_json, print_table
from app.jobs import schedules as scheduling


@click.group()
def schedules() -> None:
    """Look at schedules."""


@schedules.command("list")
@limit_option
@json_option
def list_schedules(limit: int, as_json: bool) -> None:
    """List schedules, newest first, each with its next instant and its last job."""
    with connected() as database:
        database.require_current_schema()
        with database.reading() as session:
            described = []
            for schedule in scheduling.list_schedules(session, limit=limit):
                last = next(iter(scheduling.last_fires(session, schedule.id, limit=1)), None)
                described.append(
                    {
                        "id": schedule.id,
                        "cron": schedule.cron,
                        "time_zone": schedule.time_zone,
                        "model": schedule.model,
                        "version": schedule.version,
                        "collection": schedule.collection,
                        "paused": schedule.next_fire_at is None,
                        "next_fire_at": schedule.next_fire_at,
                        "last_fire_at": last and last.fire_at,
                        "last_job_id": last and last.job_id,
                    }
                )
    if as_json:
        print_json(described)
        return
    columns = (
        *("id", "cron", "time_zone", "model", "version", "collection", "paused"),
        *("next_fire_at", "last_fire_at", "last_job_id"),
    )
    print_table(columns, [[schedule[column] for column in columns] for schedule in described])
