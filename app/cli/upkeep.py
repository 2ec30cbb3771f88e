"""`twofold upkeep`: what runners do from time to time, all of it now."""

import click

from app.cache.eviction import evict
from app.cli.database import connected
from app.cli.printing import print_facts
from app.config import load_settings
from app.jobs.upkeep import sweep_all
from app.models.declarations import read_declarations

KINDS = ("jobs_expired", "jobs_pruned", "inputs_pruned", "uploads_dropped", "cached_evicted")


@click.command()
def upkeep() -> None:
    """Stop jobs whose time is over, prune what has expired, and evict what the cache keeps no longer.

    All of it in small batches. Runners do this too; it is for a cron of your own where none runs, or to have the room
    at once. The models' file says what the cache may keep: where there is none, the cache is left alone.
    """
    settings = load_settings()
    with connected() as database:
        database.require_current_schema()
        counts = sweep_all(database, settings.retention_days)
        if settings.models_file.exists():
            declarations = read_declarations(settings.models_file)
            counts["cached_evicted"] = sum(evict(database, declarations, settings.cache_days))
    print_facts({kind: counts[kind] for kind in KINDS})
