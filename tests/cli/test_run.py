"""`twofold run` as a real process with a model of the user's."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Start
from tests.jobs.conftest import Workshop
from tests.waiting import wait_until

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For what depends on the process alone."""
START_SECONDS = 60.0
"""A process imports for a second or two, and for much longer on a busy machine."""
DECLARED = """
[[model]]
name = "gate"
version = "1"
class = "gate:Gate"
"""
CRASHING = """
from pathlib import Path
from app.config import load_settings
from app.runner_process import run_process

def beat():
    if Path("at-0").exists():
        raise RuntimeError("the loop is broken")

run_process(load_settings(), heartbeat=beat)
"""
MODEL = '''
import pathlib, threading

class Gate:
    """Names the chunk it is at, and goes on once the file `open` is there."""

    def predict(self, items):
        pathlib.Path(f"at-{items[0]['id']}").touch()
        while not pathlib.Path("open").exists():
            threading.Event().wait(0.01)
        return [{"double": 2 * item["id"]} for item in items]
'''


@pytest.fixture
def gate(workshop: Workshop, bare: Path) -> Path:
    """The working directory of a runner whose model waits for a file."""
    (bare / "models.toml").write_text(DECLARED)
    (bare / "gate.py").write_text(MODEL)
    return bare


def test_run_runs_jobs_and_drains_on_sigterm(start: Start, workshop: Workshop, gate: Path) -> None:
    process = start("run")
    job_id = workshop.enqueue(n_items=60, chunk_items=2, model="gate")
    wait_until((gate / "at-0").exists, "the first chunk is in the model", START_SECONDS)

    process.terminate()
    (gate / "open").touch()

    assert process.wait(timeout=START_SECONDS) == 0
    chunks = workshop.select_all("SELECT status, n_succeeded FROM chunks ORDER BY first_item")
    assert {"status": "done", "n_succeeded": 2} in chunks
    assert "running" not in {chunk["status"] for chunk in chunks}
    assert workshop.select_all("SELECT count(*) AS n FROM runners WHERE stopped_at IS NOT NULL") == [{"n": 1}]
    workshop.check_books()

    process = start("run")  # what the first one gave back, the next one takes up
    wait_until(lambda: workshop.job(job_id)["status"] == "succeeded", "the job is done", START_SECONDS)
    process.terminate()
    assert process.wait(timeout=START_SECONDS) == 0
    assert workshop.answers(job_id) == [{"id": index, "double": 2 * index} for index in range(60)]
    workshop.check_books()


def again(process: subprocess.Popen[bytes], number: signal.Signals) -> Callable[[], bool]:
    """Sends a signal at each look, until the process is gone."""

    def look() -> bool:
        process.send_signal(number)
        return process.poll() is not None

    return look


@pytest.mark.parametrize(
    ("number", "database"),
    [(signal.SIGQUIT, "sqlite"), (signal.SIGINT, "postgres")],
    indirect=["database"],
)
def test_quit_or_a_second_interrupt_cuts_the_drain_short(
    number: signal.Signals, start: Start, workshop: Workshop, gate: Path
) -> None:
    process = start("run", "--drain-seconds", "600")
    job_id = workshop.enqueue(n_items=2, model="gate")
    wait_until((gate / "at-0").exists, "a chunk is in the model, which never ends", START_SECONDS)

    process.send_signal(number)
    wait_until(again(process, number), "the process has ended")

    _check_given_back(process, workshop, job_id)


@on_sqlite
def test_user_code_that_outlasts_the_drain_ends_with_the_process(
    start: Start, workshop: Workshop, gate: Path
) -> None:
    process = start("run", "--drain-seconds", "0")
    job_id = workshop.enqueue(n_items=2, model="gate")
    wait_until((gate / "at-0").exists, "a chunk is in the model, which never ends", START_SECONDS)

    process.terminate()

    process.wait(timeout=START_SECONDS)
    _check_given_back(process, workshop, job_id)


@on_sqlite
def test_a_crash_of_the_loop_ends_the_process_though_user_code_still_runs(
    start: Start, workshop: Workshop, gate: Path
) -> None:
    process = start(code=CRASHING)
    workshop.enqueue(model="gate")

    assert process.wait(timeout=START_SECONDS) == 1


@on_sqlite
def test_child_processes_log_as_the_runner_does(
    start: Start,
    workshop: Workshop,
    gate: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TWOFOLD_EXECUTOR", "process")
    monkeypatch.setenv("TWOFOLD_RUNNER_THREADS", "1")
    (gate / "open").touch()
    process = start("run")
    job_id = workshop.enqueue(model="gate")
    wait_until(lambda: workshop.job(job_id)["status"] == "succeeded", "the job is done", START_SECONDS)
    process.terminate()
    assert process.wait(timeout=START_SECONDS) == 0

    out, err = capfd.readouterr()
    assert out == ""
    told = [json.loads(line)["event"] for line in err.splitlines()]
    assert told.count("model_loaded") == 2, "in the runner and in its child"


@on_sqlite
def test_a_model_that_hangs_ends_the_process_so_that_a_supervisor_starts_another(
    start: Start, workshop: Workshop, gate: Path
) -> None:
    (gate / "models.toml").write_text(DECLARED + "chunk_timeout_seconds = 0.2\n")
    process = start("run")
    workshop.enqueue(model="gate")

    assert process.wait(timeout=START_SECONDS) == 1


def _check_given_back(process: subprocess.Popen[bytes], workshop: Workshop, job_id: str) -> None:
    assert process.returncode == 0
    chunks = workshop.select_all(
        "SELECT status, attempts, runner_id FROM chunks WHERE job_id = :id", id=job_id
    )
    assert chunks == [{"status": "queued", "attempts": 0, "runner_id": None}] * 2
    assert workshop.select_all("SELECT count(*) AS n FROM runners WHERE stopped_at IS NOT NULL") == [{"n": 1}]
    workshop.check_books()
