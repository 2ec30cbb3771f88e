"""Removes each guard of the queue in turn, and shows that the tests turn red: `make mutations`.

Each mutation is made in a copy of the tree, must change exactly one place per edit, and must make a test fail; an
error of collection or a crash of pytest does not count. First the same tests are run unchanged, and must pass.
SQLite alone, so that it is quick: the tests are the same on both databases.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
COPIED = ("app", "migrations", "tests", "pyproject.toml", "models.toml")
TIMEOUT_SECONDS = 300
AT_ONCE = 2
GREEN, RED = 0, 1  # pytest's exit codes: all passed, some failed

QUEUE, RESCUE, CONTROL = "app/jobs/queue.py", "app/jobs/rescue.py", "app/jobs/control.py"
LEDGER, STATES, STATEMENTS, AGAIN, INPUTS, RUNNER, INTAKE = (
    "app/jobs/ledger.py",
    "app/jobs/states.py",
    "app/jobs/statements.py",
    "app/jobs/again.py",
    "app/jobs/inputs.py",
    "app/runner.py",
    "app/intake.py",
)
CHUNK, MANIFESTS = "app/tasks/chunk.py", "app/jobs/manifests.py"
BACKLOG = "app/executors/backlog.py"


@dataclass(frozen=True)
class Mutation:
    """A guard, the edits that remove it, as (file, old, new), and the tests that should notice."""

    guard: str
    edits: tuple[tuple[str, str, str], ...]
    tests: str
    only: str = ""


MUTATIONS = (
    Mutation(
        "the epoch in finish",
        (
            (
                QUEUE,
                "[key for row in rows if (key := (row.id, row.epoch)) in keys]",
                "[key for row in rows for key in keys if key[0] == row.id]",
            ),
            (STATEMENTS, '        _chunks.c.epoch == bindparam("held_epoch"),\n', ""),
        ),
        "tests/jobs/test_rescue.py",
        "stale",
    ),
    Mutation(
        "the fence of new versions",
        (
            (
                QUEUE,
                "for result in held if isinstance(result, Trained)",
                "for result in results if isinstance(result, Trained)",
            ),
        ),
        "tests/jobs/test_trained.py",
        "stale",
    ),
    Mutation(
        "status = 'running' in finish",
        (
            (
                STATEMENTS,
                "_chunks.c.id.in_(_chunk_ids), _chunks.c.status == _RUNNING)",
                "_chunks.c.id.in_(_chunk_ids))",
            ),
            (
                STATEMENTS,
                "        _chunks.c.status == _RUNNING,\n    )\n    .values(\n",
                "    )\n    .values(\n",
            ),
        ),
        "tests/jobs/test_queue.py",
        "stale",
    ),
    Mutation(
        "the epoch in release and retry",
        ((QUEUE, " Chunk.epoch == claim.epoch,", ""),),
        "tests/jobs/test_rescue.py",
        "stale",
    ),
    Mutation(
        "status = 'running' in release and retry",
        (
            (
                QUEUE,
                "Chunk.epoch == claim.epoch, Chunk.status == ChunkState.RUNNING\n",
                "Chunk.epoch == claim.epoch\n",
            ),
        ),
        "tests/jobs/test_rescue.py",
        "has_ended",
    ),
    Mutation(
        "an epoch that rises",
        (
            (STATEMENTS, "        epoch=_chunks.c.epoch + 1,\n", ""),
            (QUEUE, "status=ChunkState.QUEUED, epoch=Chunk.epoch + 1,", "status=ChunkState.QUEUED,"),
            (RESCUE, ".values(epoch=Chunk.epoch + 1, lease", ".values(lease"),
        ),
        "tests/jobs/test_rescue.py",
        "stale",
    ),
    Mutation(
        "the attempt that a claim counts",
        ((STATEMENTS, "        attempts=_chunks.c.attempts + 1,\n", ""),),
        "tests/jobs/test_rescue.py",
        "transient",
    ),
    Mutation(
        "ready_at in claim",
        ((STATEMENTS, ", _chunks.c.ready_at <= utc_now())", ")"),),
        "tests/jobs/test_rescue.py",
        "rescued_once",
    ),
    Mutation(
        "what hangs is not renewed",
        ((STATEMENTS, '        _chunks.c.id.not_in(_ids("hung", BigInteger)),\n', ""),),
        "tests/jobs/test_rescue.py",
        "hangs",
    ),
    Mutation(
        "lease_until < now in rescue",
        (
            (
                RESCUE,
                "Chunk.status == ChunkState.RUNNING, Chunk.lease_until < utc_now())",
                "Chunk.status == ChunkState.RUNNING)",
            ),
            (RESCUE, "            Chunk.lease_until < utc_now(),\n", ""),
        ),
        "tests/jobs/test_rescue.py",
        "rescued_once",
    ),
    Mutation(
        "only who holds a chunk halves it",
        (
            (
                RESCUE,
                "if not put_back(session, claim, n_items=half, attempts=behind, crashes=behind):",
                "if put_back(session, claim, n_items=half, attempts=0) is None:",
            ),
        ),
        "tests/jobs/test_rescue.py",
        "stale",
    ),
    Mutation(
        "what comes back to a canceled job is canceled",
        ((RESCUE, "    cancel_leftovers(session, {each.claim.job_id for each in broken})\n", ""),),
        "tests/jobs/test_rescue.py",
        "canceled",
    ),
    Mutation(
        "cancel takes only what waits",
        ((CONTROL, "Chunk.job_id == job_id, Chunk.status.in_(WAITING))", "Chunk.job_id == job_id)"),),
        "tests/jobs/test_queue.py",
        "cancel",
    ),
    Mutation(
        "a job that ended cannot be canceled",
        (
            (
                CONTROL,
                '    if job.status in TERMINAL_JOB_STATES:\n        raise Conflict(f"job {job_id} has already',
                '    if False:\n        raise Conflict(f"job {job_id} has already',
            ),
        ),
        "tests/jobs/test_queue.py",
        "final",
    ),
    Mutation(
        "a job that ended cannot be abandoned",
        ((CONTROL, "job.status not in TERMINAL_JOB_STATES and job.error is None", "job.error is None"),),
        "tests/jobs/test_queue.py",
        "final",
    ),
    Mutation(
        "the window in enqueue",
        ((STATEMENTS, '_stored.c.seq < bindparam("window", type_=Integer)', "_stored.c.seq >= 0"),),
        "tests/jobs/test_queue.py",
        "window",
    ),
    Mutation(
        "what broke a run goes into its model alone",
        ((BACKLOG, " and claim.attempts == 1", ""),),
        "tests/executors/test_backlog.py",
        "alone",
    ),
    Mutation(
        "of a call that failed each chunk is run by itself",
        ((BACKLOG, "                self._pace(tasks[0]).failed()\n", "                pass\n"),),
        "tests/executors/test_backlog.py",
        "failed",
    ),
    Mutation(
        "an owner's backlog",
        (
            (
                CONTROL,
                "patience_seconds(priority, _backlog(session, name, owner))",
                "patience_seconds(priority, 0)",
            ),
        ),
        "tests/jobs/test_control.py",
        "many_jobs",
    ),
    Mutation(
        "a job needs a sealed input",
        ((CONTROL, 'if sealed.status != "sealed":', "if False:"),),
        "tests/jobs/test_queue.py",
        "sealed",
    ),
    Mutation(
        "an input is sealed once",
        (
            (
                STATEMENTS,
                '    _inputs.c.status == "receiving",\n    _inputs.c.pruned_at',
                "    _inputs.c.pruned_at",
            ),
        ),
        "tests/jobs/test_inputs.py",
        "sealed",
    ),
    Mutation(
        "the promotion of pending chunks",
        ((LEDGER, "    if jobs:\n", "    if False:\n"),),
        "tests/jobs/test_queue.py",
        "window",
    ),
    Mutation(
        "max_errors",
        ((STATES, "            n_errored > job.max_errors,\n", "            n_errored < 0,\n"),),
        "tests/jobs/test_control.py",
        "errors",
    ),
    Mutation(
        "who is on trial waits until nothing else runs",
        ((INTAKE, "                if self._held():\n", "                if False:\n"),),
        "tests/runner/test_trial.py",
        "waits",
    ),
    Mutation(
        "nothing runs beside who is on trial",
        ((INTAKE, "        if any(map(self._is_on_trial, held)):\n", "        if False:\n"),),
        "tests/runner/test_trial.py",
        "alone",
    ),
    Mutation(
        "a retry reopens only what failed",
        ((AGAIN, "Chunk.job_id == job_id, Chunk.status.in_(REOPENED))", "Chunk.job_id == job_id)"),),
        "tests/jobs/test_again.py",
        "only",
    ),
    Mutation(
        "the fence against results known to be lost",
        ((RUNNER, " if not self._leases.is_lost(result.claim)]", "]"),),
        "tests/runner/test_leases.py",
        "found_lost",
    ),
    Mutation(
        "who cannot renew does not claim",
        ((RUNNER, "        if self._leases.is_trusted:\n", "        if True:\n"),),
        "tests/runner/test_leases.py",
        "cannot_renew",
    ),
    Mutation(
        "the lease of what hangs is let go",
        ((RUNNER, "                self._leases.abandon(chunk.claim)\n", ""),),
        "tests/runner/test_hung.py",
        "not_renewed",
    ),
    Mutation(
        "the digest of what is read from an object",
        ((CHUNK, "        if not extent.is_of(found):\n", "        if False:\n"),),
        "tests/api/test_objects.py",
        "changed_or_went",
    ),
    Mutation(
        "a part's name is that of one run alone",
        ((CHUNK, "-c{claim.chunk_id}-e{claim.epoch}", ""),),
        "tests/jobs/test_manifests.py",
        "stale_runner",
    ),
    Mutation(
        "a manifest of an earlier end is written again",
        ((MANIFESTS, "or_(Job.id != job.id, Job.finished_at != job.finished_at)", "Job.id != job.id"),),
        "tests/jobs/test_manifests.py",
        "last_word",
    ),
)


def main() -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="twofold-mutations-") as folder:
        calm, selection = copy_tree(Path(folder) / "unchanged"), sorted({each.tests for each in MUTATIONS})
        status, report = run_tests(calm, [*selection, "-k", "not postgres"])
        if status != GREEN:
            sys.exit(f"the tests fail without any mutation:\n{report}")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            trees = [Path(folder) / str(number) for number in range(len(MUTATIONS))]
            outcomes = list(pool.map(try_mutation, MUTATIONS, trees))
    width = max(len(mutation.guard) for mutation in MUTATIONS)
    for mutation, outcome in zip(MUTATIONS, outcomes, strict=True):
        print(f"{mutation.guard:{width}}  {outcome}")
    n_survived = sum(not outcome.startswith("caught") for outcome in outcomes)
    seconds = time.monotonic() - started
    print(f"{len(MUTATIONS) - n_survived} of {len(MUTATIONS)} mutations caught in {seconds:.0f} seconds")
    sys.exit(1 if n_survived else 0)


def try_mutation(mutation: Mutation, tree: Path) -> str:
    """Runs the tests on a copy without the guard; "caught …", or what went wrong."""
    copy_tree(tree)
    for file, old, new in mutation.edits:
        path = tree / file
        source = path.read_text()
        if source.count(old) != 1:
            return f"DOES NOT APPLY: {source.count(old)} places in {file} read {old!r}"
        path.write_text(source.replace(old, new))
    started = time.monotonic()
    status, report = run_tests(tree, [mutation.tests, "-k", f"not postgres and {mutation.only}"])
    shutil.rmtree(tree)
    if status != RED:
        return f"SURVIVED (pytest's status {status}): {report.splitlines()[-1] if report else ''}"
    failed = next(line for line in report.splitlines() if line.startswith("FAILED"))
    return f"caught in {time.monotonic() - started:.1f} s by {failed.split('::')[1].split(' ')[0]}"


def copy_tree(tree: Path) -> Path:
    tree.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree / name)
    return tree


def run_tests(tree: Path, arguments: list[str]) -> tuple[int, str]:
    """pytest's status, and what it said; a status of -1 if it took too long."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments]
    try:
        done = subprocess.run(
            [*command, f"--basetemp={tree / 'tmp'}"],
            cwd=tree,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, f"took longer than {TIMEOUT_SECONDS} seconds"
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    main()
