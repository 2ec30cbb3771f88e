"""`twofold serve`, up to the moment when it becomes gunicorn; tests of gunicorn itself take it from there."""

import os
import shlex
from pathlib import Path

import orjson
import pytest

from tests.cli.conftest import PROJECT, Twofold


@pytest.fixture
def executed(bare: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The argument lists of the programs that this process was to become."""
    (bare / "models.toml").write_text('[[model]]\nname = "mine"\nversion = "1"\nclass = "mine:Mine"\n')
    lists: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: lists.append([path, *arguments]))
    return lists


def test_serve_becomes_gunicorn_with_the_projects_configuration(
    twofold: Twofold, executed: list[list[str]], bare: Path
) -> None:
    assert twofold("serve", "-b", "0.0.0.0:80", "-w", "4", "--reload").exit_code == 0

    ((path, name, app, *options),) = executed
    assert (path, app) == (name, "asgi:app")
    assert Path(path).name == "gunicorn"
    assert os.access(path, os.X_OK)
    assert options == [
        *("-c", str(PROJECT / "gunicorn.conf.py"), "--pythonpath", str(PROJECT)),
        *("-b", "0.0.0.0:80", "-w", "4", "--reload"),
    ]
    assert Path.cwd() == bare  # where models.toml is


def test_serve_prints_three_curl_lines_to_try(twofold: Twofold, executed: list[list[str]]) -> None:
    lines = twofold("serve").stdout.splitlines()[1:4]

    online, create, listing = (shlex.split(line) for line in lines)
    assert online[:3] == ["curl", "-s", "http://127.0.0.1:8000/v1/models/mine/predict"]
    assert create[:3] == ["curl", "-s", "http://127.0.0.1:8000/v1/jobs"]
    assert listing == ["curl", "-s", "http://127.0.0.1:8000/v1/jobs"]
    assert online[3:5] == create[3:5] == ["-H", "Content-Type: application/json"]
    assert orjson.loads(online[6]) == {"data": [{"text": "What a lovely day"}]}
    assert orjson.loads(create[6]) == {"model": "mine", "data": [{"text": "Good"}, {"text": "Awful"}]}


@pytest.mark.parametrize(
    ("options", "curl"),
    [
        (["-b", "0.0.0.0:80"], "curl -s http://127.0.0.1:80/"),
        (["-b0.0.0.0:81"], "curl -s http://127.0.0.1:81/"),
        (["--bind=example.org"], "curl -s http://example.org:8000/"),
        (["-b", "[::]:90", "-b", "127.0.0.1:91"], "curl -s http://[::1]:90/"),
        (["--bind", "unix:/run/twofold"], "curl -s --unix-socket /run/twofold http://localhost/"),
        (["-w", "4"], "curl -s http://127.0.0.1:7000/"),
    ],
)
def test_the_curl_lines_reach_what_gunicorn_binds_to(
    options: list[str],
    curl: str,
    twofold: Twofold,
    executed: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--bind 127.0.0.1:7000")
    assert f"  {curl}v1/jobs\n" in twofold("serve", *options).stdout


def test_an_address_that_is_none_starts_nothing(twofold: Twofold, executed: list[list[str]]) -> None:
    result = twofold("serve", "-b", "localhost:http")
    assert (result.exit_code, result.output) == (
        2,
        "twofold: -b localhost:http: 'http' is not a valid port number.\n",
    )
    assert executed == []
