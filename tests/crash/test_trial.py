"""Who runs alone, because a crash would be held against it."""

import pytest

from app.jobs.retry import crashes_behind, is_on_trial


@pytest.mark.parametrize(
    ("max_attempts", "n_items", "crashes_before_trial"),
    [(3, 1000, [2]), (3, 1, [1, 2]), (2, 1000, [1]), (2, 1, [1]), (1, 1000, []), (5, 1, [3, 4])],
)
def test_the_runs_whose_crash_counts_against_a_chunk_run_alone(
    max_attempts: int, n_items: int, crashes_before_trial: list[int]
) -> None:
    crashes = range(max_attempts)

    assert [each for each in crashes if is_on_trial(each, n_items, max_attempts)] == crashes_before_trial


def test_a_half_runs_once_more_and_an_item_twice() -> None:
    assert [crashes_behind(n_items, 3) for n_items in (500, 2, 1)] == [2, 2, 1]
    assert [crashes_behind(n_items, 1) for n_items in (500, 1)] == [0, 0]
