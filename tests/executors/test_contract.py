"""What every executor keeps: a chunk's answer in order, and any failure as that chunk's own."""

import os
from collections.abc import Callable
from dataclasses import replace

import orjson
import pytest

from app.cache.recall import Recall
from app.executors.outcomes import result_of
from app.jobs.claims import Broken, Done, Failed
from app.tasks.predict import Stopwatch
from tests.executors.conftest import Lab


def test_answers_come_in_the_order_of_the_items(lab: Lab) -> None:
    (result,) = lab.run([None] * 5)
    assert isinstance(result, Done)
    answers = orjson.loads(result.items)
    assert [answer["id"] for answer in answers] == [0, 1, 2, 3, 4]
    assert set(result.columns) == {"id", "act", "pid", "thread", "loads"}
    assert result.failures == []
    runs_here = answers[0]["pid"] == os.getpid()
    assert runs_here is not lab.executor.ends_hung_chunks


def test_an_item_that_fails_is_an_item_error_and_costs_no_other(lab: Lab) -> None:
    first, second = lab.run([None, "raise", None], [None])
    assert isinstance(first, Done)
    assert [(failure.place, failure.code) for failure in first.failures] == [(1, "model_failed")]
    assert "ValueError: not this one" in first.failures[0].message
    assert [answer and answer["id"] for answer in orjson.loads(first.items)] == [0, None, 2]
    assert isinstance(second, Done)


def test_a_dependency_that_fails_is_transient_and_no_items_fault(lab: Lab) -> None:
    (result,) = lab.run([None, "disconnect"])
    assert isinstance(result, Broken)
    assert not result.blames_an_item
    assert "ConnectionResetError: the feature store hung up" in result.reason


def test_out_of_memory_blames_an_item(lab: Lab) -> None:
    (result,) = lab.run([None, "exhaust"])
    assert isinstance(result, Broken)
    assert (result.code, result.reason) == ("runner_crashed", "out of memory")


def test_an_unexpected_exception_fails_its_chunk_with_its_message(lab: Lab) -> None:
    (sound,) = lab.run([None])
    claim = replace(sound.claim, payload=b"[not JSON]")

    result = result_of(lab.executor.submit(lab.served, claim, Stopwatch()), claim)

    assert isinstance(result, Failed)
    assert "JSON" in result.reason
    assert isinstance(lab.run([None])[0], Done)


def test_what_the_cache_knows_is_not_run_and_what_is_new_is_told(lab: Lab) -> None:
    (sound,) = lab.run([None, "raise", None, None])
    claim = replace(sound.claim, recall=Recall(["k0", "k1", "k2", "k0"], {"k2": b'{"pid":7}'}))

    result = result_of(lab.executor.submit(lab.served, claim, Stopwatch()), claim)

    assert isinstance(result, Done)
    first, failed, known, again = orjson.loads(result.items)
    assert (failed, known) == (None, {"id": 2, "act": None, "pid": 7})
    assert {**first, "id": 3} == again
    assert [(failure.place, failure.code) for failure in result.failures] == [(1, "model_failed")]
    assert {key: orjson.loads(text)["pid"] for key, text in result.new.items()} == {"k0": first["pid"]}
    assert result.n_cached == 2


def test_more_chunks_than_slots_wait_their_turn(lab: Lab) -> None:
    results = lab.run(*[[None]] * 6)
    assert all(isinstance(result, Done) for result in results)


@pytest.mark.parametrize(("act", "status"), [("kill", -9), ("exit", 3), ("segfault", -11)])
def test_a_child_that_dies_costs_its_chunk_and_neither_the_pool_nor_its_neighbours(
    make_lab: Callable[[str], Lab], act: str, status: int
) -> None:
    lab = make_lab("process")
    dead, *alive = lab.run([None, act], [None], [None], [None])
    assert isinstance(dead, Broken)
    assert (dead.code, dead.reason) == (
        "runner_crashed",
        f"the process that ran it died (exit code {status})",
    )
    assert all(isinstance(result, Done) for result in alive)
    assert isinstance(lab.run([None])[0], Done)


@pytest.mark.parametrize("kind", ["process", "dask"])
def test_a_chunk_that_takes_too_long_is_ended_with_its_process(
    make_lab: Callable[[str], Lab], kind: str
) -> None:
    lab = make_lab(kind)
    hung, sound = lab.run(["hang"], [None])
    assert isinstance(hung, Broken)
    assert (hung.code, hung.blames_an_item) == ("timed_out", True)
    assert isinstance(sound, Done)
