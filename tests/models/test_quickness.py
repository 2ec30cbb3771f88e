"""When a model counts as quick, and how long it takes to be quick again."""

from collections.abc import Iterable

from app.models.quickness import (
    BRISK_SECONDS,
    MOST_PROBATION_CALLS,
    PROBATION_CALLS,
    PROBE_CALLS,
    QUICK_SECONDS,
    SLOW_SECONDS,
    TRUSTED_CALLS,
    Quickness,
)

QUICK, SLOW = QUICK_SECONDS / 10, SLOW_SECONDS * 2


def judged(*seconds: float) -> Quickness:
    quickness = Quickness()
    judge(quickness, seconds)
    return quickness


def judge(quickness: Quickness, seconds: Iterable[float]) -> None:
    for each in seconds:
        quickness.judge(each)


def calls_until_proved(quickness: Quickness) -> int:
    n_calls = 0
    while not quickness.is_quick:
        quickness.judge(QUICK)
        n_calls += 1
    return n_calls


def test_a_model_is_quick_after_its_first_probation() -> None:
    assert not judged(*[QUICK] * (PROBATION_CALLS - 1)).is_quick
    assert judged(*[QUICK] * PROBATION_CALLS).is_quick


def test_a_model_that_typically_takes_longer_is_never_quick() -> None:
    assert not judged(*[2 * QUICK_SECONDS] * 10_000).is_quick


def test_one_slow_call_ends_it_at_once_and_for_a_probation() -> None:
    quickness = judged(*[QUICK] * (PROBATION_CALLS + TRUSTED_CALLS))

    quickness.judge(SLOW)

    assert not quickness.is_quick
    assert calls_until_proved(quickness) == PROBATION_CALLS


def test_probations_grow_while_a_model_is_slow_again_soon() -> None:
    quickness = judged(*[QUICK] * PROBATION_CALLS)
    probations = []
    for _ in range(9):
        quickness.judge(SLOW)
        probations.append(calls_until_proved(quickness))
        judge(quickness, [QUICK] * (TRUSTED_CALLS - 1))

    assert probations == [min(PROBATION_CALLS * 2**n, MOST_PROBATION_CALLS) for n in range(1, 10)]


def test_a_model_that_was_slow_once_in_long_is_forgiven_soon() -> None:
    quickness = judged(*[QUICK] * PROBATION_CALLS, *[SLOW] * 5)
    calls_until_proved(quickness)
    judge(quickness, [QUICK] * TRUSTED_CALLS)

    quickness.judge(SLOW)

    assert calls_until_proved(quickness) == PROBATION_CALLS


def test_a_call_that_waited_for_the_processor_does_not_make_a_quick_model_typically_slow() -> None:
    quickness = judged(*[QUICK] * PROBATION_CALLS)

    quickness.judge(SLOW_SECONDS)

    assert quickness.is_quick


def test_requests_of_a_model_that_seems_quick_go_alone_and_of_others_one_in_many_does() -> None:
    assert all(judged(*[QUICK] * 100).goes_alone() for _ in range(3))

    for slow in (Quickness(), judged(*[2 * QUICK_SECONDS] * 100)):
        alone = [slow.goes_alone() for _ in range(3 * PROBE_CALLS)]
        assert alone.count(True) == 3
        assert alone[PROBE_CALLS - 1]


def test_a_model_that_computes_for_a_little_longer_is_brisk_after_its_probation() -> None:
    quickness = judged(*[BRISK_SECONDS / 2] * (PROBATION_CALLS - 1))
    assert not quickness.is_brisk
    quickness.judge(BRISK_SECONDS / 2)
    assert quickness.is_brisk
    assert not quickness.is_quick

    quickness.judge(SLOW)

    assert not quickness.is_brisk


def test_a_model_that_takes_longer_or_waits_is_not_brisk() -> None:
    longer, waiting = judged(*[2 * BRISK_SECONDS] * 1000), Quickness()
    for _ in range(1000):
        waiting.judge(BRISK_SECONDS / 2, idle_seconds=BRISK_SECONDS / 4)

    assert not longer.is_brisk
    assert not waiting.is_brisk
