"""Objects in a store (S3, Google's, a folder of files): read by byte range, and written whole.

Only what lies in the allowed folders is touched. A store is an outside service: each call has an end, none follows a
redirect, and what goes wrong is told in the words of `app.errors`. Credentials come from the process's environment.
"""

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import structlog

from app.data.addresses import Address, address_of, folders_of, plain, require_allowed
from app.data.local_files import read_file, write_file
from app.errors import Conflict, FieldError, Invalid, ServingError, TooLarge, Unavailable, refused

log = structlog.get_logger(__name__)

BLOCK_BYTES = 4 << 20
"""Read at once of an object that is read whole."""
CONNECT_SECONDS, SILENCE_SECONDS, CALL_SECONDS = 5.0, 20.0, 120.0
"""How long a call of a store may take to connect, to say more, and in all, however slowly its server drips."""
RETRY_SECONDS = "10"
EXTRAS = {"s3": "s3", "gs": "gcs"}
_VERSION_KEYS = ("ETag", "etag", "generation", "mtime", "ino")
_REFUSALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "ParamValidationError",
    "DefaultCredentialsError",
}


class ObjectUnavailable(Invalid):
    """It is not there, or this process may not read or write it: to try again is of no use."""

    slug, title = "object-unavailable", "Object unavailable"


class ObjectChanged(Conflict):
    """Its bytes are not those that were registered, or are changing while they are read."""

    slug, title = "object-changed", "Object changed"


class StoreAway(Unavailable):
    """The store does not answer, or not in time: to try again may help."""

    slug, title = "store-away", "Object store away"


