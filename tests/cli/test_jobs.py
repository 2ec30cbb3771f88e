"""`twofold jobs`, on both databases."""

import os
import re
import socket

import orjson
import pytest
from sqlalchemy import update

from app.jobs import presence
from app.jobs.claims import Failed
from app.jobs.ids import new_id
from app.tables import Runner
from tests.cli.conftest import Twofold
from tests.jobs.conftest import Workshop, done

RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def test_list_shows_jobs_newest_first_as_a_plain_table(twofold: Twofold, workshop: Workshop) -> None:
    old, new = workshop.enqueue(n_items=3), workshop.enqueue(n_items=12)
    workshop.finish(done(workshop.claim()[0]))

    result = twofold("jobs", "list")

    assert result.exit_code == 0
    header, *lines = [line.split() for line in result.stdout.splitlines()]
    assert header == [
        *("id", "status", "model", "version", "total", "succeeded", "errored", "canceled", "created_at")
    ]
    assert [line[:-1] for line in lines] == [
        [new, "queued", "sentiment", "1", "12", "0", "0", "0"],
        [old, "running", "sentiment", "1", "3", "1", "0", "0"],
    ]
    assert all(RFC_3339_UTC.fullmatch(line[-1]) for line in lines)


def test_list_filters_and_limits(twofold: Twofold, workshop: Workshop) -> None:
    first, second, other = workshop.enqueue(), workshop.enqueue(), workshop.enqueue(model="other")
    workshop.cancel(first)

    def ids(*options: str) -> list[str]:
        return [job["id"] for job in orjson.loads(twofold("jobs", "list", "--json", *options).stdout)]

    assert ids() == [other, second, first]
    assert ids("--status", "queued") == [other, second]
    assert ids("--model", "sentiment") == [second, first]
    assert ids("--limit", "1") == [other]
    assert ids("--status", "failed") == []


def test_show_tells_the_job_its_events_and_its_errors(twofold: Twofold, workshop: Workshop) -> None:
    job_id, runner_id = workshop.enqueue(n_items=8, chunk_items=4), new_id()
    with workshop.database.writing() as session:
        presence.register(session, runner_id, threads=1)
    first, second = workshop.claim(limit=2, runner_id=runner_id)
    workshop.finish(done(first, 2), Failed(second, "out of [bold]memory\x1b[31m\nat line 1"))

    result = twofold("jobs", "show", job_id)

    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert ["status", "partial"] in [line.split() for line in lines]
    assert ["errored", "5"] in [line.split() for line in lines]
    started = next(line.split() for line in lines if " started " in line)
    assert started[2] == f"{socket.gethostname()}:{os.getpid()}"
    assert "Errors: the first 5 of 5" in lines
    assert lines[-5:] == [
        "    2  model_failed  no",
        *(
            f"    {index}  chunk_failed  out of [bold]memory\N{REPLACEMENT CHARACTER}[31m at line 1"
            for index in range(4, 8)
        ),
    ]


def test_show_as_json_has_the_names_of_the_api(twofold: Twofold, workshop: Workshop) -> None:
    job_id, runner_id = workshop.enqueue(n_items=2, chunk_items=2, priority=-3), new_id()
    with workshop.database.writing() as session:
        presence.register(session, runner_id, threads=1)
    workshop.finish(done(workshop.claim(runner_id=runner_id)[0], 1))

    job = orjson.loads(twofold("jobs", "show", job_id, "--json").stdout)

    times = [job.pop(name) for name in ("created_at", "started_at", "finished_at")]
    times += [event.pop("at") for event in job["events"]]
    assert all(RFC_3339_UTC.fullmatch(time) for time in times)
    runner = f"{socket.gethostname()}:{os.getpid()}"
    nobody = {"first_item": None, "runner_id": None, "runner": None}
    assert job == {
        "id": job_id,
        "kind": "predict",
        "model": "sentiment",
        "version": "1",
        "status": "partial",
        "input_id": str(workshop.job(job_id)["input_id"]),
        "counts": {"total": 2, "succeeded": 1, "errored": 1, "canceled": 0, "cached": 0},
        "priority": -3,
        "run_at": None,
        "max_errors": None,
        "expires_at": None,
        "pruned_at": None,
        "output_url": None,
        "manifest_url": None,
        "error": None,
        "events": [
            {"event": "created", "detail": "2 items for sentiment 1", **nobody},
            {"event": "started", "detail": None, **nobody, "runner_id": runner_id, "runner": runner},
            {"event": "finished", "detail": "partial", **nobody},
        ],
        "errors": [{"index": 1, "code": "model_failed", "message": "no"}],
    }


