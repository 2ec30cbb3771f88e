"""Declarations: what `models.toml` says is served, read once and checked strictly."""

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

from app.errors import ConfigurationError
from app.models.adapters import ADAPTERS

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
SHA256 = re.compile(r"[0-9a-f]{64}")
TRAINED = re.compile(r"t[0-9]+")
"""Versions that training makes."""
KEYS = (
    "name",
    "version",
    "class",
    "adapter",
    "artifact",
    "sha256",
    "options",
    "default",
    "concurrency",
    "max_batch_size",
    "max_waiting_items",
    "chunk_timeout_seconds",
    "warmup",
    "preload",
    "cache",
    "cache_max_items",
)
MAX_BATCH_SIZE = 4096
"""What four chunks of a job have by default: only a model that says so is given less at once."""
MAX_WAITING_ITEMS = 10_000
CACHE_MAX_ITEMS = 1_000_000
"""Some 200 MB of table and indexes, with predictions as short as a label."""
PROTOCOL_EXTRAS = {"s3": "s3", "gs": "gcs", "https": "http", "http": "http"}
"""From where artifacts are fetched, each with the extra that does it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """One version of one model: an entry of `models.toml`.

    `class_path` is `module:Class`, of an adapter its own. `artifact` is a local path as written, taken from the working
    directory, or an address; `sha256` is the digest that it must have, in lower-case hex.
    `default` is true for exactly one version of each name: the one a caller gets who names no version. It says nothing
    about the model, so two declarations that differ in it alone are equal.
    `concurrency` is how many threads of one process may be inside `predict` at once, and `max_batch_size` the most
    items that one call of it gets. Online requests wait for it in each process until they have `max_waiting_items`
    together; who comes then is turned away. A chunk of a job that takes longer than `chunk_timeout_seconds` is given
    up; None lets it take any time. The items of `warmup` are predicted before it is ready. With `preload` it is loaded
    before gunicorn forks. With `cache`, predictions are kept, the newest `cache_max_items` of them, and an item that
    was predicted before is not predicted again.
    """

    name: str
    version: str
    class_path: str
    artifact: str | None
    options: dict[str, Any]
    default: bool = field(compare=False)
    concurrency: int
    max_batch_size: int = MAX_BATCH_SIZE
    max_waiting_items: int = MAX_WAITING_ITEMS
    chunk_timeout_seconds: float | None = None
    sha256: str | None = None
    warmup: list[dict[str, Any]] = field(default_factory=list)
    preload: bool = False
    cache: bool = False
    cache_max_items: int = CACHE_MAX_ITEMS

    @property
    def fingerprint(self) -> bytes:
        """32 bytes that differ wherever two declarations could predict differently: by class, weights or options."""
        defining = (self.name, self.version, self.class_path, self.sha256, self.options)
        text = json.dumps(defining, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).digest()


def read_declarations(path: Path) -> tuple[Declaration, ...]:
    """The models that `path` declares, in the file's order; at least one.

    Raises `ConfigurationError`, whose one line names the file, the entry and what to change.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        _refuse(f"{path}: no such file: write one or point TWOFOLD_MODELS_FILE at yours")
    except OSError as error:
        _refuse(f"{path}: cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        _refuse(f"{path}: is not UTF-8 (byte {error.start}): save it as UTF-8")
    except (ValueError, RecursionError) as error:  # also for an integer of 5000 digits, and for deep nesting
        _refuse(f"{path}: is not TOML: {error}")
    for key in document:
        if key != "model":
            _refuse(f"{path}: unknown table or key {key!r}: only [[model]] entries belong here")
    entries = document.get("model")
    if not entries:
        _refuse(f"{path}: declares no model: add a [[model]] entry with name, version and class")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        _refuse(f"{path}: `model` is not a list of tables: write [[model]], with two brackets")
    declared = [_declaration(path, number, entry) for number, entry in enumerate(entries, start=1)]
    return _with_defaults(path, declared)


def _declaration(path: Path, number: int, entry: dict[str, Any]) -> Declaration:
    """One checked entry; `default` is as written."""
    label = f"{path}: [[model]] number {number}"
    if isinstance(entry.get("name"), str):
        label += f" ({entry['name']!r})"
    for key in entry:
        if key not in KEYS:
            nearest = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(KEYS)}"
            _refuse(f"{label}: unknown key {key!r}: {hint}")
    return Declaration(
        name=_name(label, "name", entry),
        version=_version(label, entry),
        class_path=_class_path(label, entry),
        artifact=_artifact(label, entry),
        sha256=_sha256(label, entry),
        options=_options(label, entry),
        default=_flag(label, "default", entry),
        concurrency=_count(label, "concurrency", "threads", entry, 1),
        max_batch_size=_count(label, "max_batch_size", "items", entry, MAX_BATCH_SIZE),
        max_waiting_items=_count(label, "max_waiting_items", "items", entry, MAX_WAITING_ITEMS),
        chunk_timeout_seconds=_chunk_timeout_seconds(label, entry),
        warmup=_warmup(label, entry),
        preload=_flag(label, "preload", entry),
        cache=_cache(label, entry),
        cache_max_items=_count(label, "cache_max_items", "items", entry, CACHE_MAX_ITEMS),
    )


def _name(label: str, key: str, entry: dict[str, Any]) -> str:
    value = _text(label, key, entry)
    if not NAME.fullmatch(value):
        _refuse(
            f"{label}: {key} {value!r} is no name: use 1 to 63 of a-z, 0-9, '.', '_' and '-', "
            "a letter or digit first"
        )
    return value


