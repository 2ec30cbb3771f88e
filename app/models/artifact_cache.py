"""The artifact cache: artifacts from elsewhere, brought here once for all processes of a host, kept by their digest.

sha256/<digest>/<name>   an artifact, a file or a folder, complete whenever it is there
trained/<digest>/artifact  the same, of what comes from no address
versions/<version>       the digest of what an address held: in a version by its server's ETag and the like, or
                         when it was found to be what is pinned
incoming/<address>/      what is being downloaded; of no use after a crash, and removed by the next who tries
locks/<address>.lock     held by the one process that downloads from an address; the others wait for it
"""

import errno
import hashlib
import posixpath
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import structlog
from filelock import FileLock

from app.models.artifacts import ArtifactAway, ArtifactError, check_digest, digest, shown
from app.models.contract import ContractError
from app.models.declarations import PROTOCOL_EXTRAS
from app.models.extras import needs

log = structlog.get_logger(__name__)

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 60.0
"""A server that sends nothing for this long is given up. There is no limit on a whole download: weights are big."""
VERSION_KEYS = ("ETag", "etag", "md5Hash", "generation", "Content-MD5", "Last-Modified", "LastModified")
"""Under which names the filesystems tell that a file was replaced."""

REFUSALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "DefaultCredentialsError",
    "ParamValidationError",
}
"""What botocore and google-auth raise of what only a change of the configuration mends."""
SHELF, BROUGHT_SHELF, BROUGHT = "sha256", "trained", "artifact"
"""Where artifacts from addresses are kept, where those from none, and the name of the latter."""

Files = dict[str, Mapping[str, Any]]
"""What is to be downloaded: remote path → what its filesystem tells of it."""


def fetch(address: str, pinned: str | None, cache: Path) -> Path:
    """The artifact's local copy, whose digest has just been checked; `ArtifactError` says why there is none.

    A pinned artifact that is in the cache is taken from there without asking its server. Without a pin the server is
    asked for the version it has. Any number of processes and threads may call this at once.
    """
    # Not by the digest alone: with a new address and a pin that was forgotten, that would serve the old weights.
    version = None if pinned is None else hashlib.sha256(f"{address}\0{pinned}".encode()).hexdigest()
    if version and (kept := _kept_version(cache, version)):
        return kept
    key = hashlib.sha256(address.encode()).hexdigest()
    _make_folders(cache)
    with FileLock(cache / "locks" / f"{key}.lock"):
        if version and (kept := _kept_version(cache, version)):
            return kept  # another process fetched it meanwhile
        with _explained(address):
            filesystem = _filesystem(urlsplit(address).scheme)
            root = filesystem._strip_protocol(address)
            files = _files(filesystem, root, address)
            version = version or _version(address, files)
            if pinned is None and version and (kept := _kept_version(cache, version)):
                return kept
            started = time.monotonic()
        name = posixpath.basename(urlsplit(address).path.rstrip("/")) or "artifact"
        with _incoming(cache / "incoming" / key) as incoming:
            target = incoming / name
            with _explained(address):
                _download(filesystem, root, files, target)
            found = digest(target)
            if pinned is not None:
                check_digest(address, found, pinned)
            kept = _keep(target, cache, SHELF, found)
        if version:
            _write(cache / "versions" / version, found)
        seconds = round(time.monotonic() - started, 3)
        log.info("artifact_downloaded", artifact=shown(address), sha256=found, seconds=seconds)
        return kept


def bring(sha256: str, write: Callable[[Path], None], cache: Path) -> Path:
    """The local copy of the artifact with this digest. If there is none yet, `write` puts it at the path it is given.

    Like `fetch`, for what is at no address. Whatever `write` raises comes through.
    """
    if kept := _kept(cache / BROUGHT_SHELF, sha256):
        return kept
    _make_folders(cache)
    with FileLock(cache / "locks" / f"{sha256}.incoming.lock"):
        if kept := _kept(cache / BROUGHT_SHELF, sha256):
            return kept  # another process brought it meanwhile
        with _incoming(cache / "incoming" / sha256) as incoming:
            target = incoming / BROUGHT
            write(target)
            if (found := digest(target)) != sha256:
                raise ArtifactError(f"the artifact that should have sha256 {sha256} has {found}")
            return _keep(target, cache, BROUGHT_SHELF, found)


def place(sha256: str, cache: Path) -> Path:
    """Where `bring` puts the artifact with this digest."""
    return cache / BROUGHT_SHELF / sha256 / BROUGHT


def _make_folders(cache: Path) -> None:
    try:
        for folder in (SHELF, BROUGHT_SHELF, "versions", "incoming", "locks"):
            (cache / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"TWOFOLD_ARTIFACT_CACHE {cache} cannot be written: {error.strerror}") from error


