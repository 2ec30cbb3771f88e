"""Packing: an artifact, a file or a folder, as parts that a database keeps and another host unpacks."""

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.models.artifacts import ArtifactError, digest, files_of

PART_BYTES = 1024 * 1024
Form = Literal["file", "folder"]


@dataclass(frozen=True, slots=True)
class PackedArtifact:
    """An artifact's digest, by `app.models.artifacts.digest`, and its bytes: a file's own, or a folder's as a tar."""

    sha256: str
    form: Form
    parts: list[bytes]

    @property
    def n_bytes(self) -> int:
        return sum(map(len, self.parts))


def pack(path: Path, max_bytes: int) -> PackedArtifact:
    """The artifact at `path`, packed; `ArtifactError` if it is not there, holds what is no file, or has more than
    `max_bytes`.

    The same files make the same bytes. Links are followed, and empty folders are left out.
    """
    if not (path.exists() or path.is_symlink()):
        raise ArtifactError(_missing(path))
    names = sorted(files_of(path)) if path.is_dir() else []
    if path.is_dir() and not names:
        raise ArtifactError("train wrote an empty folder as its artifact: write the weights into it")
    files = [path / name for name in names] or [path]
    if strange := [file for file in files if not file.is_file()]:
        raise ArtifactError(
            f"train wrote {strange[0].relative_to(path.parent)}, which is no file and no link to one: leave it out"
        )
    n_bytes = sum(file.stat().st_size for file in files)
    if n_bytes > max_bytes:
        raise ArtifactError(
            f"the artifact that train wrote has {n_bytes:,} bytes, more than the {max_bytes:,} that "
            "TWOFOLD_MAX_ARTIFACT_BYTES allows: make it smaller, or raise the limit"
        )
    if not names:
        return PackedArtifact(digest(path), "file", list(_parts(path)))
    tar = path.with_name(f"{path.name}.tar")
    with tarfile.open(tar, "w", dereference=True) as archive:
        for name in names:
            archive.add(path / name, name, filter=_plain)
    return PackedArtifact(digest(path), "folder", list(_parts(tar)))


def unpack(form: Form, parts: Iterable[bytes], target: Path) -> None:
    """Writes at `target` the file or the folder that was packed."""
    path = target if form == "file" else target.with_name(f"{target.name}.tar")
    with path.open("wb") as file:
        file.writelines(parts)
    if form == "folder":
        with tarfile.open(path) as archive:
            archive.extractall(target, filter="data")
        path.unlink()


def _missing(path: Path) -> str:
    """Says that nothing was written, and what was instead: numpy, say, adds `.npz` to a name by itself."""
    beside = ", ".join(sorted(found.name for found in path.parent.iterdir()))
    return f"train wrote no file and no folder at {path.name!r}, the artifact that it was given" + (
        f", but {beside} beside it: write to the path as it is, or make it a folder" if beside else ""
    )


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without what differs from one run to the next."""
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            yield part