@dataclass(frozen=True, slots=True)
class Found:
    """An object's size, and what tells whether it was replaced since."""

    n_bytes: int
    version: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """An object that was written, by its name within its folder."""

    name: str
    n_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Storage:
    """What may be read and written: all that is inside these folders. Plain values, to be sent to other processes.

    Every method but the first three may raise `ObjectUnavailable` or `StoreAway`, and blocks while the store works.
    """

    folders: tuple[Address, ...] = ()

    @classmethod
    def of(cls, urls: Sequence[str]) -> "Storage":
        """By the setting; `ConfigurationError` if it names what is no folder."""
        return cls(folders_of(urls))

    def object(self, url: str, pointer: str = "/url") -> Address:
        """The object that a URL names; `Invalid` if it names none, `Forbidden` if it is not to be touched."""
        address = address_of(url, pointer)
        require_allowed(address, self.folders, pointer)
        return address

    def folder(self, url: str, pointer: str) -> Address:
        """The same of a folder to write to, which may be one that is allowed or lie in it; by its `plain` name."""
        address = address_of(url, pointer)
        require_allowed(address.child("object"), self.folders, pointer)
        return plain(address, self.folders)

    def find(self, address: Address) -> Found:
        """What there is at an address."""
        with self._using(address) as (files, path):
            ended = {} if address.protocol == "file" else {"timeout": CALL_SECONDS}
            info: Mapping[str, Any] = files.info(path, **ended)
            if info["type"] != "file":
                raise FileNotFoundError
            version = tuple(str(info[key]) for key in _VERSION_KEYS if info.get(key))
            return Found(int(info["size"]), (str(info["size"]), *version))

    def read(self, address: Address, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop` (exclusive); `ObjectChanged` if it does not reach so far."""
        with self._using(address) as (files, path):
            read = read_file if address.protocol == "file" else partial(_read_remote, files)
            block = read(path, start, stop)
        if len(block) != stop - start:
            raise ObjectChanged(f"{address} ends before byte {stop:,}: it was longer once")
        return block

    def blocks(self, address: Address, max_bytes: int) -> Iterator[bytes]:
        """All bytes of an object, in order; `ObjectChanged` at the end if it was replaced meanwhile.

        `TooLarge` at the start if there are more than `max_bytes`.
        """
        found = self.find(address)
        if found.n_bytes > max_bytes:
            raise TooLarge(f"{address} is larger than {max_bytes:,} bytes; register it in parts")
        for start in range(0, found.n_bytes, BLOCK_BYTES):
            yield self.read(address, start, min(start + BLOCK_BYTES, found.n_bytes))
        if self.find(address) != found:
            raise ObjectChanged(f"{address} changed while it was read: register it when it is whole")

    def write(self, address: Address, body: bytes | Path) -> Written:
        """Writes an object, of these bytes or of a file's; it is there either not at all or whole.

        What had this address before is gone.
        """
        with self._using(address) as (files, path):
            if address.protocol == "file":
                write_file(body, Path(path))
            elif isinstance(body, bytes):
                files.pipe_file(path, body, timeout=CALL_SECONDS)
            else:
                files.put_file(str(body), path)
        return Written(address.steps[-1], *_measured(body))

    def presign(self, address: Address, seconds: int, pointer: str) -> str:
        """A URL to which anyone may PUT this object, for so long; `Invalid` where the store has no such thing."""
        if (sign := _SIGNERS.get(address.protocol)) is None:
            known = " and ".join(f"{protocol}://" for protocol in _SIGNERS)
            detail = f"{address.protocol}:// has no presigned uploads here, {known} have: write the object yourself"
            raise refused(Invalid, pointer, detail)
        with self._using(address) as (files, path):
            return sign(files, path, seconds, pointer)

    @contextmanager
    def _using(self, address: Address) -> Iterator[tuple[Any, str]]:
        """The filesystem of an address and what that calls it; turns what it raises into errors of ours.

        What is allowed is asked again here, where it is used: by the settings of the process that does, and of links
        as they are now.
        """
        require_allowed(address, self.folders)
        is_local = address.protocol == "file"
        path = os.path.realpath(address.path) if is_local else address.path
        try:
            yield _filesystem(address.protocol), path
        except ServingError:
            raise
        except Exception as error:  # filesystems raise whatever their libraries raise
            raise _explained(error, address) from error


_filesystems: dict[tuple[str, int], Any] = {}
_making = threading.Lock()


def _filesystem(protocol: str) -> Any:
    """The filesystem of a protocol, one for each process: its connections are neither forked nor made for each call."""
    key = (protocol, os.getpid())
    with _making:
        if key not in _filesystems:
            _filesystems[key] = _make_filesystem(protocol)
        return _filesystems[key]


def _make_filesystem(protocol: str) -> Any:
    import fsspec  # here and below: who uses no store does not wait for its libraries

    try:
        made = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        extra = EXTRAS[protocol]
        detail = f"{protocol}:// needs the extra {extra!r} on the server: pip install 'twofold[{extra}]'"
        raise ObjectUnavailable(detail, errors=[FieldError("/url", detail)]) from error
    if protocol != "s3":
        return made(skip_instance_cache=True)
    from aiobotocore.httpsession import AIOHTTPSession

    class Straight(AIOHTTPSession):  # type: ignore[misc]
        """Follows no redirect: whoever answers for a store must not send us to another host."""

        async def _get_session(self, proxy_url: Any) -> Any:
            session = await super()._get_session(proxy_url)
            if not isinstance(session.request, partial):
                session.request = partial(session.request, allow_redirects=False)
            return session

    files = made(
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": SILENCE_SECONDS,
            "retries": {"total_max_attempts": 2, "mode": "standard"},
            "signature_version": "s3v4",
            "http_session_cls": Straight,
        },
    )
    files.retries = 1  # more would multiply with those of botocore: a silent GET was sent eight times
    return files


def _read_remote(files: Any, path: str, start: int, stop: int) -> bytes:
    """The bytes from `start` to `stop` that there are; of none a store tells by an error."""
    try:
        return bytes(files.cat_file(path, start=start, end=stop, timeout=CALL_SECONDS))
    except Exception as error:  # each library has its own
        if _status(error) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return b""
        raise


def _status(error: Exception) -> Any:
    """The HTTP status of a store's error, if there is one: in `code` of gcsfs's, in the cause of s3fs's, botocore's."""
    response = getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return getattr(error, "code", None)


def _sign_s3(files: Any, path: str, seconds: int, _pointer: str) -> str:
    return str(files.url(path, expires=seconds, client_method="put_object", timeout=CALL_SECONDS))


def _sign_gs(files: Any, path: str, seconds: int, pointer: str) -> str:
    """By the key of a service account; other credentials have none."""
    try:
        return str(files.sign(path, expiration=seconds, version="v4", method="PUT"))
    except AttributeError as error:  # so google-auth says that there is no key
        detail = (
            "the credentials of this process cannot sign an upload: let GOOGLE_APPLICATION_CREDENTIALS "
            "name the key file of a service account"
        )
        raise refused(ObjectUnavailable, pointer, detail) from error


_SIGNERS: dict[str, Callable[[Any, str, int, str], str]] = {"s3": _sign_s3, "gs": _sign_gs}
"""Of stores that let us sign a request of somebody else."""


def _measured(body: bytes | Path) -> tuple[int, str]:
    """Size and digest."""
    if isinstance(body, bytes):
        return len(body), hashlib.sha256(body).hexdigest()
    with body.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), sha256


def _explained(error: Exception, address: Address) -> ObjectUnavailable | StoreAway:
    """What a filesystem's error means. Its text goes to the log alone: it may tell of hosts inside.

    Of a local file the reason is told in the words of the operating system, which tell of none.
    """
    log.warning("store_failed", address=str(address), error=f"{type(error).__name__}: {error}")
    reason, code = type(error).__name__, getattr(error, "errno", None)
    if address.protocol == "file" and code is not None:
        reason = os.strerror(code)
    is_nowhere = isinstance(
        error, FileNotFoundError | FileExistsError | NotADirectoryError | IsADirectoryError
    )
    if is_nowhere or code in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO):
        detail = f"{address} does not exist, or is no object"
    elif code == errno.EROFS:
        detail = f"{address} cannot be written: {reason}"
    elif isinstance(error, PermissionError) or type(error).__name__ in _REFUSALS:
        detail = f"{address} may not be read or written with the credentials of this process"
    else:
        return StoreAway(
            f"the store of {address} does not answer as it should: {reason}",
            headers={"Retry-After": RETRY_SECONDS},
        )
    return ObjectUnavailable(detail, errors=[FieldError("/url", detail)])
