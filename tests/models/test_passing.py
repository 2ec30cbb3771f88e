"""Models whose load fails in passing: they are loaded again, until they are ready or not wanted any more."""

import threading
from collections.abc import Callable, Iterator
from http.client import RemoteDisconnected
from pathlib import Path

import pytest
from marshmallow import Schema

from app.errors import Unavailable
from app.executors.loaded import load_once
from app.models import JsonObject
from app.models.declarations import Declaration
from app.models.registry import Registry
from app.models.served import ServedModel
from app.tasks.predict import TransientFailure
from tests.models.specimens import Dependent, Upper, declare, served
from tests.waiting import wait_until


class InPassing(Exception):
    transient = True


class LateToPredict(Dependent):
    """Loads, but cannot predict what warms it up."""

    def load(self, artifact: Path | None) -> None:
        Dependent.n_loads += 1


@pytest.fixture(autouse=True)
def away() -> Iterator[None]:
    Dependent.trouble, Dependent.n_loads = ConnectionRefusedError(111, "Connection refused"), 0
    yield
    Dependent.trouble = None


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.models.lineup.FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("app.models.lineup.MOST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def much_later(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A pause that ends when the test calls this."""
    pauses: list[threading.Event] = []

    def sleep(_seconds: float) -> None:
        pauses.append(threading.Event())
        assert pauses[-1].wait(30)

    monkeypatch.setattr("app.models.lineup.time.sleep", sleep)

    def end() -> None:
        for pause in pauses:
            pause.set()

    yield end
    end()


def begun(*declared: Declaration) -> Registry:
    """A registry whose models have failed once."""
    registry = Registry(declared)
    for model in registry.models():
        model.wait_ready(30)
    return registry


@pytest.mark.parametrize(
    "trouble",
    [ConnectionRefusedError(111, "no"), RemoteDisconnected("no"), TimeoutError("no"), InPassing("no")],
)
def test_what_fails_in_passing_is_loading_still_and_becomes_ready_by_itself(
    trouble: Exception, soon: None
) -> None:
    Dependent.trouble = trouble
    registry = begun(declare(Dependent))
    model = registry.get("specimen")

    wait_until(lambda: Dependent.n_loads > 2, "it to be loaded again and again")
    assert (model.state, registry.unready()) == ("loading", [model])
    with pytest.raises(Unavailable, match=r"is still loading: the last attempt failed: .*: .*no") as refused:
        model.predict([{"text": "a"}])
    assert refused.value.headers == {"Retry-After": "5"}

    Dependent.trouble = None
    wait_until(lambda: model.state == "ready", "it to be loaded")
    assert (model.reason, registry.unready()) == (None, [])
    assert model.predict([{"text": "a"}]) == [{"upper": "A"}]


@pytest.mark.parametrize("trouble", [FileNotFoundError(2, "no"), OSError("no"), ValueError("no")])
def test_what_fails_otherwise_has_failed_for_good(trouble: Exception) -> None:
    Dependent.trouble = trouble

    assert served(Dependent).state == "failed"


def test_a_warmup_that_fails_in_passing_is_a_load_that_does(soon: None) -> None:
    registry = begun(declare(LateToPredict, warmup=[{"text": "a"}]))
    model = registry.get("specimen")

    assert (model.state, str(model.reason)[:38]) == ("loading", "warmup: it raised ConnectionRefusedErr")
    Dependent.trouble = None
    wait_until(lambda: model.state == "ready", "it to be loaded")


def test_a_reload_loads_at_once_what_waits_for_its_next_load(much_later: Callable[[], None]) -> None:
    registry = begun(declare(Dependent))
    waiting = registry.get("specimen")
    wait_until(lambda: registry._lineup()._pausing, "it to wait")
    Dependent.trouble = None

    registry.replace([declare(Dependent)])

    assert registry.get("specimen").wait_ready(30)
    much_later()
    loads = f"load {waiting}"
    wait_until(lambda: loads not in {each.name for each in threading.enumerate()}, "the old one to be left")
    assert (waiting.state, Dependent.n_loads) == ("loading", 2)


def test_a_reload_leaves_alone_what_is_being_loaded_again(
    soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load, begun_again = threading.Event(), threading.Event()
    registry = begun(declare(Dependent))
    model = registry.get("specimen")

    def wait(_self: Dependent) -> None:
        begun_again.set()
        assert may_load.wait(30)

    monkeypatch.setattr(Dependent, "_ask", wait)
    assert begun_again.wait(30)
    n_loads = Dependent.n_loads
    registry.replace([declare(Dependent)])

    assert registry.get("specimen") is model
    may_load.set()
    wait_until(lambda: model.state == "ready", "it to be loaded")
    assert Dependent.n_loads == n_loads, "by nobody else"


def test_what_loads_after_all_others_is_hidden_from_the_garbage_collector_too(
    soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen: list[str] = []
    registry = begun(declare(Dependent))
    monkeypatch.setattr("app.models.registry.freeze", lambda: frozen.append("the others"))
    monkeypatch.setattr("app.models.lineup.freeze", lambda: frozen.append("what came later"))
    registry.freeze_when_loaded()
    wait_until(lambda: frozen == ["the others"], "the others to be hidden")

    Dependent.trouble = None

    wait_until(lambda: frozen == ["the others", "what came later"], "what came later to be hidden")


class Learning:
    """Learns from its weights what items are; those that it finds the second time say nothing of it."""

    Item: type[Schema]

    def load(self, artifact: Path | None) -> None:
        Dependent.n_loads += 1
        if Dependent.n_loads == 1:
            self.Item = Upper.Item

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        if Dependent.trouble is not None:
            raise Dependent.trouble
        return [{} for _ in items]


def test_nothing_stays_of_an_attempt_that_failed() -> None:
    model = served(Learning, warmup=[{"text": "a"}])
    assert (model.state, model.item_json_schema is None) == ("loading", False)

    Dependent.trouble = None
    model.load()

    assert (model.state, model.item_json_schema) == ("ready", None)


def test_what_is_served_is_served_on_while_its_successor_fails_in_passing(soon: None) -> None:
    registry = begun(declare(Upper))
    registry.replace([declare(Dependent)])
    wait_until(lambda: Dependent.n_loads > 1, "the successor to be loaded again")

    before = registry.get("specimen")
    assert (before.state, registry.unready()) == ("ready", [])
    successor = registry.successor(before)
    assert successor is not None
    assert str(successor.reason).startswith("ConnectionRefusedError")

    Dependent.trouble = None
    wait_until(lambda: registry.get("specimen") is successor, "the successor to take over")


def test_a_child_process_tries_it_again_with_its_next_chunk(tmp_path: Path) -> None:
    declared = declare(Dependent, name="dependent")
    with pytest.raises(TransientFailure, match="failed to load where its chunks run: ConnectionRefusedError"):
        load_once(declared, tmp_path)

    Dependent.trouble = None
    model: ServedModel = load_once(declared, tmp_path)
    assert model.state == "ready"
