"""The command `twofold`: serves, runs jobs, and tells an operator what is there.

An error is one line on stderr: exit status 2 if a setting or an argument is wrong, 1 for everything else.
"""

import click

from app.cli.database import db
from app.cli.jobs import jobs
from app.cli.models import models
from app.cli.processes import run, serve
from app.cli.schedules import schedules
from app.cli.upkeep import upkeep
from app.errors import ConfigurationError, ServingError


class _Twofold(click.Group):
    """Ends errors that are meant for people in one line; any other is a bug, and shows where."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            _complain(str(error))
            ctx.exit(2)
        except ServingError as error:
            _complain(error.detail)
            ctx.exit(1)


def _complain(detail: str) -> None:
    click.echo(f"twofold: {' '.join(detail.split())}", err=True)


@click.group(name="twofold", cls=_Twofold)
def main() -> None:
    """Serve a Python predict function, online and in batch, on one SQL database."""


for command in (serve, run, jobs, schedules, models, upkeep, db):
    main.add_command(command)
