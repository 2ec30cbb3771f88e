"""Child processes: whatever one of them does, or is done to it, no chunk of another notices."""

import gc
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast
from weakref import ref

import orjson
import pytest

from app.data.chunks import pack
from app.executors import child as child_processes
from app.executors.child import CONTEXT, PIPE_BYTES, Child, called
from app.executors.outcomes import WorkerLost, result_of
from app.executors.processes import QUICK_SECONDS, ProcessExecutor
from app.jobs.claims import TRANSIENT, Broken, Claim, Done
from app.models.contract import ContractError
from app.tables import JobKind
from app.tasks.kinds import TaskAnswer
from app.tasks.predict import Stopwatch
from tests.executors.conftest import Lab, payload
from tests.process.conftest import is_alive
from tests.waiting import wait_until


@pytest.fixture
def lab(make_lab: Callable[[str], Lab]) -> Lab:
    """Two children, which have loaded the model."""
    lab = make_lab("process")
    wait_until(lambda: len(processes(lab.run([None], [None]))) == 2, "both to have had a chunk")
    return lab


@pytest.fixture
def made(lab: Lab) -> Iterator[Child]:
    """A child that no keeper has."""
    child = Child(lab.settings)
    yield child
    child.end()


def processes(results: Any) -> set[int]:
    return {orjson.loads(result.items)[0]["pid"] for result in results}


def children(lab: Lab) -> set[int]:
    """The processes of the children that there are."""
    keepers = cast(ProcessExecutor, lab.executor)._keepers
    return {keeper._child._process.pid or 0 for keeper in keepers if keeper._child is not None}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a pipe's size be set")
def test_a_pipe_takes_whole_chunks_that_nobody_reads_yet() -> None:
    reader, writer = CONTEXT.Pipe(duplex=False)
    with reader, writer:
        assert child_processes._widen(writer) == PIPE_BYTES
        os.set_blocking(writer.fileno(), False)
        assert os.write(writer.fileno(), bytes(PIPE_BYTES)) == PIPE_BYTES


@pytest.mark.parametrize(("act", "status"), [("kill", -9), ("exit", 3), ("segfault", -11)])
def test_a_child_that_dies_costs_the_chunk_that_it_ran_and_no_other(lab: Lab, act: str, status: int) -> None:
    """Also not those that it was given ahead, as quick chunks are."""
    results = lab.run(*[[None]] * 8, [None, act], *[[None]] * 20)

    (dead,) = [result for result in results if not isinstance(result, Done)]
    assert dead is results[8]
    assert isinstance(dead, Broken)
    assert (dead.code, dead.reason) == (
        "runner_crashed",
        f"the process that ran it died (exit code {status})",
    )


