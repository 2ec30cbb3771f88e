"""Who runs alone, because a crash would be held against it."""

import pytest

from app.jobs.retry import attempts_behind, is_on_trial


@pytest.mark.parametrize(
    ("max_attempts", "n_items", "attempts_on_trial"),
    [(3, 1000, [3]), (3, 1, [2, 3]), (2, 1000, [2]), (2, 1, [2]), (1, 1000, []), (5, 1, [4, 5])],
)
def test_the_attempts_that_count_against_a_chunk_run_alone(
    max_attempts: int, n_items: int, attempts_on_trial: list[int]
) -> None:
    attempts = range(1, max_attempts + 1)

    assert [each for each in attempts if is_on_trial(each, n_items, max_attempts)] == attempts_on_trial


def test_a_half_runs_once_more_and_an_item_twice() -> None:
    assert [attempts_behind(n_items, 3) for n_items in (500, 2, 1)] == [2, 2, 1]
    assert [attempts_behind(n_items, 1) for n_items in (500, 1)] == [0, 0]