def test_cancel_stops_a_job_once(twofold: Twofold, workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=3)

    assert twofold("jobs", "cancel", job_id).stdout == f"job {job_id} is canceled\n"
    assert workshop.job(job_id)["status"] == "canceled"

    again = twofold("jobs", "cancel", job_id)
    assert (again.exit_code, again.stdout) == (1, "")
    assert again.stderr == f"twofold: job {job_id} has already ended: it is canceled\n"


def test_cancel_says_that_what_runs_still_finishes(twofold: Twofold, workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=3)
    (claim,) = workshop.claim()

    assert twofold("jobs", "cancel", job_id).stdout == f"job {job_id} is canceling\n"

    workshop.finish(done(claim))
    assert workshop.job(job_id)["status"] == "canceled"
    workshop.check_books()


def test_show_tells_who_rescued_a_chunk_from_whom(twofold: Twofold, workshop: Workshop) -> None:
    job_id, loser, rescuer = workshop.enqueue(), new_id(), new_id()
    with workshop.database.writing() as session:
        for runner_id, host in ((loser, "north"), (rescuer, "south")):
            presence.register(session, runner_id, threads=1)
            session.execute(
                update(Runner).where(Runner.id == runner_id).values(host=host, pid=7),
                execution_options={"synchronize_session": False},
            )
    workshop.claim(runner_id=loser)
    workshop.let_leases_run_out()
    workshop.rescue(runner_id=rescuer)

    lines = twofold("jobs", "show", job_id).stdout.splitlines()

    (line,) = [line.split(maxsplit=3) for line in lines if " rescued " in line]
    assert line[1:] == ["rescued", "south:7", "0           from north:7, whose lease ran out"]


def test_retry_runs_what_failed_again(twofold: Twofold, workshop: Workshop) -> None:
    job_id = workshop.enqueue(n_items=4, chunk_items=2)
    first, second = workshop.claim(limit=2)
    refused = twofold("jobs", "retry", job_id)
    assert (refused.exit_code, refused.stderr) == (
        1,
        f"twofold: job {job_id} is running: retry it when it has ended\n",
    )
    workshop.finish(done(first, 1), Failed(second, "out of memory"))

    assert twofold("jobs", "retry", job_id).stdout == f"job {job_id} is queued: 3 items run again\n"

    assert sorted(workshop.run_all()) == [1, 2, 3]
    assert workshop.job(job_id)["status"] == "succeeded"
    workshop.check_books()


@pytest.mark.parametrize("verb", ["show", "cancel", "retry"])
def test_an_unknown_job_is_one_line(verb: str, twofold: Twofold, workshop: Workshop) -> None:
    job_id = new_id()
    result = twofold("jobs", verb, job_id)
    assert (result.exit_code, result.output) == (1, f"twofold: there is no job {job_id}\n")


@pytest.mark.parametrize("verb", ["show", "cancel", "retry"])
def test_the_beginning_of_an_id_is_no_id(verb: str, twofold: Twofold, workshop: Workshop) -> None:
    job_id = workshop.enqueue()
    for wrong in (job_id[:8], job_id.upper(), job_id.replace("-", ""), "x", ""):
        result = twofold("jobs", verb, wrong)
        assert result.exit_code == 2
        assert f"{wrong!r} is no id: give all of its 36 characters" in result.stderr
    assert workshop.job(job_id)["status"] == "queued"


def test_a_terminal_gets_a_drawn_table(
    twofold: Twofold, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = workshop.enqueue()
    assert "─" not in twofold("jobs", "list").stdout

    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # rich: write as to a terminal, wherever it goes
    monkeypatch.setenv("COLUMNS", "140")

    drawn = twofold("jobs", "list").stdout
    assert "─" in drawn
    assert job_id in drawn
