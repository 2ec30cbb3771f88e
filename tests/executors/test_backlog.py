"""Which chunks wait, and which go into their model together: quick ones of one job, a few at a time."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from app.cache.recall import Recall
from app.executors.backlog import ALONE_AFTERWARDS, CALL_BYTES, CALL_SECONDS, SHORT_OF_LIMIT, Backlog, Task
from app.jobs.claims import Claim
from app.tables import JobKind
from app.tasks.answers import ChunkAnswer
from app.tasks.predict import Stopwatch, TransientFailure
from tests.models.specimens import Schemaless, served
from tests.waiting import wait_until

MODEL, OTHER = served(Schemaless, max_batch_size=1000), served(Schemaless)
CLAIM = Claim(1, 1, "job", "model@1", 0, n_items=100, attempts=1, crashes=0, payload=b"[{}]")
ANSWER = ChunkAnswer(b"[{}]", [], [])


def tasks_of(*claims: Claim) -> list[Task]:
    return [Task(MODEL, claim, Stopwatch()) for claim in claims]


def backlog_of(tasks: Sequence[Task], *, n_workers: int = 1, seconds: float = 0.0) -> Backlog:
    """A backlog of tasks of a model that took so long for a chunk of 100 items."""
    backlog = Backlog(n_workers)
    finish(backlog, tasks_of(CLAIM), seconds)
    for task in tasks:
        backlog.put(task)
    return backlog


def finish(backlog: Backlog, tasks: list[Task], seconds: float = 0.0) -> None:
    backlog.settle(tasks, [ANSWER] * len(tasks), seconds)


def test_until_it_is_known_how_long_a_model_takes_each_chunk_goes_alone() -> None:
    first, second = tasks_of(CLAIM, CLAIM)
    backlog = Backlog(1)
    backlog.put(first)
    backlog.put(second)

    assert [backlog.take(), backlog.take(), backlog.take()] == [[first], [second], []]
    assert first.future.running()


@pytest.mark.parametrize(("of_a_call", "n_together"), [(0.0, 8), (0.24, 4), (0.4, 2), (0.6, 1), (7.0, 1)])
def test_as_many_go_together_as_make_one_call_of_a_short_time(of_a_call: float, n_together: int) -> None:
    tasks = tasks_of(*[CLAIM] * 8)
    backlog = backlog_of(tasks, seconds=of_a_call * CALL_SECONDS)

    together = backlog.take()

    assert together == tasks[:n_together]
    finish(backlog, together, CALL_SECONDS * n_together)
    assert backlog.take() == tasks[n_together : n_together + 1], (
        "alone, for each now took as long as a call may"
    )


def test_a_small_chunk_that_took_little_time_says_nothing_of_large_ones() -> None:
    last = tasks_of(replace(CLAIM, n_items=1))
    tasks = tasks_of(CLAIM, CLAIM)
    backlog = backlog_of(tasks)
    finish(backlog, last, CALL_SECONDS / 50)
    assert backlog.take() == tasks[:1]


def test_where_a_chunk_may_take_little_time_a_call_takes_far_less() -> None:
    strict = served(Schemaless, chunk_timeout_seconds=CALL_SECONDS)
    tasks = [Task(strict, CLAIM, Stopwatch()) for _ in range(4)]
    backlog = Backlog(1)
    finish(backlog, tasks[:1], CALL_SECONDS / SHORT_OF_LIMIT / 2)
    for task in tasks[1:]:
        backlog.put(task)
    assert backlog.take() == tasks[1:3]


def test_no_call_gets_more_items_than_its_model_takes_nor_more_bytes_than_a_pipe() -> None:
    many, large = replace(CLAIM, n_items=400), replace(CLAIM, payload=bytes(CALL_BYTES // 2))
    assert len(backlog_of(tasks_of(many, many, many)).take()) == 2
    assert len(backlog_of(tasks_of(large, large, large)).take()) == 2


def test_nobody_takes_ahead_what_an_idle_worker_is_about_to_take() -> None:
    first, second = tasks_of(CLAIM, CLAIM)
    backlog = Backlog(2)
    taken: list[list[Task]] = []
    idle = threading.Thread(target=lambda: taken.append(backlog.wait()))
    idle.start()
    wait_until(lambda: backlog._n_idle == 1, "it to wait")

    with backlog._changed:  # it is told, and cannot go on yet
        backlog.put(first)
        assert backlog.take() == []
        backlog.put(second)
        assert backlog.take() == [first]

    idle.join(30)
    assert taken == [[second]]
    assert backlog.take() == []


def test_workers_leave_each_other_their_share() -> None:
    tasks = tasks_of(*[CLAIM] * 7)
    backlog = backlog_of(tasks, n_workers=3)
    assert [len(backlog.take()) for _ in range(4)] == [3, 2, 1, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"job_id": "another"},
        {"attempts": 2},
        {"payload": b""},
        {"output_url": "file:///out"},
        {"recall": Recall(["key"], {})},
        {"kind": JobKind.TRAIN},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_must_not_share_a_call_goes_alone_and_in_its_turn(changes: dict[str, Any]) -> None:
    """Of another job; that broke a run before; that is in a store, or goes there; that the cache knows some of."""
    alone = replace(CLAIM, **changes)
    first, second, odd, third = tasks_of(CLAIM, CLAIM, alone, CLAIM)
    backlog = backlog_of([first, second, odd, third])
    assert [backlog.take() for _ in range(3)] == [[first, second], [odd], [third]]


def test_chunks_of_two_models_never_share_a_call() -> None:
    first, second = tasks_of(CLAIM)[0], Task(OTHER, CLAIM, Stopwatch())
    backlog = backlog_of([first, second])
    assert [backlog.take(), backlog.take()] == [[first], [second]]


def test_what_is_called_off_is_passed_over() -> None:
    tasks = tasks_of(*[CLAIM] * 5)
    backlog = backlog_of(tasks)
    for called_off in (tasks[0], tasks[2]):
        assert called_off.future.cancel()
    assert backlog.take() == [tasks[1], tasks[3], tasks[4]]
    assert not tasks[4].future.cancel()


def test_of_a_call_that_failed_each_chunk_is_run_again_by_itself_and_some_more_are() -> None:
    tasks = tasks_of(*[CLAIM] * (3 + ALONE_AFTERWARDS + 2))
    backlog = backlog_of(tasks[:3])
    failed = backlog.take()
    assert backlog.fail(failed, TransientFailure("away for one of them")) == 3
    for task in tasks[3:]:
        backlog.put(task)

    for task in tasks[:-2]:
        taken = backlog.take()
        assert [each.future for each in taken] == [task.future], "in the old order"
        finish(backlog, taken)
    assert backlog.take() == tasks[-2:]
    assert [task.future.result() for task in failed] == [ANSWER] * 3


def test_what_was_in_a_call_that_failed_is_in_no_other_whatever_else_succeeds() -> None:
    tasks = tasks_of(*[CLAIM] * 3)
    backlog = backlog_of(tasks)
    backlog.fail(backlog.take(), ValueError("one of them"))
    finish(backlog, tasks_of(*[CLAIM] * ALONE_AFTERWARDS))
    assert [len(backlog.take()) for _ in tasks] == [1, 1, 1]


def test_a_model_whose_calls_fail_again_and_again_is_tried_ever_less_often() -> None:
    backlog = backlog_of(tasks_of(*[CLAIM] * 1000))

    def n_alone_after_a_failure(together: list[Task]) -> tuple[int, list[Task]]:
        backlog.fail(together, ValueError("too many"))
        n_alone = 0
        while len(taken := backlog.take()) == 1:
            n_alone += 1
            finish(backlog, taken)
        return n_alone, taken

    first, together = n_alone_after_a_failure(backlog.take())
    second, together = n_alone_after_a_failure(together)
    third, together = n_alone_after_a_failure(together)
    finish(backlog, together)
    last, _ = n_alone_after_a_failure(backlog.take())
    assert [n_alone - len(together) for n_alone in (first, second, third, last)] == [32, 64, 128, 32]


def test_one_that_fails_alone_has_failed() -> None:
    (task,) = tasks_of(CLAIM)
    backlog = backlog_of([task])
    assert backlog.fail(backlog.take(), error := ValueError("its own")) == 0
    assert task.future.exception() is error


def test_what_is_put_back_comes_first_and_only_who_wants_it_takes_it() -> None:
    tasks = tasks_of(*[CLAIM] * 3)
    backlog = backlog_of(tasks[:2])
    backlog.put_back(backlog.take())
    backlog.put(tasks[2])
    assert backlog.take(lambda task: task is not tasks[0]) == []
    assert backlog.take(lambda task: task is tasks[0]) == tasks


def test_who_waits_is_woken_by_a_chunk_or_by_the_end() -> None:
    backlog = Backlog(2)
    (task,) = tasks_of(CLAIM)
    got: list[list[Task]] = []
    waiting = [threading.Thread(target=lambda: got.append(backlog.wait()), daemon=True) for _ in range(2)]
    for thread in waiting:
        thread.start()
    backlog.put(task)
    backlog.close()
    for thread in waiting:
        thread.join(10)
    backlog.put(task)
    assert [] in got
    assert len(got) == 2
    assert backlog.wait() == backlog.take() == []
