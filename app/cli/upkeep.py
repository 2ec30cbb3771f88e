"""`twofold upkeep`: what runners do from time to time, all of it now."""

import click

from app.cli.database import connected
from app.cli.printing import print_facts
from app.config import load_settings
from app.jobs.upkeep import sweep_all

KINDS = ("jobs_expired", "jobs_pruned", "inputs_pruned", "uploads_dropped")


@click.command()
def upkeep() -> None:
    """Stop jobs whose time is over, and prune what has expired, in small batches.

    Runners do this too; it is for a cron of your own where none runs, or to have the room at once.
    """
    retention_days = load_settings().retention_days
    with connected() as database:
        database.require_current_schema()
        counts = sweep_all(database, retention_days)
    print_facts({kind: counts[kind] for kind in KINDS})
