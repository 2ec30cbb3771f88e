"""Artifacts: what `models.toml` names as a model's weights, as a local path that holds what was pinned."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from app.models.contract import ContractError
from app.models.declarations import Declaration

DEFAULT_CACHE = Path("artifact-cache")
PICKLES = (".joblib", ".pkl", ".pickle", ".dill", ".cloudpickle", ".pt", ".pth", ".ckpt")
"""How names of files end that run code of their author's choice when they are read."""
READ_BYTES = 1024 * 1024


class ArtifactError(ContractError):
    """The artifact is not there, or is not what `models.toml` says; the message says what to change."""


class ArtifactAway(ArtifactError):
    """Where the artifact is does not answer as it should: to try again may help."""

    transient = True


def local_artifact(declaration: Declaration, cache: Path, *, runs_code: bool) -> Path | None:
    """Where the declared artifact is on this machine; None if none is declared. Fetched into `cache`, if it is remote.

    `runs_code` says that the model runs code which its artifact brings, as a pickle does: from another machine that is
    refused unless its digest is pinned. Raises `ArtifactError`. Blocks for as long as a download takes.
    """
    if declaration.artifact is None:
        return None
    if is_remote(declaration.artifact):
        # Only here: the filesystems' libraries cost a start without remote artifacts nothing.
        from app.models.artifact_cache import fetch

        _refuse_unpinned_code(declaration, runs_code)
        return fetch(declaration.artifact, declaration.sha256, cache)
    path = local_path(declaration.artifact)
    if not path.exists():
        raise ArtifactError(f"artifact {path} does not exist: correct artifact in models.toml")
    if declaration.sha256 is not None:
        check_digest(declaration.artifact, digest(path), declaration.sha256)
    return path


def is_remote(artifact: str) -> bool:
    return "://" in artifact and not artifact.startswith("file://")


def local_path(artifact: str) -> Path:
    """The path of a local artifact, written as one or as a `file://` address."""
    return Path(unquote(urlsplit(artifact).path) if artifact.startswith("file://") else artifact)


def shown(artifact: str) -> str:
    """An address as it may stand in a log and in `/readyz`: without a password or the signature of its query."""
    if not is_remote(artifact):
        return artifact
    parts = urlsplit(artifact)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def digest(path: Path) -> str:
    """SHA-256, in hex, of a file; of a folder, that of the lines which `sha256sum` prints for its files.

    The files' names begin with `./` and are sorted by their bytes, so this is what the shell says too:
    `find -L . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum`.
    """
    if not path.is_dir():
        return _file_digest(path)
    listing = hashlib.sha256()
    for name in sorted(files_of(path), key=os.fsencode):
        listing.update(f"{_file_digest(path / name)}  ./".encode() + os.fsencode(name) + b"\n")
    return listing.hexdigest()


def check_digest(artifact: str, found: str, pinned: str) -> None:
    """Raises `ArtifactError` unless the digest that was found is the pinned one."""
    if found != pinned:
        raise ArtifactError(
            f"artifact {shown(artifact)} has sha256 {found}, but models.toml pins {pinned}: "
            "find out who changed it; if it is meant to be new, pin the new sha256"
        )


def _refuse_unpinned_code(declaration: Declaration, runs_code: bool) -> None:
    artifact = shown(declaration.artifact or "")
    if declaration.sha256 is None and (runs_code or artifact.lower().endswith(PICKLES)):
        raise ArtifactError(
            f"artifact {artifact} is of a format that runs code when it is loaded, so whoever can write there would "
            'run code here: pin it with sha256 = "…" in models.toml (docs/models.md)'
        )


def files_of(folder: Path) -> Iterator[str]:
    """The files of a folder, by their paths from it. Links are followed: Hugging Face's cache is made of them."""
    for directory, _, names in os.walk(folder, followlinks=True):
        for name in names:
            yield os.path.relpath(os.path.join(directory, name), folder)


def _file_digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            found.update(block)
    return found.hexdigest()