def test_children_that_are_killed_at_any_moment_hold_up_no_other(lab: Lab) -> None:
    """Each shares nothing with another that it could hold while it dies."""
    items = pack([orjson.dumps({"id": 0, "act": "much", "pad": "x" * PIPE_BYTES})])
    claims = [Claim(number, 1, "job", "unruly@1", 0, 1, 1, 0, items) for number in range(100)]
    submitted = lab.submit_claims(claims)
    keepers = cast(ProcessExecutor, lab.executor)._keepers
    for number in range(0, 80, 4):
        wait_until(submitted[number][0].done, f"chunk {number}", 30)
        if (victim := keepers[number // 4 % 2]._child) is not None:
            victim.kill()

    results = [result_of(future, claim) for future, claim in submitted]

    broken = [result for result in results if isinstance(result, Broken)]
    assert 1 <= len(broken) <= 20, "one for each that was killed"
    assert {result.code for result in broken} <= {"runner_crashed", TRANSIENT}
    assert all(isinstance(result, Broken | Done) for result in results)


def test_dead_children_leave_nothing_open(lab: Lab) -> None:
    """Without the collector of garbage, which looks seldom at what is old."""
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        for act in ("kill", "hang", "kill", "kill"):
            (broken,) = lab.run([act])
            assert isinstance(broken, Broken)
        assert all(isinstance(result, Done) for result in lab.run(*[[None]] * 8))
        left = len(os.listdir("/proc/self/fd")) - before
        assert left <= 4, "but of one or two ended processes that multiprocessing still counts"
    finally:
        gc.enable()


def test_an_answer_that_breaks_off_is_told_as_its_child_s_death(made: Child) -> None:
    made.begin(called(write_half, 1 << 20))

    with pytest.raises(WorkerLost, match=r"died \(exit code 3\)"):
        made.outcome(30)


def write_half(size: int) -> None:
    """What a process does that is killed in the middle of an answer."""
    (outcomes,) = (
        made
        for made in gc.get_objects()
        if isinstance(made, Connection) and made.writable and not made.closed
    )
    os.write(outcomes.fileno(), struct.pack("!i", size) + b"x" * 100)
    os._exit(3)


def test_what_a_model_forks_is_a_process_like_any_other(made: Child) -> None:
    made.begin(called(fork_and_end))

    assert made.outcome(30) == (-signal.SIGTERM, None)
    made.begin(called(fork_and_leave))
    with pytest.raises(WorkerLost, match=r"died \(exit code 3\)"):
        made.outcome(30)


def test_a_model_that_forks_and_returns_twice_answers_once(lab: Lab) -> None:
    """The fork's answers are nobody's: taken for the next chunk's, they would be wrong."""
    answers = []
    for number in range(6):
        claims = [
            Claim(
                n, 1, "job", "unruly@1", 0, 1, 1, 0, pack([orjson.dumps({"id": n, "act": "much", "pad": n})])
            )
            for n in range(20 * number, 20 * number + 20)
        ]
        answers += [orjson.loads(result.items)[0]["much"] for result in lab.run_claims(claims)]  # type: ignore[union-attr]  # a chunk that is not done has no items
        assert isinstance(lab.run(["fork"])[0], Done)
    assert answers == list(range(120))


def fork_and_end() -> int | None:
    forked = get_context("fork").Process(target=threading.Event().wait)
    forked.start()
    forked.terminate()
    forked.join()
    return forked.exitcode


def fork_and_leave() -> None:
    """Dies in the middle of an answer, and leaves a process of its own that goes on."""
    if not os.fork():
        threading.Event().wait(5)
        os._exit(0)
    write_half(1 << 20)


def test_a_fork_server_that_dies_costs_an_attempt_of_what_runs_and_no_more(lab: Lab, tmp_path: Path) -> None:
    """Another one is started. Its children are nobody's, and end with what they do."""
    before = children(lab)
    running = lab.submit(*[[f"hold {tmp_path}"]] * 2)
    wait_until(lambda: len(list(tmp_path.glob("in-*"))) == 2, "both to run")
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]  # multiprocessing tells it nowhere else

    os.kill(server, signal.SIGKILL)

    broken = [result for result in lab.told(running) if isinstance(result, Broken)]
    codes = {result.code for result in broken}
    assert {"runner_crashed"} <= codes <= {"runner_crashed", TRANSIENT}, (
        "the latter of what was just starting"
    )
    (tmp_path / "go").touch()
    wait_until(
        lambda: lab.run(["nap"], ["nap"]) and not any(map(is_alive, before)), "the end of its children"
    )
    assert all(isinstance(result, Done) for result in lab.run(*[[None]] * 6))


def test_no_chunk_waits_behind_a_training(lab: Lab, tmp_path: Path) -> None:
    pupil = lab.registry.get("pupil")
    items = pack(orjson.dumps({"text": text, "label": "x"}) for text in "ab")

    def train(**options: str) -> Future[TaskAnswer]:
        claim = Claim(1, 1, "job", "train:pupil@0", 0, 2, 1, 0, items, JobKind.TRAIN, options)
        return lab.executor.submit(pupil, claim, Stopwatch())

    def both_know_it_as_quick() -> bool:
        for future in [train() for _ in range(8)]:
            future.result(20)
        keepers = cast(ProcessExecutor, lab.executor)._keepers
        return all(keeper._loaded.get(ref(pupil), QUICK_SECONDS) < QUICK_SECONDS for keeper in keepers)

    wait_until(both_know_it_as_quick, "both children to have trained")
    (tmp_path / "hold").touch()
    napping = lab.submit(["nap"], ["nap"])  # so that there is something to take when the training begins

    held = train(hold=str(tmp_path / "hold"))
    results = lab.run(*[[None]] * 8)

    assert not held.done()
    assert all(isinstance(result, Done) for result in [*results, *lab.told(napping)])
    (tmp_path / "hold").unlink()
    held.result(20)


def test_while_no_child_can_be_started_chunks_wait_and_none_is_claimed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_start = threading.Event()

    def start(settings: Any) -> Child:
        if not may_start.is_set():
            raise OSError(24, "Too many open files")
        return Child(settings)

    monkeypatch.setattr("app.executors.processes.Child", start)
    monkeypatch.setattr("app.executors.processes.AWAY_SECONDS", 0.01)
    lab.run(["kill"], ["kill"])
    submitted = lab.submit(*[[None]] * 6)
    wait_until(lambda: lab.executor.slots(lab.served) == 0, "both to have no child")
    assert not any(future.done() for future, _ in submitted)

    may_start.set()

    assert all(isinstance(result, Done) for result in lab.told(submitted))
    wait_until(lambda: lab.executor.slots(lab.served) == 2, "both to have a child")


def test_children_that_die_while_they_wait_are_replaced(lab: Lab) -> None:
    keepers = cast(ProcessExecutor, lab.executor)._keepers
    for keeper in keepers:
        assert keeper._child is not None
        keeper._child.kill()
    wait_until(lambda: not any(keeper._child and keeper._child.is_alive for keeper in keepers), "their end")

    assert all(isinstance(result, Done) for result in lab.run(*[[None]] * 4))


def test_chunks_that_fill_the_pipes_are_not_given_ahead(lab: Lab) -> None:
    """Or runner and child would wait for each other to read, the one with a chunk and the other with an answer."""
    items = [orjson.dumps({"id": 0, "act": "much", "pad": "x" * (2 * PIPE_BYTES)})]
    claims = [Claim(number, 1, "job", "unruly@1", 0, 1, 1, 0, b"[%b]" % items[0]) for number in range(12)]
    results = lab.run_claims(claims)
    assert [len(result.items) > PIPE_BYTES for result in results if isinstance(result, Done)] == [True] * 12


def have_known_as_slow(lab: Lab) -> None:
    """So that no child gets a chunk ahead."""
    keepers = cast(ProcessExecutor, lab.executor)._keepers
    wait_until(  # what is known of a model is the time of the child's last chunk
        lambda: (
            lab.run(["nap"], ["nap"])
            and all(min(keeper._loaded.values()) >= QUICK_SECONDS for keeper in keepers)
        ),
        "both to know that it is slow",
    )


def test_a_slow_chunk_has_none_wait_behind_it_that_another_child_could_have(lab: Lab, tmp_path: Path) -> None:
    have_known_as_slow(lab)
    slow, *quick = lab.submit([f"hold {tmp_path}"], *[[None]] * 20)

    results = [result_of(future, claim) for future, claim in quick]

    assert not slow[0].done()
    assert all(isinstance(result, Done) for result in results)
    (tmp_path / "go").touch()
    assert isinstance(result_of(*slow), Done)


def test_no_chunk_is_given_ahead_while_a_child_has_nothing_to_do(lab: Lab, tmp_path: Path) -> None:
    both = lab.submit(*[[f"hold {tmp_path}"]] * 2)  # of a model that is known as quick
    wait_until(lambda: len(list(tmp_path.glob("in-*"))) == 2, "each to have one", 4)
    (tmp_path / "go").touch()
    assert all(isinstance(result, Done) for result in lab.told(both))


def test_what_no_child_has_begun_can_be_called_off(lab: Lab, tmp_path: Path) -> None:
    have_known_as_slow(lab)
    running = lab.submit(*[[f"hold {tmp_path}"]] * 2)
    wait_until(lambda: all(future.running() for future, _ in running), "both to run")
    waiting = lab.submit(*[[None]] * 5)

    assert [future.cancel() for future, _ in running + waiting] == [False] * 2 + [True] * 5

    (tmp_path / "go").touch()
    assert all(isinstance(result_of(future, claim), Done) for future, claim in running)
    assert isinstance(lab.run([None])[0], Done)


def test_a_model_that_kills_who_loads_it_costs_no_chunk_of_another(lab: Lab) -> None:
    fatal = lab.registry.get("fatal")
    fatal.wait_ready(10)
    claim = Claim(1, 1, "job", "fatal@1", 0, 1, 1, 0, payload([None]))

    submitted = [lab.executor.submit(fatal, claim, Stopwatch()) for _ in range(4)]
    results = lab.run(*[[None]] * 10)

    assert all(isinstance(result, Done) for result in results)
    for future in submitted:
        broken = result_of(future, claim)
        assert isinstance(broken, Broken)
        assert (broken.code, broken.reason) == (
            TRANSIENT,
            "model fatal 1 failed to load where its chunks run: the process that ran it died (exit code 3)",
        )


def test_a_model_that_has_gone_leaves_its_children_with_the_next_chunk_of_another(lab: Lab) -> None:
    before = children(lab)
    pupil, old = lab.registry.get("pupil"), lab.served

    lab.registry.replace([pupil.declaration])
    wait_until(lambda: lab.registry.models() == [pupil], "the other to be alone")
    assert processes(lab.run(*[[None]] * 4)) <= before, "its own chunks are still done"
    items = payload([None]).replace(b'"act"', b'"text":"a","label"')
    claim = Claim(1, 1, "job", "train:pupil@0", 0, 1, 1, 0, items)
    lab.executor.submit(pupil, claim, Stopwatch()).exception(20)

    keepers = cast(ProcessExecutor, lab.executor)._keepers
    assert sorted(len(keeper._loaded) for keeper in keepers) == [1, 1]
    assert [next(iter(keeper._loaded))() for keeper in keepers].count(old) == 1


def test_signals_to_all_processes_of_a_service_are_the_runner_s_alone(lab: Lab) -> None:
    """As systemd and terminals send them."""
    known = children(lab)
    running = lab.submit(["nap"], ["nap"])
    wait_until(lambda: all(future.running() for future, _ in running), "both to run")

    for child in known:
        os.kill(child, signal.SIGTERM)
        os.kill(child, signal.SIGINT)

    assert all(isinstance(result_of(future, claim), Done) for future, claim in running)
    assert processes(lab.run([None], [None])) <= known


class Stubborn:
    """Can be sent, and not be made anew."""

    def __repr__(self) -> str:
        return "a stubborn thing"

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


def fail(how: str) -> None:
    match how:
        case "plainly":
            raise KeyError("this")
        case "stubbornly":
            raise ValueError(Stubborn())
        case "with a lock":
            raise ValueError(threading.Lock())
        case "by an end":
            sys.exit(3)


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("plainly", KeyError, "'this'"),
        ("stubbornly", ContractError, "ValueError: a stubborn thing"),
        ("with a lock", ContractError, "ValueError: <unlocked _thread.lock"),
        ("by an end", SystemExit, "3"),
    ],
)
def test_an_exception_comes_back_or_is_told_in_words(how: str, kind: type[Exception], message: str) -> None:
    value, error = child_processes._read(child_processes._make(called(fail, how)))

    assert value is None
    assert type(error) is kind
    assert str(error).startswith(message)
    if kind is not ContractError:
        assert "in fail" in error.__notes__[0], "where it was raised"
