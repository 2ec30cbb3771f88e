"""Ways to predict a file of items without a service. Each is a process of its own, which prints what it took.

    python -m benchmarks.bulk.ways make FOLDER N       writes items.ndjson and items.csv
    python -m benchmarks.bulk.ways bare FOLDER K [N]   the model alone, K items in a call, on (the first N) in memory
    python -m benchmarks.bulk.ways csv FOLDER          as the article has it: read CSV, predict, write CSV (pandas)
    python -m benchmarks.bulk.ways ray FOLDER N        Ray Data, read_csv → map_batches → write_csv, with N actors

The answer is one line of JSON: seconds, n_items, and the digest of all labels in order, where there is an order.
"""

import json
import os
import random
import shutil
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.bulk import CHUNK_ITEMS
from benchmarks.bulk.labels import digest
from benchmarks.online import classifier


def make(folder: Path, n_items: int) -> dict[str, Any]:
    randomness = random.Random(3)
    with (folder / "items.ndjson").open("w") as ndjson, (folder / "items.csv").open("w") as csv:
        csv.write("id,text\n")
        for number in range(n_items):
            text = classifier.sentence(randomness)
            ndjson.write(f'{{"id":{number},"text":"{text}"}}\n')
            csv.write(f"{number},{text}\n")
    return {"n_items": n_items}


def bare(folder: Path, call_items: int = CHUNK_ITEMS, n_items: int | None = None) -> dict[str, Any]:
    from benchmarks.online.models import TfIdf

    with (folder / "items.ndjson").open() as lines:
        items = [json.loads(line) for line in islice(lines, n_items)]
    model = TfIdf()
    model.load(folder.parent / "tfidf.joblib")
    labels: list[str] = []
    started = time.perf_counter()
    for first in range(0, len(items), call_items):
        labels += [answer["sentiment"] for answer in model.predict(items[first : first + call_items])]
    return _told(started, labels)


def csv(folder: Path) -> dict[str, Any]:
    import pandas as pd

    predict = classifier.load(folder.parent / "tfidf.joblib")
    started = time.perf_counter()
    frame = pd.read_csv(folder / "items.csv")
    frame["sentiment"] = predict(frame["text"].tolist())
    frame.to_csv(folder / "answers.csv", index=False)
    return _told(started, frame["sentiment"])


class Actor:
    """A model in one of Ray's processes."""

    def __init__(self, artifact: Path) -> None:
        self._predict = classifier.load(artifact)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return batch | {"sentiment": self._predict(list(batch["text"]))}


def ray(folder: Path, n_actors: int) -> dict[str, Any]:
    import ray as engine

    variables = {name: os.environ[name] for name in ("PYTHONPATH", "OMP_NUM_THREADS")}
    engine.init(include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": variables})
    engine.data.DataContext.get_current().enable_progress_bars = False
    shutil.rmtree(folder / "answers", ignore_errors=True)
    started = time.perf_counter()
    items = engine.data.read_csv(str(folder / "items.csv"))
    answers = items.map_batches(
        Actor,
        fn_constructor_args=(folder.parent / "tfidf.joblib",),
        batch_size=CHUNK_ITEMS,
        concurrency=n_actors,
        num_cpus=0.5,
    )
    answers.write_csv(str(folder / "answers"))
    seconds = time.perf_counter() - started
    n_items = sum(sum(1 for _ in file.open()) - 1 for file in (folder / "answers").glob("*.csv"))
    engine.shutdown()
    return {"seconds": seconds, "n_items": n_items, "digest": None}


def _told(started: float, labels: Any) -> dict[str, Any]:
    return {"seconds": time.perf_counter() - started, "n_items": len(labels), "digest": digest(labels)}


if __name__ == "__main__":
    way, folder, *numbers = sys.argv[1:]
    print(
        json.dumps(
            {"make": make, "bare": bare, "csv": csv, "ray": ray}[way](Path(folder), *map(int, numbers))
        )
    )
