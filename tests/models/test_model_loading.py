"""Loading a model: what load is given, and every way to fail with a reason."""

import threading
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.errors import Unavailable
from app.models.served import ServedModel
from tests.models import specimens
from tests.models.specimens import declare, served


def test_a_model_that_loads_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specimens.Slow, "may_load", threading.Event())
    model = ServedModel(declare(specimens.Slow))
    thread = threading.Thread(target=model.load)
    thread.start()

    assert (model.state, model.wait_ready(0)) == ("loading", False)
    with pytest.raises(Unavailable, match="model specimen 1 is still loading") as caught:
        model.predict([{}])
    assert int(caught.value.headers["Retry-After"]) > 0
    with pytest.raises(Unavailable):
        model.validate([{}])

    specimens.Slow.may_load.set()
    assert model.wait_ready(30)
    thread.join()
    assert (model.state, model.reason, model.predict([{}])) == ("ready", None, [{}])


def test_load_gets_the_artifact_and_the_options(tmp_path: Path) -> None:
    model = served(specimens.Options, artifact=str(tmp_path), options={"size": 3})

    assert model.state == "ready"
    assert model._model.loaded == (tmp_path, 3, "n")  # type: ignore[union-attr]  # the specimen's own


HERE = "tests.models.specimens"


@pytest.mark.parametrize(
    ("cls", "changes", "reason"),
    [
        ("no_such_module:C", {}, "there is no module 'no_such_module' in"),
        ("tests.models.absent:C", {}, "there is no module 'tests.models.absent' in"),
        (f"{HERE}:Absent", {}, f"{HERE} has no 'Absent': correct class"),
        (f"{HERE}:NOT_A_CLASS", {}, "(type Upper), not a class"),
        (specimens.NoPredict, {}, "has no method predict(self, items): add it"),
        (specimens.ItemIsNoSchema, {}, "Item is {'text': <class 'str'>} (type dict): make it a class Item("),
        (specimens.Abstract, {}, "is abstract: define embed"),
        (specimens.InitRaises, {}, "TypeError: InitRaises.__init__() missing 1 required"),
        (specimens.LoadRaises, {}, "OSError: weights are corrupt"),
        (specimens.LoadExits, {}, "SystemExit: 3"),
        (specimens.Upper, {"options": {"size": 3}}, "artifact or options are declared, but it has no load("),
        (specimens.Options, {"artifact": "/no/such/file"}, "artifact /no/such/file does not exist"),
        (
            specimens.Options,
            {"options": {"size": 3, "sise": 4}},
            "cannot be called with the declared options: got an unexpected keyword argument 'sise': change",
        ),
        (specimens.Options, {}, "missing a required"),
    ],
)
def test_a_load_that_fails_says_why_and_raises_nothing(
    cls: type | str, changes: dict[str, Any], reason: str
) -> None:
    with capture_logs() as logs:
        model = served(cls, **changes)

    assert model.state == "failed"
    assert model.reason is not None
    assert reason in model.reason
    assert not model.wait_ready()
    [event] = [event for event in logs if event["log_level"] == "error"]
    assert (event["model"], event["version"], event["reason"]) == ("specimen", "1", model.reason)
    assert isinstance(event["exc_info"], BaseException)
    for call in (model.predict, model.validate):
        with pytest.raises(Unavailable, match="model specimen 1 failed to load: "):
            call([{}])
