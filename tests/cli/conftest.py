"""The command, in this process and as a process of its own, on a fresh database of either kind."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import URL

from app.cli import main
from app.db import Database
from tests.jobs.conftest import Workshop

PROJECT = Path(__file__).parent.parent.parent
CONSOLE_SCRIPT = "from app.cli import main; main()"

Twofold = Callable[..., Result]
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working directory with nothing in it, and no settings. Returns its path."""
    for name in os.environ:
        if name.startswith("TWOFOLD_") or name in {"DATABASE_URL", "GUNICORN_CMD_ARGS"}:
            monkeypatch.delenv(name)
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def twofold(bare: Path) -> Twofold:
    """Runs `twofold ARGS…` in this process, where the environment tells."""

    def invoke(*args: str) -> Result:
        return CliRunner().invoke(main, args, prog_name="twofold", catch_exceptions=False)

    return invoke


@pytest.fixture
def workshop(
    database: Database,
    select_all: Callable[..., list[dict[str, Any]]],
    bare: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Workshop:
    """A queue in the database that the command is told to use."""
    monkeypatch.setenv("DATABASE_URL", shown(database.url))
    return Workshop(database, select_all)


@pytest.fixture
def start(bare: Path) -> Iterator[Start]:
    """Starts `twofold ARGS…`, or other code, as a console script does; killed at the end, if it still runs then."""
    with ExitStack() as stack:

        def run(*args: str, code: str = CONSOLE_SCRIPT) -> subprocess.Popen[bytes]:
            # -P, because a console script does not have the working directory on its path either.
            command = [sys.executable, "-P", "-c", code, *args]
            process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(PROJECT)})
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield run


def shown(url: URL) -> str:
    return url.render_as_string(hide_password=False)
