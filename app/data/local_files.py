"""Objects that are files of this machine: read by byte range without waiting, and written whole."""

import io
import os
import shutil
import stat
import uuid
from pathlib import Path


def read_file(path: str, start: int, stop: int) -> bytes:
    """The bytes from `start` to `stop` (exclusive) that there are; `FileNotFoundError` if it is no regular file."""
    with open(path, "rb", opener=_open_regular) as file:
        file.seek(start)
        return file.read(stop - start)


def write_file(body: bytes | Path, path: Path) -> None:
    """Under another name first, and on the disk before it gets its own: what a row tells of survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with fresh.open("xb") as file:
            with io.BytesIO(body) if isinstance(body, bytes) else body.open("rb") as source:
                shutil.copyfileobj(source, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _open_regular(path: str, flags: int) -> int:
    """Opens a file; a pipe, which would be waited for, is refused instead. Asked before, it might be one by then."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError
    return descriptor
