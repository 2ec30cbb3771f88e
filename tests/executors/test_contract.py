"""What every executor keeps: a chunk's answer in order, and any failure as that chunk's own."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.cache.recall import Recall
from app.data import chunks
from app.data.chunks import pack
from app.data.extents import find_extents
from app.data.formats import Format
from app.executors.dask import DaskExecutor
from app.executors.outcomes import result_of
from app.jobs.claims import TRANSIENT, Broken, Claim, Done, Failed, Source, Trained
from app.tables import JobKind
from app.tasks.predict import Stopwatch
from tests.data.bodies import LIMITS
from tests.executors.conftest import Lab
from tests.waiting import wait_until


def answers(result: Done) -> list[Any]:
    """What a client reads of a chunk: each answer with its item, None where it failed."""
    assert not result.is_whole
    read = chunks.answers(result.claim.payload, result.items, len(result.failures))
    return list(orjson.loads(read))


def test_answers_come_in_the_order_of_the_items(lab: Lab) -> None:
    (result,) = lab.run([None] * 5)
    assert isinstance(result, Done)
    told = answers(result)
    assert [answer["id"] for answer in told] == [0, 1, 2, 3, 4]
    assert set(result.columns) == {"id", "act", "pid", "thread", "loads"}
    assert result.failures == []
    runs_here = told[0]["pid"] == os.getpid()
    assert runs_here is not lab.executor.ends_hung_chunks


def test_an_item_that_fails_is_an_item_error_and_costs_no_other(lab: Lab) -> None:
    first, second = lab.run([None, "raise", None], [None])
    assert isinstance(first, Done)
    assert [(failure.place, failure.code) for failure in first.failures] == [(1, "model_failed")]
    assert "ValueError: not this one" in first.failures[0].message
    assert [answer and answer["id"] for answer in answers(first)] == [0, None, 2]
    assert isinstance(second, Done)


def test_what_is_no_exception_and_cannot_be_told_is_an_item_error_as_well(lab: Lab) -> None:
    """Rust's panics are no `Exception`."""
    (result,) = lab.run([None, "panic", None])
    assert isinstance(result, Done)
    assert [(failure.place, failure.code) for failure in result.failures] == [(1, "model_failed")]
    assert result.failures[0].message.endswith("raised Panic")


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


def test_items_come_from_an_object_and_answers_go_to_one(lab: Lab, tmp_path: Path) -> None:
    lines = b"".join(orjson.dumps({"id": place, "act": None}) + b"\n" for place in range(6))
    (tmp_path / "x.ndjson").write_bytes(lines)
    (extent,) = find_extents([lines], Format.NDJSON, LIMITS)
    source = Source(f"file://{tmp_path}/x.ndjson", extent, start=2)
    claim = Claim(7, 3, "job", "unruly@1", 102, 3, 1, 0, source=source, output_url=f"file://{tmp_path}/out")
    elsewhere = replace(claim, chunk_id=8, source=replace(source, url="file:///etc/passwd"))

    result, refused = lab.run_claims([claim, elsewhere])

    assert isinstance(result, Done)
    assert result.items == b""
    assert result.written is not None
    assert result.written.name == "part-000000000102-c7-e3.ndjson"
    written = (tmp_path / "out" / result.written.name).read_bytes()
    assert [orjson.loads(line)["id"] for line in written.splitlines()] == [2, 3, 4]
    assert isinstance(refused, Failed)
    assert refused.reason.startswith("input_unavailable: file:///etc/passwd is outside")


def test_what_the_cache_knows_is_not_run_and_what_is_new_is_told(lab: Lab) -> None:
    (sound,) = lab.run([None, "raise", None, None])
    claim = replace(sound.claim, recall=Recall(["k0", "k1", "k2", "k0"], {"k2": b'{"pid":7}'}))

    result = result_of(lab.executor.submit(lab.served, claim, Stopwatch()), claim)

    assert isinstance(result, Done)
    first, failed, known, again = answers(result)
    assert (failed, known) == (None, {"id": 2, "act": None, "pid": 7})
    assert {**first, "id": 3} == again
    assert [(failure.place, failure.code) for failure in result.failures] == [(1, "model_failed")]
    assert {key: orjson.loads(text)["pid"] for key, text in result.new.items()} == {"k0": first["pid"]}
    assert result.n_cached == 2


