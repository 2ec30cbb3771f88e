"""A runner with child processes, or a cluster, outlives what kills them, and its jobs end with the guilty named."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.data.chunks import ItemChunk
from app.db import Database
from app.jobs import control, inputs
from app.jobs.ids import new_id
from app.runner import Runner
from tests.executors.conftest import Lab, payload
from tests.jobs.conftest import Workshop
from tests.waiting import wait_until

over_each = pytest.mark.parametrize(  # what becomes of a worker of Dask is the same over any database
    ("database", "lab"),
    [("sqlite", "process"), ("postgres", "process"), ("sqlite", "dask")],
    indirect=True,
)


@pytest.fixture
def workshop(database: Database, select_all: Callable[..., list[dict[str, Any]]]) -> Workshop:
    return Workshop(database, select_all)


@pytest.fixture
def lab(request: pytest.FixtureRequest, make_lab: Callable[[str], Lab]) -> Lab:
    return make_lab(request.param)


@contextmanager
def running(database: Database, lab: Lab, **changes: Any) -> Iterator[Runner]:
    chosen = replace(lab.settings, database_url=database.url, **changes)
    runner = Runner(database, lab.registry, chosen, executor=lab.executor)
    thread = threading.Thread(target=runner.run)
    thread.start()
    yield runner
    runner.stop()
    thread.join(30)
    assert not thread.is_alive()


def enqueue(database: Database, acts: list[str | None], chunk_items: int) -> str:
    job_id, input_id = new_id(), new_id()
    starts = range(0, len(acts), chunk_items)
    parts = [acts[start : start + chunk_items] for start in starts]
    chunks = [ItemChunk(start, len(part), payload(part)) for start, part in zip(starts, parts, strict=True)]
    with database.writing() as session:
        inputs.begin(session, input_id, "json")
        inputs.fill(session, input_id, chunks, 0)
        inputs.seal(session, input_id, n_bytes=1, sha256="0" * 64)
        control.enqueue(session, job_id=job_id, model="unruly", version="1", input_id=input_id, window=16)
    return job_id


@over_each
@pytest.mark.parametrize(("act", "code"), [("segfault", "runner_crashed"), ("hang", "timed_out")])
def test_the_guilty_item_is_found_and_its_neighbours_succeed(
    workshop: Workshop, lab: Lab, act: str, code: str
) -> None:
    job_id = enqueue(workshop.database, [None, act, None, None], chunk_items=2)

    # Where chunks share a process, it takes a second attempt, alone, to tell which of them killed it.
    max_attempts = 1 if lab.executor.dies_alone else 2
    with running(workshop.database, lab, max_attempts=max_attempts) as runner:
        job = wait_until(lambda: ended(workshop, job_id), "the end of the job", 100)
        assert runner.trouble is None

    assert (job["status"], job["n_succeeded"], job["n_errored"]) == ("partial", 3, 1)
    assert workshop.errors(job_id) == {1: code}
    assert [answer is None for answer in workshop.answers(job_id)] == [place == 1 for place in range(4)]
    workshop.check_books()


@over_each
def test_a_drain_lets_a_child_finish_what_it_has_begun(workshop: Workshop, lab: Lab, tmp_path: Path) -> None:
    """A process pool's `cancel` kills what runs: a drain must call off only what has not begun."""
    (tmp_path / "hold").mkdir()
    job_id = enqueue(workshop.database, [f"hold {tmp_path}/hold"] * 6, chunk_items=1)

    with running(workshop.database, lab) as runner:
        wait_until(lambda: [*(tmp_path / "hold").iterdir()], "a chunk that runs", 60)
        runner.stop()
        (tmp_path / "hold" / "go").touch()

    states = [chunk["status"] for chunk in workshop.chunks(job_id)]
    assert set(states) == {"done", "queued"}
    workshop.check_books()


def ended(workshop: Workshop, job_id: str) -> dict[str, Any] | None:
    job = workshop.job(job_id)
    return job if job["finished_at"] is not None else None
