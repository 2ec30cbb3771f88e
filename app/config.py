"""Settings: environment variables, read once into one frozen and validated object."""

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from environs import Env, EnvError, validate
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.errors import ConfigurationError

PREFIX = "TWOFOLD_"
KIB, MIB, GIB = 1024, 1024**2, 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator may choose. Every field is an environment variable; `.env.example` explains each."""

    database_url: URL
    models_file: Path = Path("models.toml")
    runner: Literal["embedded", "off"] = "embedded"
    runner_threads: int = 8
    job_window: int = 16
    lease_seconds: float = 60.0
    poll_seconds: float = 1.0
    chunk_items: int = 1000
    chunk_bytes: int = MIB
    max_item_bytes: int = MIB
    max_request_bytes: int = 16 * MIB
    max_upload_bytes: int = GIB
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Reads `TWOFOLD_*` and `DATABASE_URL`; `ConfigurationError` in one line if any is wrong or unknown."""
    environ = os.environ if environ is None else environ
    known = [PREFIX + field.name.upper() for field in fields(Settings) if field.name != "database_url"]
    for name in environ:
        if name.startswith(PREFIX) and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
            raise ConfigurationError(f"{name} is not a setting: {hint}")
    return Settings(
        database_url=_database_url(environ.get("DATABASE_URL") or "sqlite:///twofold.db"),
        **_prefixed(environ),
    )


def _prefixed(environ: Mapping[str, str]) -> dict[str, Any]:
    """The `TWOFOLD_*` settings that are set and not empty, each converted and checked."""
    env = Env()
    positive, positive_seconds = validate.Range(min=1), validate.Range(min=0.05)
    readers: dict[str, Callable[[str], Any]] = {
        "models_file": env.path,
        "runner": lambda name: env.str(name, validate=validate.OneOf(["embedded", "off"])),
        "runner_threads": lambda name: env.int(name, validate=validate.Range(min=1, max=256)),
        "lease_seconds": lambda name: env.float(name, validate=validate.Range(min=1)),
        "poll_seconds": lambda name: env.float(name, validate=positive_seconds),
        "log_level": lambda name: env.str(
            name, validate=validate.OneOf(["debug", "info", "warning", "error"])
        ),
        "log_format": lambda name: env.str(name, validate=validate.OneOf(["auto", "json", "console"])),
    }
    values: dict[str, Any] = {}
    for field in fields(Settings):
        variable = PREFIX + field.name.upper()
        if field.name == "database_url" or not environ.get(variable):
            continue
        read = readers.get(field.name, lambda name: env.int(name, validate=positive))
        try:
            values[field.name] = read(variable)
        except EnvError as error:
            raise ConfigurationError(
                f"{variable}={environ[variable]!r} is wrong: {' '.join(str(error).split())}"
            ) from None
    return values


def _database_url(text: str) -> URL:
    """The URL with the driver this project ships: psycopg 3 for Postgres, the standard library's for SQLite."""
    try:
        url = make_url(text)
    except ArgumentError:
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
