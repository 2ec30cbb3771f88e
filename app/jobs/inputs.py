"""Inputs: begun, filled chunk by chunk, and sealed when they are whole. A sealed input never changes.

Each verb takes a session of a writing transaction and leaves the commit to its caller, so that a small upload
is one transaction and a big one never holds the database's write lock for long.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from app.data.chunks import ItemChunk
from app.data.extents import Extent
from app.db import UNSYNCHRONIZED
from app.errors import Conflict, NotFound
from app.jobs import statements
from app.tables import Input, Job


def begin(
    session: Session,
    input_id: str,
    format: str,
    *,
    url: str | None = None,
    owner: str = "",
    collection: str | None = None,
    expires_at: datetime | None = None,
) -> None:
    """Makes an input that is being received, or whose items stay at `url`; no job can run over it yet."""
    session.connection().execute(
        statements.ADD_INPUT,
        {
            "id": input_id,
            "format": format,
            "url": url,
            "owner": owner,
            "collection": collection,
            "expires_at": expires_at,
        },
    )


def fill(session: Session, input_id: str, chunks: Sequence[ItemChunk], first_seq: int) -> None:
    """Adds the next chunks of items; the first of them is chunk number `first_seq` of the input."""
    session.connection().execute(
        statements.ADD_INPUT_CHUNK,
        [
            {
                "input_id": input_id,
                "seq": seq,
                "first_item": chunk.first_item,
                "n_items": chunk.n_items,
                "items": chunk.payload,
            }
            for seq, chunk in enumerate(chunks, first_seq)
        ],
    )


def point(session: Session, input_id: str, extents: Sequence[Extent], first_seq: int, *, url: str) -> None:
    """Adds the next chunks by where in the object at `url` their items are; as `fill` does by the items themselves."""
    session.connection().execute(
        statements.ADD_INPUT_CHUNK,
        [
            {
                "input_id": input_id,
                "seq": seq,
                "first_item": extent.first_item,
                "n_items": extent.n_items,
                "url": url,
                "byte_offset": extent.offset,
                "n_bytes": extent.n_bytes,
                "header_bytes": extent.header_bytes,
                "sha256": extent.sha256,
            }
            for seq, extent in enumerate(extents, first_seq)
        ],
    )


def seal(session: Session, input_id: str, *, n_bytes: int, sha256: str) -> None:
    """Declares an input whole: `n_bytes` and the hex digest `sha256` are those of the body as decoded."""
    connection = session.connection()
    received = connection.execute(statements.RECEIVED, {"input_id": input_id}).one()
    sealed = connection.execute(
        statements.SEAL_INPUT,
        {
            "input_id": input_id,
            "the_n_items": received.n_items,
            "the_n_chunks": received.n_chunks,
            "the_n_bytes": n_bytes,
            "the_sha256": sha256,
        },
    )
    if sealed.one_or_none() is None:
        raise Conflict(f"input {input_id} was deleted while it was being uploaded: upload it again")


def discard(session: Session, input_id: str) -> None:
    """Drops an upload that broke off, with all it left."""
    session.execute(
        delete(Input).where(Input.id == input_id, Input.status == "receiving"),
        execution_options=UNSYNCHRONIZED,
    )


def remove(session: Session, input_id: str) -> None:
    """Deletes an input; `Conflict` while it is being uploaded, or while a job refers to it."""
    status = session.scalar(select(Input.status).where(Input.id == input_id).with_for_update())
    if status is None:
        raise NotFound(f"there is no input {input_id}")
    if status == "receiving":
        raise Conflict(f"input {input_id} is still being uploaded")
    if session.scalar(select(exists().where(Job.input_id == input_id))):
        raise Conflict(
            f"input {input_id} has jobs: delete them first (GET /v1/jobs?input_id={input_id} lists them)"
        )
    session.execute(delete(Input).where(Input.id == input_id), execution_options=UNSYNCHRONIZED)
