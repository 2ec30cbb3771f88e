"""Work: what a runner claims from each queue: chunks of one model, to predict or to train on."""

from collections.abc import Iterable
from dataclasses import dataclass

from app.jobs.states import queue_of
from app.models.served import ServedModel
from app.tables import JobKind


@dataclass(frozen=True, slots=True)
class Work:
    served: ServedModel
    kind: JobKind

    @property
    def trouble(self) -> str | None:
        """Why a model that is not loading cannot do it in this process; None if it can."""
        match self.served.state:
            case "failed":
                return f"{self.served} failed to load: {self.served.reason}"
            case "untrained" if self.kind is JobKind.PREDICT:
                return self.served.untrained
        return None


def work_of(models: Iterable[ServedModel]) -> dict[str, Work]:
    """The work of these models, by queue. One that failed to load may have been one that trains."""
    return {
        queue_of(served.declaration.name, served.declaration.version, kind): Work(served, kind)
        for served in models
        for kind in JobKind
        if kind is JobKind.PREDICT or served.is_trainable or served.state == "failed"
    }
