"""What passes between the queue and whoever runs its chunks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.cache.recall import Recall
from app.data.extents import Extent
from app.data.objects import Written
from app.models import JsonObject
from app.models.packing import PackedArtifact
from app.tables import JobKind

TRANSIENT = "transient"


@dataclass(frozen=True, slots=True)
class Source:
    """Where the items of a chunk are in an object: those of an extent, from place `start` on."""

    url: str
    extent: Extent
    start: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A chunk that one runner holds until its lease ends; `payload` has its items, in the chunk format, if it may run.

    The one chunk of a train job has all items of its input; `options` are what its job gives to `train`. If a `source`
    is given, it tells where the items are, and `output_url` to which folder the answers go, if not to the database.
    `recall` is what the cache knows of the items, if their model version has one.
    `is_first` if its job had not begun when it was claimed.
    `attempts` counts the claims of this chunk that were not given back, this one included; `crashes` those before it
    that ended with their process or ran out of time. `was_rescued` if there were any, and a runner died on its job.
    """

    chunk_id: int
    epoch: int
    job_id: str
    queue: str
    first_item: int
    n_items: int
    attempts: int
    crashes: int
    payload: bytes = b""
    kind: JobKind = JobKind.PREDICT
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    source: Source | None = None
    output_url: str | None = None
    recall: Recall | None = field(default=None, compare=False)
    is_first: bool = False
    was_rescued: bool = False

    @property
    def key(self) -> tuple[int, int]:
        """What fences it: a chunk may be claimed again, by the same runner too, and then has another epoch."""
        return self.chunk_id, self.epoch


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """One item of a chunk that has no prediction: `place` counts from 0 within the chunk."""

    place: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Done:
    """A chunk that ran: a prediction or an `ItemFailure` for each of its items.

    `items` are the answers in the chunk format, `null` at the place of a failed item: predictions, or, if `is_whole`,
    items with their predictions. `columns` are the fields that occur in both. If `written` tells of an object that
    holds the answers, `items` is empty. `n_cached` of the items were not predicted, and the JSON texts of predictions
    that the cache is to keep stand in `new` under their keys.
    """

    claim: Claim
    items: bytes
    columns: Sequence[str]
    failures: Sequence[ItemFailure] = ()
    is_whole: bool = field(kw_only=True)
    written: Written | None = None
    n_cached: int = 0
    new: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def n_errored(self) -> int:
        return len(self.failures)


@dataclass(frozen=True, slots=True)
class Trained:
    """The chunk of a train job that ran: the artifact of a new version, and its metrics."""

    claim: Claim
    artifact: PackedArtifact
    metrics: JsonObject
    n_cached = 0

    @property
    def n_errored(self) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class Broken:
    """A run that broke off before it had an answer: see `app.jobs.retry` for what follows.

    `code` is `transient` if what the model depends on was at fault, else what an item is told that causes this
    by itself: `runner_crashed`, `timed_out`.
    """

    claim: Claim
    code: str
    reason: str

    @property
    def is_crash(self) -> bool:
        return self.code != TRANSIENT

    @property
    def blames_an_item(self) -> bool:
        """Whether one of the chunk's items may be the cause: a training has its items together, or not at all."""
        return self.is_crash and self.claim.kind is JobKind.PREDICT

    @property
    def n_failures(self) -> int:
        """How many runs of the chunk failed in this way, this one included."""
        return self.claim.crashes + 1 if self.is_crash else self.claim.attempts - self.claim.crashes


@dataclass(frozen=True, slots=True)
class Failed:
    """A chunk that could not run at all: every item of it counts as errored."""

    claim: Claim
    reason: str
    n_cached = 0

    @property
    def n_errored(self) -> int:
        return self.claim.n_items
