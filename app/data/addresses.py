"""Addresses of objects: what a URL names, read strictly, and whether it lies in a folder that is allowed."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.errors import ConfigurationError, FieldError, Forbidden, Invalid, refused

PROTOCOLS = ("s3", "gs", "file")
MAX_CHARACTERS = 2048
SETTING = "TWOFOLD_STORAGE_PREFIXES"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,221}")
# What some library would read as more than a name: queries, globs, chains, escapes, Windows' separators.
_SPECIAL = re.compile(r"[\x00-\x1f\x7f\\?#*\[\]{}|<>\"^`]|::|%[0-9A-Fa-f]{2}")


@dataclass(frozen=True, slots=True)
class Address:
    """An object, or a folder of them. `steps` begins with the bucket; of a local file, with its first directory."""

    protocol: str
    steps: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.protocol}://{self.path}"

    @property
    def path(self) -> str:
        """What the protocol's filesystem calls it."""
        path = "/".join(self.steps)
        return f"/{path}" if self.protocol == "file" else path

    def child(self, name: str) -> "Address":
        return Address(self.protocol, (*self.steps, name))


def address_of(url: str, pointer: str = "/url") -> Address:
    """What a URL names; `Invalid`, with the reason, for all that is not plainly the name of one object or folder.

    Names stand as they are, not percent-encoded. A slash at the end makes no difference.
    """
    protocol, separator, rest = url.partition("://")
    if protocol not in PROTOCOLS or not separator:
        known = ", ".join(f"{each}://" for each in PROTOCOLS)
        raise refused(Invalid, pointer, f"must begin with one of {known}")
    if len(url) > MAX_CHARACTERS:
        raise refused(Invalid, pointer, f"is longer than {MAX_CHARACTERS} characters")
    if special := _SPECIAL.search(url):
        raise refused(Invalid, pointer, f"holds {special[0]!r}: give the plain name of one object")
    if protocol == "file":
        if not rest.startswith("/"):
            raise refused(Invalid, pointer, "must name a file of the service's machine: file:///…")
        rest = rest[1:]
    steps = tuple(rest.removesuffix("/").split("/"))
    if {"", ".", ".."}.intersection(steps):
        raise refused(Invalid, pointer, "has a step that is empty, `.` or `..`")
    if protocol != "file" and not _BUCKET.fullmatch(steps[0]):
        raise refused(Invalid, pointer, f"names no bucket: {steps[0]!r}")
    return Address(protocol, steps)


def folders_of(urls: Sequence[str]) -> tuple[Address, ...]:
    """The folders that an operator allows; `ConfigurationError` names the one that is none."""
    folders = []
    for url in urls:
        try:
            folders.append(address_of(url))
        except Invalid as error:
            raise ConfigurationError(f"{SETTING}: {url!r} {error.errors[0].detail}") from None
    return tuple(folders)


def require_allowed(address: Address, folders: Sequence[Address], pointer: str = "/url") -> None:
    """`Forbidden` unless an address lies inside one of the folders; of a local file, where its links lead."""
    if any(_is_inside(address, folder) for folder in folders):
        return
    allowed = ", ".join(map(str, folders)) or "nothing"
    detail = f"{address} is outside of what {SETTING} allows here, which is {allowed}"
    raise Forbidden(detail, errors=[FieldError(pointer, detail)])


def plain(address: Address, folders: Sequence[Address]) -> Address:
    """Of a local folder in an allowed one, the name that has no links in it: two jobs must not take one for two."""
    if address.protocol != "file":
        return address
    place = Path(os.path.realpath(address.path))
    for folder in folders:
        if folder.protocol == "file" and place.is_relative_to(root := os.path.realpath(folder.path)):
            return Address("file", folder.steps + place.relative_to(root).parts)
    return address


def _is_inside(address: Address, folder: Address) -> bool:
    n_steps = len(folder.steps)
    if address.protocol != folder.protocol or address.steps[:n_steps] != folder.steps:
        return False
    if len(address.steps) == n_steps:
        return False
    if address.protocol != "file":
        return True
    return Path(os.path.realpath(address.path)).is_relative_to(os.path.realpath(folder.path))
