"""What happens to a job, from its upload to its end: each story goes through other verbs, and all end well.

A story is told again after a crash, by a process that knows only what was acknowledged.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any

import orjson

from app.data.chunks import unpack
from app.jobs import history
from tests.crash.world import AWAY, POISON, REFUSED, World

BOOKS = """
SELECT jobs.id FROM jobs JOIN (
  SELECT job_id, sum(n_items) AS items, sum(n_succeeded) AS succeeded, sum(n_errored) AS errored,
    sum(CASE WHEN status = 'canceled' THEN n_items ELSE 0 END) AS canceled
  FROM chunks GROUP BY job_id) sums ON sums.job_id = jobs.id
WHERE (jobs.n_items, jobs.n_succeeded, jobs.n_errored, jobs.n_canceled)
  <> (items, succeeded, errored, canceled)
  OR jobs.finished_at IS NULL
"""


def plain(world: World) -> None:
    """Uploaded in three commits, run in windows of two chunks, with an item error in two of five chunks."""
    numbers = [1, 2, REFUSED, 4, 5, 6, 7, REFUSED, 9]
    job_id = world.create(world.upload(numbers, chunk_items=2))
    world.run(job_id)
    check(world, job_id, numbers, "partial")


def poisoned(world: World) -> None:
    """A chunk kills its runner, is rescued, tried again, and halved; its item is found, and its neighbour spared."""
    numbers = [1, POISON]
    job_id = world.create(world.upload(numbers, chunk_items=2))
    world.run(job_id)
    check(world, job_id, numbers, "partial")


def canceled(world: World) -> None:
    """Canceled while two chunks run; then what was canceled, and an item that failed, are tried again."""
    numbers = [REFUSED, 2, 3, 4, 5, 6]
    job_id = world.create(world.upload(numbers, chunk_items=2), window=1)
    runner, executor = world.hire()
    executor.is_holding = True
    runner.tick()
    world.cancel(job_id)
    executor.let_go()
    runner.tick()
    world.run(job_id)
    world.retry(job_id)
    world.run(job_id)
    check(world, job_id, numbers, "partial")


def hopeless(world: World) -> None:
    """More item errors than the job allows end it early; what was predicted stays."""
    numbers = [1, REFUSED, REFUSED, 4, 5, 6]
    job_id = world.create(world.upload(numbers, chunk_items=2), window=1, max_errors=1)
    world.run(job_id)
    (job,) = world.rows("SELECT status, n_succeeded, n_errored, n_canceled FROM jobs")
    assert job == {"status": "failed", "n_succeeded": 2, "n_errored": 2, "n_canceled": 2}, job
    check_books(world)


def forsaken(world: World) -> None:
    """What the model depends on is away at every attempt, so the chunk fails, and its neighbour does not."""
    numbers = [AWAY, AWAY, 3, 4]
    job_id = world.create(world.upload(numbers, chunk_items=2))
    world.run(job_id)
    check(world, job_id, numbers, "partial")


STORIES: dict[str, Callable[[World], None]] = {
    story.__name__: story for story in (plain, poisoned, canceled, hopeless, forsaken)
}
ERROR_CODES = {REFUSED: "model_failed", POISON: "runner_crashed", AWAY: "chunk_failed"}


def check(world: World, job_id: str, numbers: list[int], status: str) -> None:
    """The job ended so; its outputs and errors are those of the reference, each item once and in order."""
    expected = [
        None if number in ERROR_CODES else {"number": number, "double": 2 * number} for number in numbers
    ]
    failed_chunks = [index for index, number in enumerate(numbers) if number == AWAY]
    outputs = list(
        chain.from_iterable(unpack(part) for part, _ in history.iterate_outputs(world.database, job_id))
    )
    found = [orjson.loads(output) for output in outputs]
    assert found == [each for index, each in enumerate(expected) if index not in failed_chunks], found
    errors = {index: code for index, code, _ in history.iterate_errors(world.database, job_id)}
    assert errors == {
        index: ERROR_CODES[number] for index, number in enumerate(numbers) if number in ERROR_CODES
    }, errors
    (job,) = world.rows(
        "SELECT CAST(id AS TEXT) AS id, status FROM jobs"
    )  # and no other: an unanswered request was repeated
    assert job == {"id": job_id, "status": status}, job
    check_books(world)
    check_inputs(world, len(numbers))


def check_books(world: World) -> None:
    """Counters are the sums over chunks, every job has ended, and a done chunk has one output."""
    assert world.rows(BOOKS) == []
    outputs = world.rows("SELECT chunk_id FROM outputs ORDER BY chunk_id")
    assert outputs == world.rows("SELECT id AS chunk_id FROM chunks WHERE status = 'done' ORDER BY id")


def check_inputs(world: World, n_items: int) -> None:
    """An upload that broke off is no input: it is not sealed, and no job runs over it."""
    sealed: list[dict[str, Any]] = world.rows(
        "SELECT n_items, (SELECT sum(n_items) FROM input_chunks WHERE input_id = inputs.id) AS n_stored"
        " FROM inputs WHERE status = 'sealed'"
    )
    assert sealed
    assert all(each == {"n_items": n_items, "n_stored": n_items} for each in sealed), sealed
    assert (
        world.rows(
            "SELECT jobs.id FROM jobs JOIN inputs ON inputs.id = input_id WHERE inputs.status <> 'sealed'"
        )
        == []
    )
