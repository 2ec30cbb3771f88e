"""The batcher: calls that came while the model ran go together into its next one, and each gets its own answer."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from app.errors import BadRequest, ModelAway, ModelFailed, Overdue, Overloaded, Unavailable
from app.models import JsonObject, quickness
from app.models.batcher import Batcher, Call
from app.models.quickness import PROBATION_CALLS
from app.models.served import ServedModel
from tests.models import specimens
from tests.models.specimens import declare, served
from tests.waiting import wait_until


class Gate:
    """A model whose calls wait, each until the test lets one go, and are written down."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.poison: set[int] = set()
        self.error: BaseException = RuntimeError("poisoned")

    def __call__(self, items: list[JsonObject]) -> list[JsonObject]:
        self.calls.append([item["n"] for item in items])
        self.entered.release()
        assert self.may_end.acquire(timeout=30)
        numbers = [item.pop("n") for item in items]  # it may change what it is given
        if self.poison.intersection(numbers):
            raise self.error
        return [{"label": str(number)} for number in numbers]

    def open(self) -> None:
        """Lets all calls go from now on."""
        self.may_end.release(10_000)


class Counting(Batcher):
    """One that tells how many calls it ever queued."""

    n_put = 0

    def put(self, call: Call) -> None:
        super().put(call)
        self.n_put += 1


class Asking:
    """Threads that ask a batcher, each for some numbers."""

    def __init__(self, gate: Gate, model: ServedModel) -> None:
        self.gate, self.batcher = gate, Counting(model)
        self._threads = ThreadPoolExecutor(64)

    def ask(self, *numbers: int, seconds: float = 30, **options: Any) -> Future[list[str]]:
        """Returns once the question waits, or is in the model."""
        before = self._state()
        items = [{"n": number} for number in numbers]

        def predict() -> list[str]:
            loaded = [item.copy() for item in items]
            answers = self.batcher.predict(items, loaded, seconds=seconds, **options)
            return [answer["label"] for answer in answers]

        asked = self._threads.submit(predict)
        wait_until(lambda: asked.done() or self._state() != before, "the question to be asked", 10)
        return asked

    def _state(self) -> tuple[int, int]:
        return len(self.gate.calls), self.batcher.n_put

    def busy(self) -> Future[list[str]]:
        """Has the model run, so that what comes next waits."""
        first = self.ask(0)
        assert self.gate.entered.acquire(timeout=10)
        return first

    def end(self) -> None:
        self.gate.open()
        self._threads.shutdown()


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Asking]]:
    made: list[Asking] = []

    def make(**declared: Any) -> Asking:
        gate = Gate()
        monkeypatch.setattr(specimens.Scripted, "result", staticmethod(gate))
        made.append(Asking(gate, served(specimens.Scripted, **declared)))
        return made[-1]

    yield make
    for asking in made:
        asking.end()


def test_an_idle_model_gets_a_request_at_once_and_alone(ask: Callable[..., Asking]) -> None:
    asking = ask()
    asking.gate.open()

    assert asking.ask(1, 2).result(10) == ["1", "2"]
    assert asking.ask(3).result(10) == ["3"]
    assert asking.gate.calls == [[1, 2], [3]]


def test_what_came_while_the_model_ran_goes_into_its_next_call(ask: Callable[..., Asking]) -> None:
    asking = ask()
    first = asking.busy()
    waiting = [asking.ask(1, 2), asking.ask(3), asking.ask(4, 5)]

    asking.gate.open()

    assert [asked.result(10) for asked in (first, *waiting)] == [["0"], ["1", "2"], ["3"], ["4", "5"]]
    assert asking.gate.calls == [[0], [1, 2, 3, 4, 5]]


def test_a_batch_holds_no_more_items_than_the_model_takes_and_no_request_is_cut(
    ask: Callable[..., Asking],
) -> None:
    asking = ask(max_batch_size=3)
    asking.busy()
    waiting = [asking.ask(1, 2), asking.ask(3, 4), asking.ask(5), asking.ask(6)]

    asking.gate.open()

    assert [asked.result(10) for asked in waiting] == [["1", "2"], ["3", "4"], ["5"], ["6"]]
    assert asking.gate.calls == [[0], [1, 2], [3, 4, 5], [6]]