@contextmanager
def _incoming(folder: Path) -> Iterator[Path]:
    """An empty folder for what comes, which takes no room any more if it does not come whole."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _kept(shelf: Path, wanted: str) -> Path | None:
    """What the cache keeps under this digest, if it has it still: a disk may have lost or changed what was written."""
    try:
        (kept,) = (shelf / wanted).iterdir()
        return kept if digest(kept) == wanted else None
    except (OSError, ValueError):
        return None


def _kept_version(cache: Path, version: str) -> Path | None:
    try:
        return _kept(cache / SHELF, (cache / "versions" / version).read_text())
    except OSError:
        return None


def _filesystem(protocol: str) -> Any:
    """The filesystem for a protocol, with limits on silence; credentials and the like come from the environment."""
    options: dict[str, Any] = {}
    with needs(PROTOCOL_EXTRAS[protocol]):
        made = fsspec.get_filesystem_class(protocol)
        if protocol in {"http", "https"}:
            from aiohttp import ClientTimeout

            # By default aiohttp ends every download after five minutes.
            timeout = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
            options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}
        elif protocol == "s3":
            options = {"config_kwargs": {"connect_timeout": CONNECT_SECONDS, "read_timeout": SILENCE_SECONDS}}
    return made(skip_instance_cache=True, **options)


def _files(filesystem: Any, root: str, address: str) -> Files:
    """The file at `root`, or all files of the folder there."""
    found: Mapping[str, Any] = filesystem.info(root)
    if found["type"] != "directory":
        return {root: found}
    files: Files = {
        path: info
        for path, info in filesystem.find(root, detail=True).items()
        if path.rstrip("/") != root and not path.endswith("/")  # consoles make empty objects to show a folder
    }
    for path in files:
        steps = path.removeprefix(f"{root}/").split("/")
        if not path.startswith(f"{root}/") or {"", ".", ".."}.intersection(steps):
            raise ArtifactError(f"artifact {shown(address)} holds {path!r}, which is no path inside it")
    if not files:
        raise ArtifactError(f"artifact {shown(address)} is an empty folder: correct artifact in models.toml")
    return files


def _version(address: str, files: Files) -> str | None:
    """A name for what is at the address now; None if its server does not tell when a file is replaced."""
    listing = hashlib.sha256(address.encode())
    for path in sorted(files):
        told = [str(files[path][key]) for key in VERSION_KEYS if files[path].get(key)]
        if not told:
            return None
        listing.update("\0".join(["", path, str(files[path].get("size")), *told]).encode())
    return listing.hexdigest()


def _download(filesystem: Any, root: str, files: Files, target: Path) -> None:
    for path in files:
        to = target if path == root else target / path.removeprefix(f"{root}/")
        to.parent.mkdir(parents=True, exist_ok=True)
        filesystem.get_file(path, str(to))


def _keep(target: Path, cache: Path, shelf: str, found: str) -> Path:
    """Moves what has come to its place, unless the same has come there from elsewhere."""
    place, incoming = cache / shelf / found, target.parent
    with FileLock(cache / "locks" / f"{found}.lock"):
        if kept := _kept(cache / shelf, found):
            return kept
        if (
            place.exists()
        ):  # damaged: moved aside first, so that what stands in its place is whole at every moment
            place.rename(incoming / "damaged")
            shutil.rmtree(incoming / "damaged")
        incoming.rename(place)
    return place / target.name


def _write(path: Path, text: str) -> None:
    """Writes a file that another process sees either not at all or whole."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Turns what a filesystem raises, which may be anything, into one line without secrets."""
    try:
        yield
    except ContractError:
        raise
    except Exception as error:  # noqa: BLE001 — filesystems raise whatever their libraries raise; all of it is told
        cause = error.__cause__ if address.startswith("http") else None
        raise _told(cause or error, address) from None


def _told(error: BaseException, address: str) -> ArtifactError:
    """Why it could not be fetched. Over HTTP fsspec calls any failure a missing file: it is what that came from."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    if isinstance(error, FileNotFoundError) or status == 404:
        return ArtifactError(f"artifact {shown(address)} does not exist: correct artifact in models.toml")
    if isinstance(error, PermissionError) or status in {401, 403}:
        return ArtifactError(
            f"artifact {shown(address)} may not be read: give this process credentials that may"
        )
    found = f"{type(error).__name__}: {' '.join(str(error).split())}".replace(address, shown(address))
    kind = ArtifactError if _is_for_good(error, status) else ArtifactAway
    return kind(f"artifact {shown(address)} cannot be fetched: {found}")


def _is_for_good(error: BaseException, status: object) -> bool:
    """Whether to fetch it again is of no use: the request is wrong, or this disk is full."""
    if isinstance(status, int):
        return status < 500 and status not in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
    return (
        isinstance(error, ValueError | TypeError)
        or type(error).__name__ in REFUSALS
        or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    )
