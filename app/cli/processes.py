"""`twofold serve` and `twofold run`: the processes of the service."""

import os
import shutil
import sys
from pathlib import Path

import click
from gunicorn.config import Config
from gunicorn.util import parse_address

from app.config import load_settings
from app.errors import ConfigurationError
from app.models.declarations import read_declarations
from app.native_threads import cap_native_threads
from app.runner_process import run_process

ROOT = Path(__file__).parent.parent.parent
"""Where asgi.py and gunicorn.conf.py are."""
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 — read, and never bound to
"""What a client on this machine calls an address that stands for all of them."""


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("gunicorn_options", nargs=-1, type=click.UNPROCESSED)
def serve(gunicorn_options: tuple[str, ...]) -> None:
    """Serve HTTP by gunicorn, which takes all further options: twofold serve -b 0.0.0.0:80 -w 4

    The tables must be there: 'twofold db upgrade' makes them.
    """
    default_model = read_declarations(load_settings().models_file)[0].name
    # The script, not `python -m gunicorn`: that cannot restart itself on SIGUSR2, where gunicorn's own
    # directory comes first on the path and its package `http` hides the standard library's.
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    gunicorn = shutil.which("gunicorn", path=beside)
    if gunicorn is None or not (ROOT / "wsgi.py").exists():
        raise ConfigurationError(
            f"'twofold serve' needs gunicorn and {ROOT / 'asgi.py'}: run 'make setup' in a checkout of Twofold"
        )
    click.echo(_invitation(default_model, gunicorn_options))
    sys.stdout.flush()
    # Not by a change of directory: models.toml, SQLite's file and the models are where the caller is.
    configuration = ["-c", str(ROOT / "gunicorn.conf.py"), "--pythonpath", str(ROOT)]
    arguments = [gunicorn, "asgi:app", *configuration, *gunicorn_options]
    os.execv(gunicorn, arguments)  # noqa: S606 — no shell is wanted: gunicorn becomes this process


@click.command()
@click.option(
    "--drain-seconds",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="How long what runs may go on when the runner is told to stop.",
)
def run(drain_seconds: float) -> None:
    """Run jobs, without HTTP, until SIGTERM or Ctrl-C; Ctrl-C again gives back at once what still runs."""
    settings = load_settings()
    cap_native_threads(settings, os.cpu_count() or 1 if settings.executor == "process" else 1)
    run_process(settings, drain_seconds=drain_seconds)


def _invitation(model: str, gunicorn_options: tuple[str, ...]) -> str:
    curl = _curl(gunicorn_options)
    json = "-H 'Content-Type: application/json'"
    online = '{"data":[{"text":"What a lovely day"}]}'
    batch = f'{{"model":"{model}","data":[{{"text":"Good"}},{{"text":"Awful"}}]}}'
    return (
        "Try, in another terminal:\n"
        f"  {curl}/v1/models/{model}/predict {json} -d '{online}'\n"
        f"  {curl}/v1/jobs {json} -d '{batch}'\n"
        f"  {curl}/v1/jobs\n"
    )


def _curl(gunicorn_options: tuple[str, ...]) -> str:
    """How curl reaches what gunicorn binds to with these options: to append a path to."""
    config = Config(prog="gunicorn")
    parser = config.parser()
    by_command, _ = parser.parse_known_args(gunicorn_options)
    by_variable, _ = parser.parse_known_args(config.get_cmd_args_from_env())
    bound = by_command.bind or by_variable.bind or ["127.0.0.1:8000"]
    try:
        address = parse_address(bound[0])
    except RuntimeError as error:
        raise ConfigurationError(f"-b {bound[0]}: {error}") from None
    match address:
        case str(path):
            return f"curl -s --unix-socket {path} http://localhost"
        case (str(name), int(port)):
            host = EVERYWHERE.get(name, name)
            return f"curl -s http://{f'[{host}]' if ':' in host else host}:{port}"
        case _:  # the number of a socket that we inherit: it tells no address
            return "curl -s http://127.0.0.1:8000"