def test_a_request_that_is_larger_than_a_batch_is_predicted_in_several_calls(
    ask: Callable[..., Asking],
) -> None:
    asking = ask(max_batch_size=2)
    asking.gate.open()

    assert asking.ask(1, 2, 3, 4, 5).result(10) == ["1", "2", "3", "4", "5"]
    assert asking.gate.calls == [[1, 2], [3, 4], [5]]


def test_an_item_that_breaks_the_model_fails_its_own_request_alone(ask: Callable[..., Asking]) -> None:
    asking = ask()
    asking.gate.poison = {4, 7}
    asking.busy()
    waiting = {number: asking.ask(number, number + 100) for number in range(1, 9)}

    asking.gate.open()

    for number, asked in waiting.items():
        if number in asking.gate.poison:
            with pytest.raises(ModelFailed, match="raised RuntimeError: poisoned"):
                asked.result(10)
        else:
            assert asked.result(10) == [str(number), str(number + 100)]


def test_a_model_that_is_away_is_not_asked_again_for_half_of_the_items(ask: Callable[..., Asking]) -> None:
    asking = ask()
    asking.gate.poison, asking.gate.error = {1}, ConnectionRefusedError("nobody there")
    asking.busy()
    waiting = [asking.ask(number) for number in (1, 2, 3, 4)]

    asking.gate.open()

    for asked in waiting:
        with pytest.raises(ModelAway, match="nobody there"):
            asked.result(10)
    assert asking.gate.calls[1:] == [[1, 2, 3, 4]]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError("none left")])
def test_whatever_the_model_raises_the_next_request_is_answered(
    error: BaseException, ask: Callable[..., Asking]
) -> None:
    asking = ask()
    asking.gate.poison, asking.gate.error = {1}, error
    asking.gate.open()

    with pytest.raises(ModelFailed, match=type(error).__name__):
        asking.ask(1).result(10)
    assert asking.ask(2).result(10) == ["2"]


def test_who_waits_too_long_is_told_and_the_model_never_sees_its_items(ask: Callable[..., Asking]) -> None:
    asking = ask()
    first = asking.busy()
    late, other = asking.ask(1, seconds=0.02), asking.ask(2)

    with pytest.raises(Overdue):
        late.result(10)
    asking.gate.open()

    assert (first.result(10), other.result(10)) == (["0"], ["2"])
    assert asking.gate.calls == [[0], [2]]


def test_who_waits_too_long_while_its_items_are_in_the_model_is_told_too(ask: Callable[..., Asking]) -> None:
    asking = ask()

    late = asking.ask(1, seconds=0.02)

    with pytest.raises(Overdue):
        late.result(10)
    other = asking.ask(2)
    asking.gate.open()
    assert other.result(10) == ["2"]


def test_who_has_hung_up_is_left_out(ask: Callable[..., Asking]) -> None:
    asking = ask()
    asking.busy()
    gone, other = asking.ask(1, is_gone=lambda: True), asking.ask(2, is_gone=lambda: False)

    asking.gate.open()

    with pytest.raises(BadRequest, match="hung up"):
        gone.result(10)
    assert other.result(10) == ["2"]
    assert asking.gate.calls == [[0], [2]]


def test_more_than_may_wait_is_turned_away_at_once_and_what_waits_is_not(ask: Callable[..., Asking]) -> None:
    asking = ask(max_waiting_items=3)
    asking.busy()
    large = asking.ask(1, 2, 3, 4)  # nothing waited yet

    with pytest.raises(Overloaded, match="4 items wait for model specimen 1") as refused:
        asking.ask(5).result(10)

    assert int(refused.value.headers["Retry-After"]) > 0
    asking.gate.open()
    assert large.result(10) == ["1", "2", "3", "4"]
    assert asking.ask(6).result(10) == ["6"]


def test_who_gives_up_makes_room_for_others(ask: Callable[..., Asking]) -> None:
    asking = ask(max_waiting_items=2)
    asking.busy()
    late = asking.ask(1, 2, seconds=0.02)
    with pytest.raises(Overdue):
        late.result(10)

    other = asking.ask(3, 4)

    asking.gate.open()
    assert other.result(10) == ["3", "4"]


def test_a_model_that_allows_two_threads_is_called_by_two_and_no_third(ask: Callable[..., Asking]) -> None:
    asking = ask(concurrency=2)
    first, second = asking.busy(), asking.ask(1)
    assert asking.gate.entered.acquire(timeout=10)
    waiting = [asking.ask(2), asking.ask(3)]
    assert asking.gate.calls == [[0], [1]]

    asking.gate.open()

    answers = [asked.result(10) for asked in (first, second, *waiting)]
    assert answers == [["0"], ["1"], ["2"], ["3"]]
    assert asking.gate.calls[2:] == [[2, 3]]


