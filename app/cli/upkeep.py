"""`twofold upkeep`: what runners do from time to time, all of it now."""

import click

from app.cache.eviction import evict
from app.cli.database import connected
from app.cli.printing import print_facts
from app.config import load_settings
from app.data.objects import Storage
from app.jobs.manifests import ManifestWriter
from app.jobs.upkeep import sweep_all
from app.versions.serving import served_declarations

KINDS = (
    "manifests_written",
    "jobs_expired",
    "jobs_pruned",
    "inputs_pruned",
    "uploads_dropped",
    "cached_evicted",
)


@click.command()
def upkeep() -> None:
    """Write manifests that are due, stop jobs whose time is over, prune what has expired, and evict from the cache.

    All of it in small batches. Runners do this too; it is for a cron of your own where none runs, or to have the room
    at once. The models' file says what the cache may keep: where there is none, the cache is left alone.
    """
    settings = load_settings()
    storage = Storage.of(settings.storage_prefixes)
    with connected() as database:
        database.require_current_schema()
        n_written = ManifestWriter(database, storage, settings.poll_seconds).write_due()
        counts = sweep_all(database, settings.retention_days)
        counts["manifests_written"] = n_written
        if settings.models_file.exists():
            with database.reading() as session:
                declarations = served_declarations(session, settings.models_file, settings.artifact_cache)
            counts["cached_evicted"] = sum(evict(database, declarations, settings.cache_days))
    print_facts({kind: counts[kind] for kind in KINDS})
