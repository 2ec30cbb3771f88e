"""Both executors behind one set of tests, with a model that fails on demand."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import make_url

from app.config import Settings
from app.data.chunks import pack
from app.executors import ChunkExecutor, make_executor, result_of
from app.jobs.claims import Broken, Claim, Done, Failed
from app.models.declarations import read_declarations
from app.models.registry import Registry
from app.models.served import ServedModel
from app.tasks.predict import Stopwatch

MODELS = """
[[model]]
name = "unruly"
version = "1"
class = "tests.executors.unruly:Unruly"
concurrency = 2
chunk_timeout_seconds = {timeout}
"""
TIMEOUT_SECONDS = 1.0


class Lab:
    """One executor of two slots, its settings, and the model."""

    def __init__(self, kind: str, folder: Path) -> None:
        models_file = folder / "models.toml"
        models_file.write_text(MODELS.format(timeout=TIMEOUT_SECONDS))
        self.settings = Settings(
            database_url=make_url("sqlite:///unused.db"),
            models_file=models_file,
            executor="process" if kind == "process" else "thread",
            runner_threads=2,
            poll_seconds=0.05,
        )
        self.registry = Registry(read_declarations(models_file))
        self.served: ServedModel = self.registry.get("unruly")
        self.served.wait_ready(10)
        self.executor: ChunkExecutor = make_executor(self.settings)

    def run(self, *chunks: Sequence[Any]) -> list[Done | Failed | Broken]:
        """What becomes of chunks whose items do these acts; all are submitted before the first is awaited."""
        claims = [
            Claim(number, 1, f"job {number}", "unruly@1", 0, len(acts), 1, 0, payload(acts))
            for number, acts in enumerate(chunks)
        ]
        futures = [self.executor.submit(self.served, claim, Stopwatch()) for claim in claims]
        return [result_of(future, claim) for future, claim in zip(futures, claims, strict=True)]


def payload(acts: Sequence[Any]) -> bytes:
    return pack(orjson.dumps({"id": place, "act": act}) for place, act in enumerate(acts))


@pytest.fixture
def make_lab(tmp_path: Path) -> Iterator[Callable[[str], Lab]]:
    labs: list[Lab] = []

    def make(kind: str) -> Lab:
        labs.append(Lab(kind, tmp_path))
        return labs[-1]

    yield make
    for lab in labs:
        lab.executor.shutdown()


@pytest.fixture(params=["thread", "process"])
def lab(request: pytest.FixtureRequest, make_lab: Callable[[str], Lab]) -> Lab:
    return make_lab(request.param)
