"""A chunk, wherever its items are and its answers go: in the database's rows, or in objects of a store.

Objects are read and written here, by whoever runs the chunk, so that neither a claim nor a commit waits for a store.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from app.data.chunks import part
from app.data.objects import ObjectChanged, Storage, StoreAway
from app.data.writing import write_ndjson
from app.errors import Invalid, ServingError
from app.jobs.claims import Claim, Source
from app.models.served import ServedModel
from app.tasks.answers import ChunkAnswer
from app.tasks.predict import Stopwatch, TransientFailure, predict_chunk


def answer_chunk(
    served: ServedModel, claim: Claim, storage: Storage, stopwatch: Stopwatch | None = None
) -> ChunkAnswer:
    """Answers all items of a chunk, as `predict_chunk` does, and writes the answers if they go to a store.

    They are whole if the database has not both, them and the items.

    `TransientFailure` if the store is away. `Invalid`, which fails the chunk, begins with `input_changed`,
    `input_unavailable` or `output_unavailable`.
    """
    payload = claim.payload if claim.source is None else _read(storage, claim.source, claim.n_items)
    answer = predict_chunk(served, payload, stopwatch, claim.recall)
    if claim.source is None and claim.output_url is None:
        return answer
    answer = answer.made_whole(payload)
    if claim.output_url is None or len(answer.failures) == claim.n_items:
        return answer
    return _write(storage, claim, claim.output_url, answer)


def _read(storage: Storage, source: Source, n_items: int) -> bytes:
    extent = source.extent
    with _failing("input"):
        address = storage.object(source.url)
        found = [storage.read(address, start, stop) for start, stop in extent.ranges]
        if not extent.is_of(found):
            first, last = extent.ranges[0][0], extent.ranges[-1][1]
            raise ObjectChanged(
                f"{address} has other bytes at {first:,} to {last:,} than when it was registered"
            )
    payload = extent.payload(found)
    return payload if n_items == extent.n_items else part(payload, source.start, n_items)


def _write(storage: Storage, claim: Claim, output_url: str, answer: ChunkAnswer) -> ChunkAnswer:
    """Under a name that no other run of any chunk has, so that a stale runner's object is never in another's place."""
    name = f"part-{claim.first_item:012d}-c{claim.chunk_id}-e{claim.epoch}.ndjson"
    body = b"".join(write_ndjson([(answer.items, len(answer.failures))]))
    with _failing("output"):
        written = storage.write(storage.folder(output_url, "/output_url").child(name), body)
    return replace(answer, items=b"", written=written)


@contextmanager
def _failing(side: str) -> Iterator[None]:
    """Tells whether to run the chunk again, or why that is of no use."""
    try:
        yield
    except StoreAway as error:
        raise TransientFailure(error.detail) from error
    except ObjectChanged as error:
        raise Invalid(f"{side}_changed: {error.detail}") from error
    except ServingError as error:
        raise Invalid(f"{side}_unavailable: {error.detail}") from error
