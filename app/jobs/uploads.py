"""Uploads: a stream of blocks becomes a sealed input, or nothing; and so does an object that stays in its store."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from app.data import exact
from app.data.addresses import Address
from app.data.chunks import Limits, batched, chunked
from app.data.extents import find_extents
from app.data.formats import Format
from app.data.items import item_too_large
from app.data.objects import Storage
from app.data.reading import read_items
from app.data.transfer import Measured
from app.db import Database
from app.jobs import inputs
from app.jobs.ids import new_id

CHUNKS_PER_COMMIT = 16
"""Chunks (a thousand items or a megabyte each) per transaction: few enough that SQLite's write lock is free in
between, and so many that most uploads are one commit."""

T = TypeVar("T")


def receive(
    database: Database,
    blocks: Iterable[bytes],
    format: Format,
    limits: Limits,
    *,
    collection: str | None = None,
    expires_at: datetime | None = None,
) -> str:
    """Stores a decoded body as a sealed input and returns its id; if anything goes wrong, nothing of it stays.

    Written as it comes, so memory is flat. An upload of up to `CHUNKS_PER_COMMIT` chunks touches the database
    only once its body has arrived in good order. Errors are those of `read_items`.
    """
    measured = Measured(blocks)
    chunks = read_items(measured, format, limits)
    return _store(
        database, measured, chunks, inputs.fill, format=format, collection=collection, expires_at=expires_at
    )


def register(
    database: Database,
    storage: Storage,
    address: Address,
    format: Format,
    limits: Limits,
    *,
    collection: str | None = None,
    expires_at: datetime | None = None,
) -> str:
    """Makes a sealed input of an object that stays where it is, read once from end to end; returns the input's id.

    What is stored is where each chunk's items are, with their digest. Errors are those of `find_extents` and of
    `Storage`; nothing stays then.
    """
    measured = Measured(storage.blocks(address, limits.max_bytes))
    extents = find_extents(measured, format, limits)
    url = str(address)
    point = partial(inputs.point, url=url)
    return _store(
        database,
        measured,
        extents,
        point,
        format=format,
        url=url,
        collection=collection,
        expires_at=expires_at,
    )


def receive_items(session: Session, items: Iterable[object], limits: Limits) -> str:
    """Stores items that are in memory already as a sealed input, within the caller's transaction; its id.

    `TooLarge` for an item over the limit that holds for uploads.
    """
    lines = Measured(_lines(items, limits))
    input_id = new_id()
    inputs.begin(session, input_id, Format.JSON)
    inputs.fill(session, input_id, list(chunked(batched(lines), limits)), first_seq=0)
    inputs.seal(session, input_id, n_bytes=lines.n_bytes, sha256=lines.sha256)
    return input_id


def _store(
    database: Database,
    measured: Measured,
    chunks: Iterator[T],
    add: Callable[[Session, str, Sequence[T], int], None],
    **described: Any,
) -> str:
    """A sealed input of these chunks, which `add` writes as they come; its id."""
    input_id = new_id()
    n_chunks = 0
    with _discarding(database, input_id):
        for batch, is_last in _marked(_batches(chunks)):
            with database.writing() as session:
                if not n_chunks:
                    inputs.begin(session, input_id, **described)
                add(session, input_id, batch, n_chunks)
                if is_last:
                    inputs.seal(session, input_id, n_bytes=measured.n_bytes, sha256=measured.sha256)
            n_chunks += len(batch)
    return input_id


def _lines(items: Iterable[object], limits: Limits) -> Iterator[bytes]:
    for index, item in enumerate(items):
        line = exact.dumps(item)
        if len(line) > limits.max_item_bytes:
            raise item_too_large(f"/data/{index}", limits)
        yield line


@contextmanager
def _discarding(database: Database, input_id: str) -> Iterator[None]:
    try:
        yield
    except BaseException:  # a client that hung up, a worker told to exit: whatever it is, nothing may stay
        with database.writing() as session:
            inputs.discard(session, input_id)
        raise


def _batches(chunks: Iterator[T]) -> Iterator[list[T]]:
    while batch := list(islice(chunks, CHUNKS_PER_COMMIT)):
        yield batch


def _marked(values: Iterator[T]) -> Iterator[tuple[T, bool]]:
    """Each value, and whether it is the last: known only once the next was asked for."""
    current = next(values)
    for following in values:
        yield current, False
        current = following
    yield current, True
