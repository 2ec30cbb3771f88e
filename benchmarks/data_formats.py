"""Items per second of each reader and writer, beside `orjson.loads` alone on the same items.

    make bench ARGS="data_formats 100000"

Medians of 5 runs in one process. A reader's figure includes building the payloads, a writer's the whole body;
blocks are 64 KiB, as a server hands them over.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial

import orjson

from app.data import Format, ItemChunk, Limits, read_items, write_csv, write_json, write_ndjson

N_RUNS = 5
BLOCK_BYTES = 64 << 10
LIMITS = Limits(chunk_items=1000, chunk_bytes=1 << 20, max_item_bytes=1 << 20, max_bytes=1 << 30)


def small_item(index: int) -> dict[str, object]:
    return {"id": index, "text": "The service was friendly, but I waited for an hour."}


def wide_item(index: int) -> dict[str, object]:
    """20 fields, numbers and a nested object among them; about 500 bytes."""
    fields: dict[str, object] = {f"feature_{number}": index * 0.37 + number for number in range(17)}
    return {
        "id": index,
        **fields,
        "text": 'He said: "no\nway"',
        "meta": {"source": "web", "tags": ["a", "b"]},
    }


def blocks_of(body: bytes) -> list[bytes]:
    return [body[start : start + BLOCK_BYTES] for start in range(0, len(body), BLOCK_BYTES)]


def drain(blocks: Iterable[object]) -> None:
    for _ in blocks:
        pass


def median_seconds(run: Callable[[], object]) -> float:
    times = []
    for _ in range(N_RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def read(blocks: list[bytes], format: Format) -> None:
    drain(read_items(blocks, format, LIMITS))


def measure(title: str, items: list[dict[str, object]]) -> None:
    lines = [orjson.dumps(item) for item in items]
    ndjson = b"\n".join(lines)
    chunks: list[ItemChunk] = list(read_items(blocks_of(ndjson), Format.NDJSON, LIMITS))
    payloads = [(chunk.payload, 0) for chunk in chunks]
    columns = list(items[0])
    pretty = orjson.dumps({"data": items}, option=orjson.OPT_INDENT_2)
    bodies = {
        "read NDJSON": (Format.NDJSON, ndjson),
        "read JSON": (Format.JSON, b'{"data":[' + b",".join(lines) + b"]}"),
        "read JSON, indented": (Format.JSON, pretty),
        "read CSV": (Format.CSV, b"".join(write_csv(payloads, columns))),
    }
    runs: dict[str, Callable[[], object]] = {"orjson.loads alone": lambda: drain(map(orjson.loads, lines))}
    for name, (format, body) in bodies.items():
        runs[name] = partial(read, blocks_of(body), format)
    runs["write NDJSON"] = lambda: drain(write_ndjson(payloads))
    runs["write NDJSON, one missing"] = lambda: drain(write_ndjson((payload, 1) for payload, _ in payloads))
    runs["write JSON"] = lambda: drain(write_json(payloads))
    runs["write CSV"] = lambda: drain(write_csv(payloads, columns))

    print(f"{title}: {len(items):,} items of {len(ndjson) // len(items)} bytes, median of {N_RUNS}")
    for name, run in runs.items():
        print(f"  {name:<26}{len(items) / median_seconds(run):>14,.0f} items/s")


def main(arguments: list[str]) -> None:
    n_items = int(arguments[0]) if arguments else 100_000
    measure("Small items", [small_item(index) for index in range(n_items)])
    measure("Wide items", [wide_item(index) for index in range(n_items // 5)])
