"""Models that take each other's place in a process that goes on serving."""

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.errors import NotFound, Unavailable
from app.models import JsonObject
from app.models.declarations import Declaration
from app.models.registry import Registry
from app.models.served import ServedModel
from tests.models import specimens
from tests.models.pupils import Pupil
from tests.models.specimens import Upper, declare
from tests.waiting import wait_until


class Numbered(Upper):
    """Answers with a number of its own; one whose number is in `closed` waits until the test takes it out."""

    closed: set[int] = set()  # noqa: RUF012 — shared by all, as the test's own
    changed = threading.Condition()

    def load(self, artifact: Path | None, *, number: int = 0) -> None:
        self.number = number
        with Numbered.changed:
            assert Numbered.changed.wait_for(lambda: number not in Numbered.closed, 30)

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        return [{"upper": str(self.number)} for _ in items]


@pytest.fixture(autouse=True)
def opened() -> Iterator[None]:
    yield
    let(*Numbered.closed)


def let(*numbers: int) -> None:
    with Numbered.changed:
        Numbered.closed.difference_update(numbers)
        Numbered.changed.notify_all()


def number(n: int, version: str = "1", **changes: Any) -> Declaration:
    return declare(Numbered, version=version, options={"number": n}, **changes)


def ready(*declared: Declaration) -> Registry:
    registry = Registry(declared)
    assert all(served.wait_ready(30) for served in registry.models())
    return registry


def ask(registry: Registry, version: str | None = None) -> str:
    """The number of what answers."""
    served = registry.get("specimen", version)
    (prediction,) = registry.batcher(served).predict([{"text": "a"}], None, seconds=10)
    return str(prediction["upper"])


def told(registry: Registry) -> list[str]:
    return [f"{served.declaration.version} {served.state}" for served in registry.models()]


def test_a_new_default_takes_over_when_it_is_ready_and_the_old_one_goes() -> None:
    registry = ready(number(1))
    Numbered.closed.add(2)

    registry.replace([number(2, "2")])

    assert (ask(registry), ask(registry, "1")) == ("1", "1")
    assert told(registry) == ["2 loading", "1 ready"]
    assert registry.defaults() == {"specimen": "1"}
    assert registry.unready() == []
    let(2)
    wait_until(lambda: ask(registry) == "2", "the new default")
    assert told(registry) == ["2 ready"]
    assert registry.defaults() == {"specimen": "2"}
    assert registry.default() is registry.get("specimen", "2")
    assert registry.is_default(registry.default())
    with pytest.raises(NotFound, match="has no version '1': there is 2"):
        registry.get("specimen", "1")


def test_a_default_moves_at_once_to_a_version_that_is_there() -> None:
    one, two = number(1), number(2, "2", default=False)
    registry = ready(one, two)
    before = registry.models()

    registry.replace([number(1, default=False), number(2, "2")])

    assert ask(registry) == "2"
    assert registry.models() == before, "which version is the default is no reason to load"


def test_a_version_that_is_declared_anew_is_loaded_beside_the_old() -> None:
    registry = ready(number(1))
    Numbered.closed.add(2)

    registry.replace([number(2)])

    old = registry.get("specimen", "1")
    successor = registry.successor(old)
    assert successor is not None
    assert (ask(registry), successor.state) == ("1", "loading")
    let(2)
    wait_until(lambda: ask(registry, "1") == "2", "the successor")
    assert registry.default() is successor
    assert registry.successor(successor) is None


@pytest.mark.parametrize("version", ["1", "2"])
def test_one_that_fails_to_load_leaves_the_old_one_serving_and_is_named(version: str) -> None:
    registry = ready(number(1))

    registry.replace([declare(specimens.LoadRaises, version=version)])

    def failed() -> ServedModel | None:
        named = [registry.successor(served) or served for served in registry.models()]
        return next((served for served in named if served.state == "failed"), None)

    served = wait_until(failed, "the failure")
    assert served.reason == "OSError: weights are corrupt"
    assert ask(registry) == "1"
    assert registry.unready() == [], "what came later keeps nobody out"
    if version == "2":
        with pytest.raises(Unavailable, match="model specimen 2 failed to load"):
            registry.get("specimen", "2").predict([{}])
    registry.replace([number(3, version)])
    wait_until(lambda: ask(registry) == "3", "the one that mends it")
    assert told(registry) == [f"{version} ready"]


def test_what_failed_is_tried_again_by_the_same_reload_and_what_is_there_is_not(tmp_path: Path) -> None:
    artifact = tmp_path / "weights"
    declared = [declare(specimens.Reader, artifact=str(artifact)), declare(Upper, name="other")]
    registry = Registry(declared)
    other = registry.get("other")
    assert other.wait_ready(30)
    assert not registry.get("specimen").wait_ready(30)
    assert [str(served) for served in registry.unready()] == ["model specimen 1"]

    artifact.touch()
    registry.replace(declared)

    assert registry.get("specimen").wait_ready(30)
    assert registry.get("other") is other
    assert registry.unready() == []