def test_calls_that_are_put_wait_for_each_other_until_they_are_attended_to(
    ask: Callable[..., Asking],
) -> None:
    asking = ask(max_batch_size=3, concurrency=2)
    answered = threading.Semaphore(0)
    calls = [
        Call([{"n": number}], None, seconds=30, wake=lambda _: answered.release()) for number in range(5)
    ]

    for call in calls:
        asking.batcher.put(call)
    assert asking.gate.calls == []
    asking.batcher.attend()

    # The second thread is rung for what is more than one batch.
    for _ in range(2):
        assert asking.gate.entered.acquire(timeout=30)
    assert sorted(asking.gate.calls) == [[0, 1, 2], [3, 4]]
    asking.gate.open()
    for _ in calls:
        assert answered.acquire(timeout=30)
    assert [call.result()[0]["label"] for call in calls] == ["0", "1", "2", "3", "4"]
    asking.batcher.attend()
    assert len(asking.gate.calls) == 2


def test_a_model_that_is_not_ready_is_told_to_each_caller() -> None:
    batcher = Batcher(ServedModel(declare(specimens.Upper)))

    for _ in range(2):
        with pytest.raises(Unavailable, match="still loading"):
            batcher.predict([{"text": "a"}], None, seconds=10)


def test_nobody_gets_the_answer_of_another_whatever_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 calls by 32 threads: some poisoned, some hung up, some with hardly any time, in batches of all sizes."""
    chance = random.Random(7)
    poisoned = set(chance.sample(range(10_000), 100))

    def predict(items: list[JsonObject]) -> list[JsonObject]:
        numbers = [item.pop("n") for item in items]
        if poisoned.intersection(numbers):
            raise RuntimeError("poisoned")
        return [{"label": number} for number in numbers]

    monkeypatch.setattr(specimens.Scripted, "result", staticmethod(predict))
    batcher = Batcher(served(specimens.Scripted, max_batch_size=40, max_waiting_items=1000))
    outcomes: dict[int, Any] = {}

    def ask(number: int) -> None:
        numbers = [number] * chance.choice([1, 1, 1, 7, 60])
        is_gone, seconds = chance.random() < 0.05, chance.choice([0.0, 0.0005, 10, 10, 10, 10])
        items = [{"n": number} for number in numbers]
        try:
            answers = batcher.predict(
                items, [item.copy() for item in items], seconds=seconds, is_gone=lambda: is_gone
            )
        except (ModelFailed, BadRequest, Overdue, Overloaded) as error:
            outcomes[number] = type(error)
        else:
            outcomes[number] = [answer["label"] for answer in answers] == numbers

    with ThreadPoolExecutor(32) as threads:
        list(threads.map(ask, range(10_000)))

    assert not [number for number, outcome in outcomes.items() if outcome is False]
    assert not [number for number in poisoned if outcomes[number] is True]
    assert {number for number, outcome in outcomes.items() if outcome is ModelFailed} <= poisoned
    assert len(outcomes) == 10_000
    assert sum(outcome is True for outcome in outcomes.values()) > 4_000
    assert not batcher._waiting
    assert batcher.n_waiting_items == 0


def prove_quick(batcher: Batcher) -> None:
    for _ in range(PROBATION_CALLS):
        batcher.predict([{"n": 1}], [{"n": 1}], seconds=10)
    wait_until(lambda: batcher.is_quick, "its thread to be idle", 10)
    batcher.predict([{"n": 1}], [{"n": 1}], seconds=10)


def test_a_model_that_has_proved_quick_is_called_by_the_thread_that_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[threading.Thread] = []

    def predict(items: list[JsonObject]) -> list[JsonObject]:
        threads.append(threading.current_thread())
        return [{"label": "x"} for _ in items]

    monkeypatch.setattr(specimens.Scripted, "result", staticmethod(predict))
    monkeypatch.setattr(quickness, "QUICK_SECONDS", 10)
    monkeypatch.setattr(quickness, "SLOW_SECONDS", 10)
    batcher = Batcher(served(specimens.Scripted))

    prove_quick(batcher)

    assert threading.current_thread() not in threads[:PROBATION_CALLS]
    assert threads[-1] is threading.current_thread()


def test_requests_of_a_quick_model_that_wait_go_alone(
    ask: Callable[..., Asking],
) -> None:
    asking = ask()
    for _ in range(PROBATION_CALLS - 2):  # so it seems quick, and has not proved it
        asking.batcher._quickness.judge(0)
    asking.busy()
    for number in range(3):
        asking.ask(number)

    asking.gate.open()
    wait_until(lambda: sum(map(len, asking.gate.calls)) == 4, "all calls", 10)
    assert [len(numbers) for numbers in asking.gate.calls] == [1, 1, 1, 1]


def test_one_slow_call_ends_that(ask: Callable[..., Asking], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickness, "QUICK_SECONDS", 10)
    asking = ask()
    asking.gate.may_end.release(PROBATION_CALLS)
    for _ in range(PROBATION_CALLS):
        asking.batcher.predict([{"n": 1}], [{"n": 1}], seconds=10)
    slow = asking.ask(1, seconds=10)
    threading.Event().wait(0.01)
    asking.gate.open()
    slow.result(10)

    assert asking.batcher.predict_quickly([{"n": 2}], [{"n": 2}]) is None


def test_a_quick_model_that_breaks_fails_its_own_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(items: list[JsonObject]) -> list[JsonObject]:
        if items[0]["n"] == 2:
            raise KeyboardInterrupt
        return [{"label": "x"} for _ in items]

    monkeypatch.setattr(specimens.Scripted, "result", staticmethod(predict))
    monkeypatch.setattr(quickness, "QUICK_SECONDS", 10)
    monkeypatch.setattr(quickness, "SLOW_SECONDS", 10)
    batcher = Batcher(served(specimens.Scripted))
    prove_quick(batcher)

    with pytest.raises(ModelFailed, match="broke off: KeyboardInterrupt"):
        batcher.predict_quickly([{"n": 2}], [{"n": 2}])
    assert batcher.predict_quickly([{"n": 3}], [{"n": 3}]) == [{"label": "x"}]


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickness.Quickness, "is_brisk", True)


def have_an_idle_thread(asking: Asking) -> None:
    first = asking.busy()
    asking.gate.may_end.release()
    assert first.result(10) == ["0"]
    wait_until(lambda: len(asking.batcher._idle) == 1, "the thread to be idle", 10)


@pytest.mark.usefixtures("brisk")
def test_a_lone_call_of_a_brisk_model_is_made_by_the_thread_that_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    askers: list[int] = []

    def predict(_self: object, items: list[JsonObject]) -> list[JsonObject]:
        askers.append(threading.get_ident())
        return [{"label": "x"} for _ in items]

    monkeypatch.setattr(specimens.Upper, "predict", predict)
    batcher = Batcher(served(specimens.Upper))
    for _ in range(3):
        assert batcher.predict([{"text": "a"}], None, seconds=30) == [{"label": "x"}]
        wait_until(lambda: len(batcher._idle) == 1, "the thread to be idle", 10)

    assert askers[0] != threading.get_ident()  # it began the thread
    assert askers[1:] == [threading.get_ident()] * 2


@pytest.mark.usefixtures("brisk")
def test_what_comes_while_a_caller_stands_in_is_one_batch_of_the_thread(ask: Callable[..., Asking]) -> None:
    asking = ask()
    have_an_idle_thread(asking)

    asking.busy()
    others = [asking.ask(number) for number in (1, 2, 3)]
    asking.gate.open()

    assert [other.result(10) for other in others] == [["1"], ["2"], ["3"]]
    assert asking.gate.calls == [[0], [0], [1, 2, 3]]


@pytest.mark.usefixtures("brisk")
def test_a_thread_whose_caller_stands_in_ends_when_it_is_retired_meanwhile(
    ask: Callable[..., Asking],
) -> None:
    asking = ask()
    have_an_idle_thread(asking)
    standing_in = asking.busy()

    asking.batcher.retire()
    assert asking.batcher._n_threads == 1
    asking.gate.open()

    assert standing_in.result(10) == ["0"]
    wait_until(lambda: asking.batcher._n_threads == 0, "the thread to end", 10)
    assert asking.ask(5).result(10) == ["5"]


def test_a_call_wakes_its_caller_once() -> None:
    woken: list[Call] = []
    call = Call([{}], None, seconds=1, wake=woken.append)

    call.answer([{"a": 1}])

    assert woken == [call]
    assert call.result() == [{"a": 1}]
