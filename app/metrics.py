"""Metrics for Prometheus, of all processes under one gunicorn: each writes its own file, `/metrics` adds them up.

The arbiter names the directory of those files before anything here is imported (`gunicorn.conf.py`); without one,
as under `flask run`, a process counts for itself.
"""

import os
from pathlib import Path
from typing import TypeVar

from prometheus_client import REGISTRY as OWN
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_MODEL = ("model", "version")
BATCH_ITEMS = Histogram(
    "twofold_batch_items",
    "Items of one online call of the model",
    _MODEL,
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096),
)
BATCH_WAIT_SECONDS = Histogram(
    "twofold_batch_wait_seconds",
    "How long the oldest request of an online call waited for the model",
    _MODEL,
    buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)
MODEL_SECONDS = Histogram(
    "twofold_model_seconds",
    "How long one online call of the model took",
    _MODEL,
    buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)

CACHE_ITEMS = Counter(
    "twofold_cache_items",
    "Items of model versions with a result cache: hits, which cost no call of the model, and misses",
    (*_MODEL, "lane", "result"),
)


M = TypeVar("M", Counter, Histogram)


def labeled(metric: M, *labels: str) -> M:
    """The part of a metric with these labels.

    The directory is made again if somebody cleaned it up: nothing must fail because it cannot be counted.
    """
    try:
        return metric.labels(*labels)
    except FileNotFoundError:
        _make_directory()
        return metric.labels(*labels)


def count_looked_up(model: str, version: str, lane: str, n_items: int, n_hits: int) -> None:
    """Counts items that were asked for in the result cache; `lane` is `online` or `batch`."""
    labeled(CACHE_ITEMS, model, version, lane, "hit").inc(n_hits)
    labeled(CACHE_ITEMS, model, version, lane, "miss").inc(n_items - n_hits)


def exposition() -> bytes:
    """All metrics as text, in the format that Prometheus scrapes."""
    if DIRECTORY not in os.environ:
        return generate_latest(OWN)
    _make_directory()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the library has no types for it
    return generate_latest(registry)


def _make_directory() -> None:
    Path(os.environ[DIRECTORY]).mkdir(mode=0o700, parents=True, exist_ok=True)
