"""`twofold jobs`: what runs, what became of it, how to stop it, and how to run again what failed."""

from itertools import islice

import click

from app.cli.database import connected
from app.cli.options import json_option, limit_option
from app.cli.printing import print_facts, print_json, print_table
from app.config import load_settings
from app.jobs import again, control, history
from app.jobs.ids import is_id
from app.jobs.manifests import manifest_url
from app.tables import Job, JobState

ERRORS_SHOWN = 5
COUNTS = ("total", "succeeded", "errored", "canceled")


class _JobId(click.ParamType[str]):
    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not is_id(value):
            self.fail(
                f"{value!r} is no id: give all of its 36 characters, as 'twofold jobs list' shows it",
                param,
                ctx,
            )
        return value


@click.group()
def jobs() -> None:
    """Look at jobs, cancel them, and run again what failed."""


@jobs.command("list")
@click.option(
    "--status", type=click.Choice([str(state) for state in JobState]), help="Only those in this state."
)
@click.option("--model", help="Only those of this model.")
@limit_option
@json_option
def list_jobs(status: str | None, model: str | None, limit: int, as_json: bool) -> None:
    """List jobs, newest first."""
    with connected() as database:
        database.require_current_schema()
        with database.reading() as session:
            found = history.list_jobs(session, limit=limit, status=status, model=model)
            described = [_described(job) for job in found]
    if as_json:
        print_json(described)
    else:
        columns = ("id", "status", "model", "version", *COUNTS, "created_at")
        print_table(columns, [[_flat(job)[column] for column in columns] for job in described])


@jobs.command("show")
@click.argument("job_id", metavar="ID", type=_JobId())
@json_option
def show_job(job_id: str, as_json: bool) -> None:
    """Show a job, its events in order and its first errors."""
    with connected() as database:
        database.require_current_schema()
        with database.reading() as session:
            job = _described(history.get_job(session, job_id))
            events = history.story(session, job_id)
        errors = [
            {"index": index, "code": code, "message": message}
            for index, code, message in islice(history.iterate_errors(database, job_id), ERRORS_SHOWN)
        ]
    if as_json:
        print_json(job | {"events": events, "errors": errors})
        return
    facts = _flat(job)
    print_facts(facts)
    click.echo("\nEvents")
    columns = ("at", "event", "runner", "first_item", "detail")
    print_table(columns, [[event[column] for column in columns] for event in events])
    if errors:
        click.echo(f"\nErrors: the first {len(errors)} of {facts['errored']}")
        print_table(("index", "code", "message"), [list(error.values()) for error in errors])


@jobs.command("cancel")
@click.argument("job_id", metavar="ID", type=_JobId())
def cancel_job(job_id: str) -> None:
    """Cancel a job: what runs of it still finishes, and outputs so far are kept."""
    with connected() as database:
        database.require_current_schema()
        with database.writing() as session:
            control.cancel(session, job_id)
            status = history.get_job(session, job_id).status
    click.echo(f"job {job_id} is {status}")


@jobs.command("retry")
@click.argument("job_id", metavar="ID", type=_JobId())
def retry_job(job_id: str) -> None:
    """Run the items of an ended job again that have no prediction, and no others."""
    window = load_settings().job_window
    with connected() as database:
        database.require_current_schema()
        with database.writing() as session:
            again.retry(session, job_id, window=window)
            job = history.get_job(session, job_id)
            status, n_items = job.status, job.n_items - job.n_succeeded
    click.echo(f"job {job_id} is {status}: {n_items} items run again")


def _described(job: Job) -> dict[str, object]:
    """A job under the names that it has in the API."""
    return {
        "id": job.id,
        "kind": job.kind,
        "model": job.model,
        "version": job.version,
        "status": job.status,
        "input_id": job.input_id,
        "counts": dict(
            zip(COUNTS, (job.n_items, job.n_succeeded, job.n_errored, job.n_canceled), strict=True),
            cached=job.n_cached,
        ),
        "priority": job.priority,
        "run_at": job.run_at,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "max_errors": job.max_errors,
        "expires_at": job.expires_at,
        "pruned_at": job.pruned_at,
        "output_url": job.output_url,
        "manifest_url": manifest_url(job),
        "error": job.error,
    }


def _flat(job: dict[str, object]) -> dict[str, object]:
    """The same with the counts as fields of their own, in their place."""
    flat: dict[str, object] = {}
    for name, value in job.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return flat
