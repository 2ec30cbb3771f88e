"""The check of a model: what it breaks of its contract, how long it takes by batch size, and what size suits it."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from numbers import Real
from typing import Any

import orjson

from app.errors import ServingError
from app.models import JsonObject
from app.models.served import ServedModel
from app.predictions import encode_each

SIZES = tuple(2**power for power in range(13))
MIN_RUNS = 3
MAX_BATCH_SECONDS = 2.0
"""Sizes beyond the one whose batch takes this long are not measured."""
PAYS = 1.25
"""Batches pay if the best takes this many times less for an item than a batch of one."""
GAIN = 1.05
"""One size beats another if it takes this many times less."""
TOLERANCE = 1e-4
"""Floats of one item may differ this much between batches: libraries add in another order."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What batches of one size took."""

    size: int
    seconds: float
    """Of one batch, on average."""

    @property
    def seconds_per_item(self) -> float:
        return self.seconds / self.size


@dataclass(slots=True)
class Report:
    n_items: int
    violations: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)

    @property
    def max_batch_size(self) -> int | None:
        """The smallest size of those measured that no other beats by much; None if batches do not pay."""
        best = min((timing.seconds_per_item for timing in self.timings), default=0.0)
        if not self.timings or self.timings[0].seconds_per_item < best * PAYS:
            return None
        return next(each.size for each in self.timings if each.seconds_per_item <= best * GAIN)


def check(served: ServedModel, items: Sequence[JsonObject], *, seconds: float) -> Report:
    """Runs a loaded model over items, at least one, and measures it for about so many seconds.

    Items that its schema refuses are violations, and left out; nothing is measured of a model that breaks its contract.
    """
    report = Report(n_items=len(items))
    _, refused = served.validate(items)
    for place, errors in refused[:5]:
        told = "; ".join(f"{error.pointer or 'the item'}: {error.detail}" for error in errors)
        report.violations.append(f"item {place} does not fit the Item schema: {told}")
    if len(refused) > 5:
        report.violations.append(f"{len(refused)} items in all do not fit the Item schema")
    places = {place for place, _ in refused}
    accepted = [item for place, item in enumerate(items) if place not in places]
    if accepted and _check_contract(served, accepted, report):
        _measure(served, accepted, seconds, report)
    return report


def _check_contract(served: ServedModel, items: Sequence[JsonObject], report: Report) -> bool:
    """Whether predictions come at all, of the right length and type; what else is wrong goes to the report."""
    try:
        first = _predicted(served, items)
        again = _predicted(served, items)
        reversed_ = _predicted(served, items[::-1])[::-1]
        alone = _predicted(served, items[:1])
    except ServingError as error:
        report.violations.append(error.detail)
        return False
    for place, told in served.prediction_errors(first)[:5]:
        report.violations.append(f"prediction {place} does not fit the Prediction schema: {told}")
    if not _alike(first, again):
        report.remarks.append("it predicts differently each time: whether it keeps the order cannot be told")
    elif not _alike(first, reversed_):
        report.violations.append(
            "the predictions of a batch in reverse are not the predictions in reverse: "
            "it changes the order, or an item's prediction depends on its neighbours"
        )
    elif not _alike(first[:1], alone):
        report.violations.append(
            "an item is predicted differently alone and in a batch: its prediction depends on its neighbours"
        )
    if len(items) > 1 and all(_alike(first[:1], [each]) for each in first):
        report.remarks.append("all predictions are the same, so a change of order would not be seen")
    return True


def _predicted(served: ServedModel, items: Sequence[JsonObject]) -> list[JsonObject]:
    """Predictions as a client would get them: what is not JSON is an error."""
    return [orjson.loads(each) for each in encode_each(served, served.predict(items))]


def _alike(first: Any, second: Any) -> bool:
    """Whether two JSON values are the same, up to the last digits of their numbers."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_alike(first[name], second[name]) for name in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_alike, first, second))
    if isinstance(first, Real) and isinstance(second, Real):
        return math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(first == second)


def _measure(served: ServedModel, items: Sequence[JsonObject], seconds: float, report: Report) -> None:
    """Times `predict` for each size, smallest first; checking the items and writing JSON is not in it."""
    endless = cycle(items)  # so that every size gets every item, long and short
    for size in SIZES:
        durations: list[float] = []
        ends_at = time.monotonic() + seconds / len(SIZES)
        while len(durations) < MIN_RUNS or time.monotonic() < ends_at:
            batch = list(islice(endless, size))
            loaded, _ = served.validate(batch)
            started_at = time.perf_counter()
            served.predict(batch, loaded)
            durations.append(time.perf_counter() - started_at)
            if durations[-1] > MAX_BATCH_SECONDS:
                break
        report.timings.append(Timing(size, sum(durations) / len(durations)))
        if durations[-1] > MAX_BATCH_SECONDS:
            break