def _version(label: str, entry: dict[str, Any]) -> str:
    value = _name(label, "version", entry)
    if TRAINED.fullmatch(value):
        _refuse(f"{label}: version {value!r} is of a form that trained versions have: choose another")
    return value


def _class_path(label: str, entry: dict[str, Any]) -> str:
    if "adapter" in entry:
        return _adapter_path(label, entry)
    if "class" not in entry:
        _refuse(f'{label}: has no class and no adapter: add class = "package.module:Class"')
    value = _text(label, "class", entry)
    module, colon, name = value.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        _refuse(f"{label}: class {value!r} is no class path: write 'package.module:Class'")
    return value


def _adapter_path(label: str, entry: dict[str, Any]) -> str:
    if "class" in entry:
        _refuse(f"{label}: has both class and adapter: keep one")
    value = _text(label, "adapter", entry)
    if value not in ADAPTERS:
        _refuse(f"{label}: adapter {value!r} is unknown: known are {', '.join(ADAPTERS)}")
    return ADAPTERS[value]


def _text(label: str, key: str, entry: dict[str, Any]) -> str:
    if key not in entry:
        _refuse(f'{label}: has no {key}: add {key} = "…"')
    value = entry[key]
    if not isinstance(value, str):
        _refuse(f"{label}: {key} is {value!r}, not a string: put it in quotes")
    return value


def _artifact(label: str, entry: dict[str, Any]) -> str | None:
    if "artifact" not in entry:
        return None
    value = _text(label, "artifact", entry)
    protocol, is_address, rest = value.partition("://")
    if not value or (protocol == "file" and not rest.startswith("/")):
        _refuse(
            f"{label}: artifact {value!r} is no path: name a file or directory of this machine, or an address"
        )
    if is_address and protocol not in {"file", *PROTOCOL_EXTRAS}:
        known = ", ".join(f"{each}://" for each in ("file", *PROTOCOL_EXTRAS))
        _refuse(f"{label}: artifact {value!r} has an unknown protocol: use a local path, or one of {known}")
    if protocol == "http" and "sha256" not in entry:
        _refuse(
            f'{label}: artifact comes over http, where anybody may change it: use https, or add sha256 = "…"'
        )
    return value


def _sha256(label: str, entry: dict[str, Any]) -> str | None:
    if "sha256" not in entry:
        return None
    value = _text(label, "sha256", entry).lower()
    if not SHA256.fullmatch(value):
        _refuse(f"{label}: sha256 {value!r} is no digest: write the 64 hex digits that sha256sum prints")
    if "artifact" not in entry:
        _refuse(f'{label}: has sha256 but no artifact: add artifact = "…", or take sha256 out')
    return value


def _options(label: str, entry: dict[str, Any]) -> dict[str, Any]:
    value = entry.get("options", {})
    if not isinstance(value, dict):
        _refuse(f"{label}: options is {value!r}, not a table: write options = {{ key = value }}")
    if "artifact" in value:
        _refuse(f"{label}: options holds 'artifact', which load gets anyway: move it to artifact = \"…\"")
    return value


def _flag(label: str, key: str, entry: dict[str, Any]) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        _refuse(f"{label}: {key} is {value!r}: write {key} = true, or leave it out")
    return value


def _cache(label: str, entry: dict[str, Any]) -> bool:
    """Refused for weights that are not pinned: others in their place would be answered with what these predicted."""
    is_cached = _flag(label, "cache", entry)
    if is_cached and "artifact" in entry and "sha256" not in entry:
        _refuse(f'{label}: has cache = true and an artifact that may change: pin it with sha256 = "…"')
    if "cache_max_items" in entry and not is_cached:
        _refuse(f"{label}: has cache_max_items but no cache: add cache = true, or take cache_max_items out")
    return is_cached


def _count(label: str, key: str, things: str, entry: dict[str, Any], default: int) -> int:
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        _refuse(f"{label}: {key} is {value!r}: write a whole number of {things}, 1 or more")
    return value


def _chunk_timeout_seconds(label: str, entry: dict[str, Any]) -> float | None:
    value = entry.get("chunk_timeout_seconds")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 31_536_000:
        _refuse(f"{label}: chunk_timeout_seconds is {value!r}: write a number of seconds, more than 0")
    return float(value)


def _warmup(label: str, entry: dict[str, Any]) -> list[dict[str, Any]]:
    value = entry.get("warmup", [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        _refuse(f"{label}: warmup is {value!r}, not a list of items: write warmup = [{{ key = value }}]")
    return value


def _with_defaults(path: Path, declared: Sequence[Declaration]) -> tuple[Declaration, ...]:
    """The same declarations, where each name has one default version."""
    defaults: set[tuple[str, str]] = set()
    for name, group in groupby(sorted(declared, key=attrgetter("name")), key=attrgetter("name")):
        of_name = list(group)
        versions = [declaration.version for declaration in of_name]
        for version in versions:
            if versions.count(version) > 1:
                _refuse(f"{path}: model {name!r} declares version {version!r} twice: change one version")
        marked = [d.version for d in of_name if d.default] or versions
        if len(marked) > 1 and any(d.default for d in of_name):
            _refuse(
                f"{path}: model {name!r} has default = true on versions {', '.join(marked)}: keep it on one"
            )
        if len(marked) > 1:
            _refuse(
                f"{path}: model {name!r} has versions {', '.join(marked)} and no default: "
                "add default = true to one of them"
            )
        defaults.add((name, marked[0]))
    return tuple(replace(d, default=(d.name, d.version) in defaults) for d in declared)


def _refuse(line: str) -> NoReturn:
    raise ConfigurationError(line) from None
