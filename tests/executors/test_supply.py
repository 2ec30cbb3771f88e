"""How far ahead a runner claims, and when its loop is woken."""

from types import SimpleNamespace

import pytest

from app.executors.supply import AHEAD_BYTES, MOST_PER_SLOT, Supply
from app.jobs.claims import Claim


def claims(n_chunks: int, queue: str = "m@1", payload: bytes = b"[]") -> list[Claim]:
    return [Claim(number, 1, "job", queue, number, 1, 1, 0, payload=payload) for number in range(n_chunks)]


def supplied(n_chunks: int, slots: int = 1, queue: str = "m@1") -> Supply:
    supply = Supply()
    for _ in range(n_chunks):
        supply.begin(queue, slots)
    return supply


def test_the_loop_is_woken_for_the_first_result_and_when_half_is_done() -> None:
    supply = supplied(8)

    assert [supply.end("m@1") for _ in range(8)] == [True, False, False, True, True, True, True, True]


def test_where_nothing_more_comes_it_is_woken_when_half_of_the_rest_is_done() -> None:
    supply = supplied(32)
    commits = []
    n_done = 0
    for _ in range(32):
        n_done += 1
        is_first = n_done == 1
        if supply.end("m@1") and not (is_first and supply.is_ahead):
            for _ in range(n_done):
                supply.forget("m@1")
            commits.append(n_done)
            n_done = 0

    assert commits == [16, 8, 4, 2, 1, 1]


def test_the_first_result_after_a_commit_wakes_it_again() -> None:
    supply = supplied(8)
    supply.end("m@1")
    supply.end("m@1")

    supply.forget("m@1")
    assert supply.has_results
    supply.forget("m@1")

    assert not supply.has_results
    assert supply.end("m@1")


def test_enough_is_ahead_while_more_waits_than_half_and_than_the_model_runs_at_once() -> None:
    supply = supplied(5, slots=4)
    assert supply.is_ahead
    supply.end("m@1")
    assert not supply.is_ahead
    supply.begin("m@1", 4)
    assert supply.is_ahead


def test_every_model_that_runs_must_have_enough_ahead() -> None:
    supply = supplied(4)
    supply.begin("other@1", 1)
    assert not supply.is_ahead
    supply.end("other@1")
    assert supply.is_ahead  # the other has nothing to do, so nothing is late for it


def test_nothing_has_to_be_ahead_of_a_training() -> None:
    assert supplied(1, slots=0).is_ahead


def test_of_what_was_ahead_of_a_model_that_does_none_for_a_while_all_but_the_least_is_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.executors.supply.time", clock := SimpleNamespace(monotonic=lambda: 100.0))
    supply = supplied(20, slots=2)
    for _ in range(9):
        supply.begin("train:m@1", 0)
        supply.begin("quick@1", 1)
    supply.set_pace([*claims(9), *claims(9, "quick@1")], 0.1)
    clock.monotonic = lambda: 101.5
    supply.end("quick@1")

    clock.monotonic = lambda: 101.9
    assert +supply.surplus(2.0) == {}
    assert +supply.surplus(1.0) == {"m@1": 16}
    assert (supply.is_short("m@1"), supply.is_short("quick@1")) == (False, True)


def test_nothing_is_ahead_where_nothing_runs() -> None:
    assert not Supply().is_ahead


@pytest.mark.parametrize(
    ("n_chunks", "seconds", "per_slot"),
    [
        (1, 10.0, 2),  # long chunks: one in the model, one that waits
        (10, 0.5, 13),  # 50 ms each: what takes 0.6 seconds, and one
        (100, 0.1, MOST_PER_SLOT),
        (1, 0.0, MOST_PER_SLOT),
    ],
)
def test_more_is_claimed_of_short_chunks(n_chunks: int, seconds: float, per_slot: int) -> None:
    supply = Supply()
    assert supply.per_slot("m@1") == 2
    supply.set_pace(claims(n_chunks), seconds)
    assert supply.per_slot("m@1") == per_slot
    assert supply.is_short("m@1") is (per_slot > 2)
    assert supply.per_slot("other@1") == 2


def test_of_large_chunks_only_so_many_bytes_are_claimed_ahead() -> None:
    supply = Supply()
    supply.set_pace(claims(4, payload=bytes(AHEAD_BYTES // 5)), 0.001)
    assert supply.per_slot("m@1") == 5
    supply.set_pace(claims(4, payload=bytes(AHEAD_BYTES)), 0.001)
    assert supply.per_slot("m@1") == 2


def test_each_queue_has_its_own_pace() -> None:
    supply = Supply()
    supply.set_pace([*claims(40, "quick@1"), *claims(1, "slow@1")], 0.4)
    assert (supply.per_slot("quick@1"), supply.per_slot("slow@1")) == (MOST_PER_SLOT, 2)
