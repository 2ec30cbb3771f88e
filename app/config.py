"""Settings: environment variables, read once into one frozen and validated object."""

import difflib
import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from environs import EnvError, env, validate
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.errors import ConfigurationError

PREFIX = "TWOFOLD_"
KIB, MIB, GIB = 1024, 1024**2, 1024**3
MAX_COUNT = 2**53
"""Counts go into SQL, where they must fit 64 bits."""
MAX_ITEMS = 2**31 - 1
"""Places of items are 32-bit integers in SQL."""
DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator may choose. Every field is an environment variable; `.env.example` explains each."""

    database_url: URL
    models_file: Path = Path("models.toml")
    artifact_cache: Path = Path("artifact-cache")
    web_threads: int = 16
    runner: Literal["embedded", "off"] = "embedded"
    runners: int = 1
    runner_threads: int = 8
    runner_nice: int = 10
    model_threads: int | None = None
    job_window: int = 16
    executor: str = "thread"
    max_attempts: int = 3
    lease_seconds: float = 60.0
    poll_seconds: float = 1.0
    retention_days: float | None = None
    storage_prefixes: tuple[str, ...] = ()
    cache_days: float = 30.0
    chunk_items: int = 1000
    chunk_bytes: int = MIB
    max_item_bytes: int = MIB
    max_request_bytes: int = 16 * MIB
    max_upload_bytes: int = GIB
    max_items: int = 100_000_000
    max_artifact_bytes: int = 512 * MIB
    online_timeout_seconds: float = 30.0
    client_timeout_seconds: float = 60.0
    access_log: Literal["off", "on"] = "off"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"


def load_settings() -> Settings:
    """Reads `TWOFOLD_*` and `DATABASE_URL`; `ConfigurationError` in one line if any is wrong or unknown."""
    known = [_variable(field.name) for field in fields(Settings) if field.name != "database_url"]
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
            raise ConfigurationError(f"{name} is not a setting: {hint}")
    chosen = [name for name in known if os.environ.get(name)]
    return Settings(
        database_url=_database_url(os.environ.get("DATABASE_URL") or "sqlite:///twofold.db"),
        **{name.removeprefix(PREFIX).lower(): _read(name) for name in chosen},
    )


def _variable(field_name: str) -> str:
    return PREFIX + field_name.upper()


def _read(variable: str) -> Any:
    """The value of a variable, converted and checked."""
    read = _READERS.get(variable.removeprefix(PREFIX).lower(), _count)
    try:
        return read(variable)
    except EnvError as error:
        found, problem = os.environ[variable], " ".join(str(error).split())
        raise ConfigurationError(f"{variable}={found!r} is wrong: {problem}") from None


def _count(variable: str) -> int:
    return env.int(variable, validate=validate.Range(min=1, max=MAX_COUNT))


def _one_of(*choices: str) -> Callable[[str], str]:
    return lambda variable: env.str(variable, validate=validate.OneOf(choices))


def _seconds(least: float, most: float) -> Callable[[str], float]:
    return lambda variable: env.float(variable, validate=validate.Range(min=least, max=most))


def _days(variable: str) -> float:
    return env.float(variable, validate=validate.Range(min=0.01, max=36_500))


_READERS: dict[str, Callable[[str], Any]] = {
    "models_file": env.path,
    "artifact_cache": env.path,
    "runner": _one_of("embedded", "off"),
    "executor": lambda variable: _executor(env.str(variable)),
    "retention_days": _days,
    "cache_days": _days,
    "storage_prefixes": lambda variable: tuple(map(str.strip, env.str(variable).split(","))),
    "web_threads": lambda variable: env.int(variable, validate=validate.Range(min=1, max=1024)),
    "runners": lambda variable: env.int(variable, validate=validate.Range(min=1, max=256)),
    "runner_threads": lambda variable: env.int(variable, validate=validate.Range(min=1, max=256)),
    "max_items": lambda variable: env.int(variable, validate=validate.Range(min=1, max=MAX_ITEMS)),
    "runner_nice": lambda variable: env.int(variable, validate=validate.Range(min=0, max=19)),
    "model_threads": lambda variable: env.int(variable, validate=validate.Range(min=1, max=1024)),
    "online_timeout_seconds": _seconds(0.01, DAY_SECONDS),
    "client_timeout_seconds": _seconds(1, DAY_SECONDS),
    "lease_seconds": _seconds(1, DAY_SECONDS),
    "poll_seconds": _seconds(0.05, DAY_SECONDS),
    "access_log": _one_of("off", "on"),
    "log_level": _one_of("debug", "info", "warning", "error"),
    "log_format": _one_of("auto", "json", "console"),
}
"""How to read a setting that is not just a count."""


def _executor(text: str) -> str:
    """`thread`, `process`, or the address of a Dask scheduler, if its client is installed."""
    if text in {"thread", "process"}:
        return text
    if not re.fullmatch(r"dask://([^/@:\s]+|\[[0-9a-fA-F:]+\]):\d{1,5}", text):
        raise EnvError("use thread, process, or dask://host:port for the scheduler of a Dask cluster")
    if importlib.util.find_spec("distributed") is None:
        raise EnvError("the client of Dask is not installed: pip install 'twofold[dask]'")
    return text


def _database_url(text: str) -> URL:
    """The URL with the driver this project ships: psycopg 3 for Postgres, the standard library's for SQLite."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # a port that is no number is a ValueError
        raise ConfigurationError(
            "DATABASE_URL is not a database URL: "
            "use sqlite:///file.db or postgresql://user:password@host:5432/database"
        ) from None
    backend = url.get_backend_name()
    if backend in {"postgres", "postgresql"}:
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ConfigurationError(f"DATABASE_URL names {backend!r}: use sqlite:///… or postgresql://…")
    if url.database in {None, "", ":memory:"}:
        raise ConfigurationError(
            "DATABASE_URL names an in-memory SQLite, which every process would see empty: use sqlite:///file.db"
        )
    return url
