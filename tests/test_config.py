"""Settings: read once, checked, and refused in one line that says what to change."""

import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from app.config import PREFIX, Settings, load_settings
from app.errors import ConfigurationError

EXAMPLE = Path(__file__).parent.parent / ".env.example"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    for field in fields(Settings):
        monkeypatch.delenv(PREFIX + field.name.upper(), raising=False)


def test_nothing_needs_to_be_set() -> None:
    settings = load_settings()

    assert str(settings.database_url) == "sqlite:///twofold.db"
    assert settings == Settings(database_url=settings.database_url)


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        load_settings().runner_threads = 2  # type: ignore[misc]  # the mistake under test


def test_every_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: dict[str, tuple[str, object]] = {
        "models_file": ("/etc/models.toml", Path("/etc/models.toml")),
        "artifact_cache": ("/var/cache/twofold", Path("/var/cache/twofold")),
        "runner": ("off", "off"),
        "runners": ("2", 2),
        "runner_threads": ("3", 3),
        "job_window": ("5", 5),
        "lease_seconds": ("1.5", 1.5),
        "executor": ("process", "process"),
        "max_attempts": ("4", 4),
        "retention_days": ("0.5", 0.5),
        "storage_prefixes": ("s3://a/b, file:///c", ("s3://a/b", "file:///c")),
        "cache_days": ("7", 7.0),
        "poll_seconds": ("0.05", 0.05),
        "chunk_items": ("7", 7),
        "chunk_bytes": ("8", 8),
        "max_item_bytes": ("9", 9),
        "max_request_bytes": ("10", 10),
        "max_upload_bytes": ("5000000000", 5_000_000_000),
        "max_items": ("11", 11),
        "max_artifact_bytes": ("12", 12),
        "web_threads": ("3", 3),
        "runner_nice": ("0", 0),
        "model_threads": ("2", 2),
        "online_timeout_seconds": ("0.5", 0.5),
        "client_timeout_seconds": ("1.5", 1.5),
        "access_log": ("on", "on"),
        "log_level": ("debug", "debug"),
        "log_format": ("console", "console"),
    }
    assert {"database_url", *chosen} == {field.name for field in fields(Settings)}
    for name, (text, _) in chosen.items():
        monkeypatch.setenv(PREFIX + name.upper(), text)

    settings = load_settings()

    assert {name: getattr(settings, name) for name in chosen} == {
        n: value for n, (_, value) in chosen.items()
    }


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_RUNNER_THREADS", "")
    monkeypatch.setenv("DATABASE_URL", "")

    assert load_settings() == Settings(database_url=load_settings().database_url)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *(
            (variable, value)
            for variable in ("RUNNER_THREADS", "CHUNK_ITEMS", "JOB_WINDOW", "MAX_UPLOAD_BYTES")
            for value in ("0", "-1", "1.5", "many", " ", "1e3", "9" * 30)
        ),
        ("RUNNER_THREADS", "257"),
        *(
            (variable, value)
            for variable in ("LEASE_SECONDS", "POLL_SECONDS")
            for value in ("0", "-1", "soon", "nan", "inf", "1e300")
        ),
        ("LEASE_SECONDS", "0.9"),
        ("POLL_SECONDS", "0.01"),
        ("RUNNER", "on"),
        ("RUNNER", "OFF"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_wrong_value_stops_the_start_in_one_line(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFIX + variable, value)

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    line = str(caught.value)
    assert line.startswith(f"TWOFOLD_{variable}={value!r} is wrong: ")
    assert "\n" not in line
    assert len(line) > len(f"TWOFOLD_{variable}={value!r} is wrong: ")


@pytest.mark.parametrize(
    "address", ["dask://10.0.0.7:8786", "dask://scheduler.internal:8786", "dask://[::1]:8786"]
)
def test_a_dask_scheduler_is_an_executor(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_EXECUTOR", address)
    assert load_settings().executor == address


@pytest.mark.parametrize(
    "address", ["dask", "dask://", "dask://host", "dask://host:port", "dask://a@b:1", "tcp://host:1"]
)
def test_what_is_no_executor_is_refused_with_what_would_be(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWOFOLD_EXECUTOR", address)
    with pytest.raises(ConfigurationError, match="use thread, process, or dask://host:port"):
        load_settings()


def test_dask_without_its_client_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_EXECUTOR", "dask://host:8786")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'twofold\[dask\]'"):
        load_settings()


def test_an_unknown_variable_stops_the_start_and_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_RUNER_THREADS", "2")

    with pytest.raises(
        ConfigurationError,
        match="TWOFOLD_RUNER_THREADS is not a setting: did you mean TWOFOLD_RUNNER_THREADS",
    ):
        load_settings()


def test_an_unknown_variable_that_resembles_none_is_told_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_ZZ_QQ_XX_JJ_WW_KK_VV_YY", "2")

    with pytest.raises(ConfigurationError, match=r"known are TWOFOLD_MODELS_FILE, .*TWOFOLD_LOG_FORMAT"):
        load_settings()


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("sqlite:////var/b.db", "sqlite:////var/b.db"),
        ("postgres://u:p@h:5432/d", "postgresql+psycopg://u:p@h:5432/d"),
        ("postgresql://u:p@h/d?sslmode=require", "postgresql+psycopg://u:p@h/d?sslmode=require"),
        ("postgresql+psycopg2://h/d", "postgresql+psycopg://h/d"),
    ],
)
def test_a_database_url_gets_the_driver_that_is_shipped(
    given: str, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", given)

    assert load_settings().database_url.render_as_string(hide_password=False) == used


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("my:secret database", "is not a database URL"),
        ("postgresql://u:secret@h:port/d", "is not a database URL"),
        ("mysql://u:secret@h/d", "'mysql'"),
        ("sqlite://", "in-memory"),
        ("sqlite:///:memory:", "in-memory"),
    ],
)
def test_a_wrong_database_url_is_refused_without_showing_its_password(
    url: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)

    with pytest.raises(ConfigurationError, match="DATABASE_URL") as caught:
        load_settings()

    assert why in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_example_file_lists_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))
    assert set(listed) == {
        "DATABASE_URL",
        *(PREFIX + field.name.upper() for field in fields(Settings) if field.name != "database_url"),
    }
    defaults = load_settings()

    for name, value in listed.items():
        monkeypatch.setenv(name, value)

    assert load_settings() == defaults
