"""Model classes that can be trained: each writes what it learned in its own form, or breaks the contract in one way."""

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from marshmallow import Schema, fields

from app.models import JsonObject

Items = list[JsonObject]


class Pupil:
    """Learns which label is the most frequent one, and predicts it for everything."""

    class Item(Schema):
        text = fields.String(required=True)

    class TrainItem(Item):
        label = fields.String(required=True)

    class Prediction(Schema):
        guess = fields.String()

    def load(self, artifact: Path | None) -> None:
        assert artifact is not None
        self.guess = orjson.loads(artifact.read_bytes())["guess"]

    def train(
        self,
        items: Items,
        artifact: Path,
        *,
        progress: Callable[[float], None],
        act: str = "",
        hold: str = "",
        seed: int = 0,
    ) -> JsonObject:
        """`act` is what it does besides; while there is a file `hold`, it is half-way, and does not return."""
        do(act)
        if hold:
            progress(0.5)
        while hold and Path(hold).exists():
            Path(hold).with_name("begun").touch()
            threading.Event().wait(0.02)
        ((guess, n_most),) = Counter(item["label"] for item in items).most_common(1)
        artifact.write_bytes(orjson.dumps({"guess": guess}))
        return {"accuracy": n_most / len(items), "n_train": len(items), "pid": os.getpid(), "seed": seed}

    def predict(self, items: Items) -> Items:
        return [{"guess": self.guess} for _ in items]


class Folders(Pupil):
    """Keeps its weights in a folder."""

    def train(self, items: Items, artifact: Path, **_: Any) -> JsonObject:
        (artifact / "deep").mkdir(parents=True)
        (artifact / "deep" / "guess").write_text(items[0]["label"])
        (artifact / "empty").touch()
        return {}

    def load(self, artifact: Path | None) -> None:
        assert artifact is not None
        self.guess = (artifact / "deep" / "guess").read_text()


class Silent(Pupil):
    """Writes where it was not told to."""

    def train(self, items: Items, artifact: Path, **_: Any) -> JsonObject:
        artifact.with_suffix(".npz").touch()
        return {}


class Boastful(Pupil):
    """Returns as its metrics whatever its option `metrics` names."""

    def train(self, items: Items, artifact: Path, *, metrics: str = "", **_: Any) -> Any:
        artifact.touch()
        return {"none": None, "strange": {"a": {1, 2}}, "nan": {"loss": float("nan")}}[metrics]


def do(act: str) -> None:
    match act:
        case "raise":
            raise ValueError("one label is not enough")
        case "exit":
            sys.exit(3)
        case "disconnect":
            raise ConnectionResetError("the feature store hung up")
        case "exhaust":
            raise MemoryError
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