def test_the_last_of_many_reloads_holds_whatever_ends_loading_first() -> None:
    registry = ready(number(1))
    Numbered.closed.update({2, 3})

    registry.replace([number(2)])
    registry.replace([number(3)])
    let(2)
    registry.replace([number(3)])
    assert ask(registry) == "1"
    let(3)

    wait_until(lambda: ask(registry) == "3", "the last")
    assert told(registry) == ["1 ready"]
    Numbered.closed.add(4)
    registry.replace([number(4)])
    registry.replace([number(3)])
    assert registry.successor(registry.default()) is None, "back to what answers: nothing is awaited"


def test_a_name_that_is_no_longer_declared_goes_at_once_and_a_new_one_comes() -> None:
    registry = ready(number(1), declare(Upper, name="gone"))

    registry.replace([declare(Upper, name="new"), number(1)])

    assert [str(served) for served in registry.models()] == ["model new 1", "model specimen 1"]
    assert registry.default() is registry.get("new")
    assert registry.get("new").wait_ready(30)
    with pytest.raises(NotFound, match="there is new, specimen"):
        registry.get("gone")


def test_requests_under_way_end_with_the_model_they_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specimens.Gate, "opened", threading.Event())
    monkeypatch.setattr(specimens.Gate, "entered", threading.Semaphore(0))
    registry = ready(declare(specimens.Gate))
    batcher, old = registry.batcher(registry.default()), registry.default()
    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(batcher.predict, [{}], None, seconds=20)
        assert specimens.Gate.entered.acquire(timeout=10)
        waiting = pool.submit(batcher.predict, [{}], None, seconds=20)
        wait_until(lambda: batcher.n_waiting_items == 1, "one to wait")

        registry.replace([number(1)])
        wait_until(lambda: registry.default() is not old, "the new one")
        late = pool.submit(registry.batcher(old).predict, [{}], None, seconds=20)
        assert not any(call.done() for call in (running, waiting, late))
        specimens.Gate.opened.set()

        assert [call.result(20) for call in (running, waiting, late)] == [[{}]] * 3


def test_what_has_gone_is_let_go_with_its_threads() -> None:
    registry = ready(number(1))
    before = threading.enumerate()
    ask(registry)
    model = weakref.ref(registry.default()._model)
    (thread,) = [thread for thread in threading.enumerate() if thread not in before]

    registry.replace([number(2, "2")])

    wait_until(lambda: ask(registry) == "2", "the new one")
    thread.join(10)
    assert not thread.is_alive()
    wait_until(lambda: model() is None, "the old one to be forgotten")


def test_a_frozen_process_collects_an_old_model_that_refers_to_itself(
    monkeypatch: pytest.MonkeyPatch, unfrozen: None
) -> None:
    def load(self: Numbered, artifact: Path | None, *, number: int = 0) -> None:
        self.number, self.itself = number, self  # type: ignore[attr-defined]

    monkeypatch.setattr(Numbered, "load", load)
    registry = ready(number(1))
    registry._freeze_when_loaded()
    model = weakref.ref(registry.default()._model)

    registry.replace([number(2, "2")])

    wait_until(lambda: ask(registry) == "2", "the new one")
    wait_until(lambda: model() is None, "the old one to be collected")


@pytest.fixture
def unfrozen() -> Iterator[None]:
    """Leaves the collector as it was."""
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


def test_requests_are_answered_by_one_or_the_other_while_models_take_turns() -> None:
    registry = ready(number(0))
    have_asked = threading.Barrier(5)
    is_over = threading.Event()

    def keep_asking() -> set[str]:
        seen = {ask(registry)}
        have_asked.wait(20)
        while not is_over.is_set():
            seen.add(ask(registry))
        return seen | {ask(registry)}

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking) for _ in range(4)]
        have_asked.wait(20)
        for turn in range(1, 30):
            registry.replace([number(turn, str(turn % 3))])
            wait_until(lambda: ask(registry) == str(turn), "the turn")  # noqa: B023 — awaited at once
        is_over.set()
        seen = set[str]().union(*[each.result(20) for each in asking])

    assert {"0", "29"} <= seen
    assert told(registry) == ["2 ready"]


def test_an_untrained_version_that_a_reload_breaks_keeps_nobody_out() -> None:
    registry = Registry([declare(Pupil, name="pupil"), number(1)])
    assert all(served.wait_ready(30) or served.state == "untrained" for served in registry.models())
    assert registry.unready() == []

    registry.replace([declare(Pupil, name="pupil", artifact="/nowhere/at/all"), number(1)])

    wait_until(lambda: registry.get("pupil").state == "failed", "it to have failed to load")
    assert registry.unready() == []