def test_more_chunks_than_slots_wait_their_turn(lab: Lab) -> None:
    results = lab.run(*[[None]] * 6)
    assert all(isinstance(result, Done) for result in results)


def test_quick_chunks_of_a_job_go_into_their_model_together_and_only_the_guilty_one_pays(
    lab: Lab, tmp_path: Path
) -> None:
    lab.submit(
        *[[f"hold {tmp_path}"]] * 2
    )  # so that the others are all there when the first of them is taken
    submitted = lab.submit(*[["size"] * 2] * 38, ["size", "raise"], ["exhaust"])
    (tmp_path / "go").touch()

    *results, failed, broken = lab.told(submitted)

    assert isinstance(failed, Done)
    assert [answer and answer["id"] for answer in answers(failed)] == [0, None]
    assert isinstance(broken, Broken)
    told = [answers(result) for result in results if isinstance(result, Done)]
    assert [[answer["id"] for answer in chunk] for chunk in told] == [[0, 1]] * 38
    sizes = {answer["size"] for chunk in told for answer in chunk}
    assert (max(sizes) > 2) is not isinstance(lab.executor, DaskExecutor), "there each is a task of its own"


def test_a_training_gives_its_artifact_and_its_failure_is_the_chunks_own(lab: Lab) -> None:
    pupil = lab.registry.get("pupil")
    pupil.wait_ready(10)
    items = pack(orjson.dumps({"text": text, "label": "x"}) for text in "abc")

    def train(**options: str) -> object:
        claim = Claim(1, 1, "job", "train:pupil@0", 0, 3, 1, 0, items, JobKind.TRAIN, options)
        return result_of(lab.executor.submit(pupil, claim, Stopwatch()), claim)

    trained, failed, broken = train(), train(act="raise"), train(act="disconnect")
    assert isinstance(trained, Trained)
    assert trained.artifact.parts == [b'{"guess":"x"}']
    assert (trained.metrics["n_train"], trained.metrics["pid"] == os.getpid()) == (
        3,
        not lab.executor.ends_hung_chunks,
    )
    assert isinstance(failed, Failed)
    assert failed.reason == "model pupil 0 raised ValueError: one label is not enough in train"
    assert isinstance(broken, Broken)
    assert broken.code == TRANSIENT


@pytest.mark.parametrize("kind", ["process", "dask"])
def test_a_chunk_that_takes_too_long_is_ended_with_its_process(
    make_lab: Callable[[str], Lab], kind: str
) -> None:
    lab = make_lab(kind)
    hung, sound = lab.run(["hang"], [None])
    assert isinstance(hung, Broken)
    assert (hung.code, hung.blames_an_item) == ("timed_out", True)
    assert isinstance(sound, Done)


@pytest.mark.parametrize("kind", ["process", "dask"])
def test_a_model_that_took_another_one_s_place_gets_the_next_chunks(
    make_lab: Callable[[str], Lab], kind: str
) -> None:
    lab = make_lab(kind)
    before, old = by_process(lab.run([None])), lab.served
    under_way = lab.submit(["nap"])

    lab.registry.replace([replace(old.declaration, max_batch_size=7)])
    wait_until(lambda: lab.registry.get("unruly") is not old, "the new one")
    lab.served = lab.registry.get("unruly")
    after = by_process(lab.run([None]))

    assert [type(result_of(future, claim)) for future, claim in under_way] == [Done], "the old one finished"
    if kind == "process":
        assert not before.keys() & after.keys(), "new children"
        assert set(after.values()) == {1}
    else:
        assert all(after.get(pid, n_loads + 1) == n_loads + 1 for pid, n_loads in before.items())


def by_process(results: list[Done | Trained | Failed | Broken]) -> dict[int, int]:
    """How often each process that answered has loaded the model."""
    answers = [orjson.loads(result.items)[0] for result in results if isinstance(result, Done)]
    assert answers
    return {answer["pid"]: answer["loads"] for answer in answers}
