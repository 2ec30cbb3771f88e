"""A model that does what each item asks of it: in a process of its own it may be killed for that."""

import ctypes
import multiprocessing
import os
import re
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.models import JsonObject

n_loads = 0
"""In this process."""


class Panic(BaseException):
    """As Rust's are; and it cannot say what happened."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Unruly:
    """`{"act": …}`; without it, the answer is the process that gave it, and how often that has loaded the model."""

    def load(self, artifact: Path | None) -> None:
        global n_loads
        n_loads += 1

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        for item in items:
            act(item.get("act"))
        told = {"pid": os.getpid(), "thread": threading.get_ident(), "loads": n_loads}
        more: list[JsonObject] = []
        for item in items:
            match item.get("act"):
                case "much":
                    more.append({"much": item["pad"]})
                case "size":
                    more.append({"size": len(items)})
                case _:
                    more.append({})
        return [told | each for each in more]


class Fatal(Unruly):
    """Its `load` ends every process but the one of its runner."""

    def load(self, artifact: Path | None) -> None:
        if multiprocessing.parent_process() is not None:
            os._exit(3)


class Lame(Unruly):
    """Loads in no child that has taken a name, which the first one does."""

    def load(self, artifact: Path | None) -> None:
        if artifact is None or multiprocessing.parent_process() is None:
            return
        with suppress(FileExistsError):
            (artifact / "lame").symlink_to(str(os.getpid()))
        if os.readlink(artifact / "lame") == str(os.getpid()):
            raise ImportError("there is no module of this name")


def act(what: Any) -> None:
    match what:
        case "raise":
            raise ValueError("not this one")
        case "panic":
            raise Panic
        case "fork":
            os.fork()  # both go on, and return
        case "disconnect":
            raise ConnectionResetError("the feature store hung up")
        case "exhaust":
            raise MemoryError
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "nap":
            threading.Event().wait(0.3)
        case str(hold) if hold.startswith("hold "):
            folder = Path(hold.removeprefix("hold "))
            (folder / f"in-{os.getpid()}").touch()
            while not (folder / "go").exists():
                threading.Event().wait(0.02)
        case "seize":
            re.match("(a+)+$", "a" * 60 + "b")  # for years, and without letting go of the interpreter
        case "hang":
            threading.Event().wait(60)
