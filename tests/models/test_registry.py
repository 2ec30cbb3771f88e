"""The registry: which model a name means, and one load per process."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.errors import NotFound
from app.models.registry import Registry
from tests.models import specimens
from tests.models.specimens import declare

ROOT = Path(__file__).parents[2]


def test_a_name_means_its_default_version_and_a_version_means_itself() -> None:
    registry = Registry(
        [
            declare(specimens.Upper, name="b", version="1", default=False),
            declare(specimens.Upper, name="b", version="2"),
            declare(specimens.Upper, name="a"),
        ]
    )

    assert registry.get("b").declaration.version == "2"
    assert registry.get("b", "1").declaration.version == "1"
    assert registry.default("a") is registry.get("a", "1")
    assert registry.default() is registry.get("b", "2")
    assert [str(served) for served in registry.models()] == ["model b 1", "model b 2", "model a 1"]
    assert all(served.wait_ready(30) for served in registry.models())


def test_what_is_not_there_names_what_is() -> None:
    registry = Registry([declare(specimens.Upper, name="b"), declare(specimens.Upper, name="a")])

    with pytest.raises(NotFound, match="No model is named 'x': there is b, a"):
        registry.get("x")
    with pytest.raises(NotFound, match="Model 'b' has no version '9': there is 1"):
        registry.get("b", "9")
    assert all(served.wait_ready(30) for served in registry.models())


def test_a_slow_or_broken_model_holds_no_other_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specimens.Slow, "may_load", threading.Event())
    registry = Registry(
        [
            declare(specimens.Slow, name="slow"),
            declare(specimens.LoadExits, name="broken"),
            declare(specimens.Upper, name="good"),
        ]
    )

    registry.start()

    assert registry.get("good").wait_ready(30)
    assert not registry.get("broken").wait_ready(30)
    assert [(str(s), s.state, s.reason) for s in registry.unready()] == [
        ("model slow 1", "loading", None),
        ("model broken 1", "failed", "SystemExit: 3"),
    ]
    specimens.Slow.may_load.set()
    assert registry.get("slow").wait_ready(30)
    assert [str(s) for s in registry.unready()] == ["model broken 1"]


def test_each_version_is_loaded_once_however_many_threads_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[object] = []
    monkeypatch.setattr(specimens.Upper, "load", lambda self, artifact: loads.append(self), raising=False)
    registry = Registry([declare(specimens.Upper)])
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait(30)
        registry.start()
        assert registry.get("specimen").wait_ready(30)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(loads) == 1


def run_python(script: str, directory: Path, *arguments: str) -> str:
    """What a fresh interpreter prints, which sees this project, and for `-c` the directory, on its path."""
    done = subprocess.run(
        [sys.executable, "-P", *arguments, "-c", script],
        cwd=directory,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_forked_process_loads_its_own_models(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "class Mine:\n"
        "    def load(self, artifact): self.process = os.getpid()\n"
        "    def predict(self, items): return [{'process': self.process} for _ in items]\n"
    )
    script = """
import os
from app.models.registry import Registry
from tests.models.specimens import declare

def loaded_in():
    served = registry.get("specimen")
    assert served.wait_ready(30), served.reason
    return served.predict([{}])[0]["process"]

def fork_and_check():
    child = os.fork()
    if not child:
        os._exit(0 if loaded_in() == os.getpid() else 9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

registry = Registry([declare("mine:Mine")])
fork_and_check()  # made before the fork, not loaded
assert loaded_in() == os.getpid()
fork_and_check()  # loaded before the fork
print("each its own")
"""

    assert "each its own" in run_python(script, tmp_path)


def test_what_is_preloaded_is_loaded_once_for_all_processes_forked_from_there(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "class Mine:\n"
        "    def load(self, artifact, breaks=False):\n"
        "        self.process = os.getpid()\n"
        "        assert not breaks\n"
        "    def predict(self, items): return [{'process': self.process} for _ in items]\n"
    )
    script = """
import os
from pathlib import Path
from app.models.preloading import preload
from app.models.registry import Registry
from tests.models.specimens import declare
from tests.waiting import wait_until

declared = [
    declare("mine:Mine", name="shared", preload=True),
    declare("mine:Mine", name="own"),
    declare("mine:Mine", name="broken", preload=True, options={"breaks": True}),
]
preload([each for each in declared if each.preload], Path("unused"))
parent = os.getpid()
registry = Registry(declared)
child = os.fork()
if not child:
    shared, own, broken = registry.models()
    assert shared.state == "ready", "at once"
    assert shared.predict([{}]) == [{"process": parent}]
    assert own.wait_ready(30) and own.predict([{}]) == [{"process": os.getpid()}]
    assert not broken.wait_ready(30) and broken.reason.startswith("AssertionError")
    registry.replace([declare("mine:Mine", name="shared", preload=True, options={"breaks": False})])
    wait_until(lambda: registry.get("shared") is not shared, "the successor to take its place")
    assert registry.get("shared").predict([{}]) == [{"process": os.getpid()}]
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("one for all")
"""

    assert "one for all" in run_python(script, tmp_path)


def test_a_ten_line_model_is_imported_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "shout.py").write_text(
        """\
from marshmallow import Schema, fields


class Shout:
    class Item(Schema):
        text = fields.String(required=True)

    def predict(self, items):
        return [{"loud": item["text"].upper()} for item in items]
"""
    )
    (tmp_path / "models.toml").write_text('[[model]]\nname = "shout"\nversion = "1"\nclass = "shout:Shout"\n')
    script = """
from pathlib import Path
from app.models.declarations import read_declarations
from app.models.registry import Registry

served = Registry(read_declarations(Path("models.toml"))).get("shout")
assert served.wait_ready(30), served.reason
items, refused = served.validate([{"text": "a"}, {"text": 1}])
print(served.predict(items), refused[0][0])
"""

    # -P leaves the working directory out of sys.path, as a console script does.
    assert run_python(script, tmp_path).splitlines()[-1] == "[{'loud': 'A'}] 1"


def test_a_module_that_misses_an_import_of_its_own_names_that_import(tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text("import no_such_library\n")
    script = """
from app.models.registry import Registry
from tests.models.specimens import declare
served = Registry([declare("needy:Needy")]).get("specimen")
served.wait_ready(30)
print(served.reason)
"""

    last = run_python(script, tmp_path).splitlines()[-1]

    assert last == "ModuleNotFoundError: No module named 'no_such_library'"
