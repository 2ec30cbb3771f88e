"""Logging: one JSON object a line in production, readable lines in a terminal, ids bound to both."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from sqlalchemy import make_url

from app.config import Settings
from app.log import configure_logging, logging_config

LIBRARIES = ["aiobotocore", "botocore", "fsspec", "gcsfs", "s3fs", "urllib3"]


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    """Logging as it was before: what is configured here outlives the test otherwise, with a closed stream."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    structlog.contextvars.clear_contextvars()
    yield
    root.handlers[:], root.level = handlers, level
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def settings(**changes: Any) -> Settings:
    return Settings(**({"database_url": make_url("sqlite:///x.db"), "log_format": "json"} | changes))


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What was logged since, as JSON."""
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_an_event_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())

    structlog.get_logger("app.runner").info("chunk_run", n_items=3, text="two\nlines \0 é")

    (line,) = lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "chunk_run",
        "level": "info",
        "logger": "app.runner",
        "n_items": 3,
        "text": "two\nlines \0 é",
    }


def test_bound_ids_stand_in_every_line_of_ours_and_of_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())

    with structlog.contextvars.bound_contextvars(request_id="r", job_id="j"):
        structlog.get_logger("a").warning("ours")
        logging.getLogger("b").warning("theirs, %s", "formatted")
    logging.getLogger("b").warning("later")

    assert [(line["event"], line.get("request_id"), line.get("job_id")) for line in lines(capsys)] == [
        ("ours", "r", "j"),
        ("theirs, formatted", "r", "j"),
        ("later", None, None),
    ]


def test_an_exception_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())

    try:
        raise LookupError("gone")
    except LookupError:
        structlog.get_logger("a").exception("ours")
        logging.getLogger("b").exception("theirs")

    for line in lines(capsys):
        assert line["level"] == "error"
        assert line["exception"].startswith("Traceback")
        assert line["exception"].endswith("LookupError: gone")


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_is_a_threshold(level: str, heard: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings(log_level=level))

    for name in ("debug", "info", "warning", "error"):
        getattr(structlog.get_logger("a"), name)(name)

    assert [line["event"] for line in lines(capsys)] == heard


def test_what_gunicorn_says_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())

    logging.getLogger("gunicorn.error").info("booting")
    logging.getLogger("gunicorn.access").info("GET /")

    assert [line["event"] for line in lines(capsys)] == ["booting", "GET /"]


def test_to_configure_again_replaces_and_does_not_add(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings(log_level="debug"))
    configure_logging(settings())

    structlog.get_logger("a").debug("unheard")
    structlog.get_logger("a").info("once")

    assert [line["event"] for line in lines(capsys)] == ["once"]


def test_the_console_format_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings(log_format="console"))

    structlog.get_logger("a").info("job_made", n_items=3)

    said = capsys.readouterr().err
    assert "job_made" in said
    assert "n_items=3" in said
    assert not said.startswith("{")
    assert "\x1b" not in said  # colours are for terminals


@pytest.mark.parametrize(("is_terminal", "is_json"), [(True, False), (False, True)])
def test_auto_asks_whether_somebody_looks(
    is_terminal: bool, is_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging(settings(log_format="auto"))

    structlog.get_logger("a").info("hello")

    assert stream.getvalue().startswith("{") == is_json


def test_libraries_that_chatter_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings(log_level="debug"))

    logging.getLogger("werkzeug").info("GET / 200")
    logging.getLogger("alembic.runtime.migration").info("Context impl")

    assert lines(capsys) == []
    assert logging_config(settings())["disable_existing_loggers"] is False


@pytest.mark.parametrize(("level", "heard"), [("debug", ["info", "warning"]), ("warning", ["warning"])])
@pytest.mark.parametrize("library", LIBRARIES)
def test_what_libraries_of_stores_say_of_credentials_is_not_logged(
    library: str, level: str, heard: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(settings(log_level=level))

    for name in ("debug", "info", "warning"):
        getattr(logging.getLogger(f"{library}.auth"), name)(name)

    assert [line["event"] for line in lines(capsys)] == heard
