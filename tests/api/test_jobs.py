"""Jobs: made, watched, listed, canceled and deleted."""

import re
import threading
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from flask import Flask

from app.api.services import EXTENSION, Services
from app.runner import Runner
from tests.api import moody
from tests.api.conftest import Client, MakeApp, client_of, ended, items, make_job, refused

CountRows = Callable[[], dict[str, int]]
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def test_a_job_over_an_upload_is_accepted_at_once(client: Client, count_rows: CountRows) -> None:
    made = client.post("/v1/inputs", json={"data": items("a", "b", "c", "d", "e")})

    response = client.post("/v1/jobs", json={"model": "moody", "input_id": made.json["id"]})

    assert response.status_code == 202
    assert int(response.headers["Retry-After"]) > 0
    job = response.json
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert re.fullmatch(TIME, job.pop("created_at"))
    assert job == {
        "id": job["id"],
        "kind": "predict",
        "model": "moody",
        "version": "2",
        "input_id": made.json["id"],
        "status": "queued",
        "done": False,
        "counts": {"total": 5, "succeeded": 0, "errored": 0, "canceled": 0, "cached": 0},
        "progress": 0.0,
        "eta_seconds": None,
        "priority": 0,
        "run_at": None,
        "error": None,
        "started_at": None,
        "finished_at": None,
        "max_errors": None,
        "options": None,
        "trained": None,
        "expires_at": None,
        "pruned_at": None,
        "output_url": None,
        "manifest_url": None,
    }
    assert count_rows() == {"inputs": 1, "input_chunks": 2, "jobs": 1, "chunks": 2, "job_events": 1}


@pytest.mark.usefixtures("runner")
def test_a_job_over_items_in_its_request_has_an_input_of_its_own(client: Client) -> None:
    job = ended(client, data=items("a", "b"), version="1")

    assert (job["status"], job["version"], job["progress"]) == ("succeeded", "1", 1.0)
    assert job["counts"] == {"total": 2, "succeeded": 2, "errored": 0, "canceled": 0, "cached": 0}
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert client.get(f"/v1/inputs/{job['input_id']}").json["n_items"] == 2
    assert client.get(f"/v1/jobs/{job['id']}/outputs").json == {
        "prediction": [{"text": "a", "mood": "good"}, {"text": "b", "mood": "good"}]
    }


def test_a_refused_job_leaves_no_input_behind(client: Client, count_rows: CountRows) -> None:
    refused(client.post("/v1/jobs", json={"model": "moody", "version": "3", "data": items("a")}), 404, "1, 2")

    assert count_rows() == {}


def test_priority_and_time_are_kept(client: Client) -> None:
    kept = []
    for run_at, shown in (
        (None, None),
        ("2027-01-31T09:30:00Z", "2027-01-31T09:30:00.000Z"),
        ("2027-01-31T09:30:00.123456+02:00", "2027-01-31T07:30:00.123Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
        ("9998-12-30T10:00:00-14:00", "9998-12-31T00:00:00.000Z"),
    ):
        for priority in (-100, 0, 100):
            job = make_job(client, data=items("a"), priority=priority, run_at=run_at)
            assert (job["priority"], job["run_at"]) == (priority, shown)
            kept.append(job)

    assert client.get("/v1/jobs").json["data"] == kept[::-1]


@pytest.mark.usefixtures("runner")
def test_a_job_for_later_waits_while_others_run(client: Client) -> None:
    later = make_job(client, data=items("a"), run_at="2199-01-01T00:00:00Z", priority=-100)

    assert ended(client, data=items("a"), priority=100)["status"] == "succeeded"

    assert client.get(f"/v1/jobs/{later['id']}").json["status"] == "queued"


@pytest.mark.usefixtures("runner")
def test_counts_and_progress_are_live(client: Client, gate: type[moody.Gated]) -> None:
    # Two chunks: the first passes, the second stays in the model.
    job = make_job(client, "gated", data=[{"n": 0}] * 4 + [{"hold": True}])
    path = f"/v1/jobs/{job['id']}"
    assert gate.entered.acquire(timeout=30)
    while (seen := client.get(f"{path}?wait=0.05").json)["counts"]["succeeded"] == 0:
        assert not seen["done"]

    assert (seen["status"], seen["progress"], seen["done"]) == ("running", 0.8, False)
    assert seen["counts"] == {"total": 5, "succeeded": 4, "errored": 0, "canceled": 0, "cached": 0}
    assert seen["eta_seconds"] >= 0
    assert re.fullmatch(TIME, seen["started_at"])

    problem = client.get(f"{path}/outputs")
    refused(problem, 409, job["id"], "running", "?partial=true")
    assert int(problem.headers["Retry-After"]) > 0
    assert len(client.get(f"{path}/outputs?partial=true").json["prediction"]) == 4
    refused(client.delete(path), 409, "running")

    gate.opened.set()
    assert client.get(f"{path}?wait=30").json["counts"]["succeeded"] == 5


def test_cancel_keeps_what_ran_and_ends_what_did_not(
    client: Client,
    app: Flask,
    start_runner: Callable[[Flask], Runner],
    gate: type[moody.Gated],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.intake.RECONSIDER_SECONDS", 600)  # so that nothing that waits is given back
    start_runner(app)
    # Two chunks are held in the model, which takes no more at once, and two wait for it; the fifth is not claimed.
    job = make_job(client, "gated", data=[{"hold": True}] * 17)
    path = f"/v1/jobs/{job['id']}"
    assert gate.entered.acquire(timeout=30)
    assert gate.entered.acquire(timeout=30)

    canceling = client.post(f"{path}/cancel").json
    again = client.post(f"{path}/cancel")
    gate.opened.set()
    canceled = client.get(f"{path}?wait=30").json

    assert (canceling["status"], canceling["done"]) == ("canceling", False)
    assert (again.status_code, again.json["status"]) == (200, "canceling")
    assert (canceled["status"], canceled["done"], canceled["progress"]) == ("canceled", True, 1.0)
    assert canceled["counts"] == {"total": 17, "succeeded": 16, "errored": 0, "canceled": 1, "cached": 0}
    assert len(client.get(f"{path}/outputs").json["prediction"]) == 16
    refused(client.post(f"{path}/cancel"), 409, "already ended", "canceled")


def test_a_job_that_has_not_begun_is_canceled_at_once_and_can_be_deleted(
    client: Client, count_rows: CountRows
) -> None:
    job = make_job(client, data=items("a", "b"))
    path = f"/v1/jobs/{job['id']}"
    refused(client.delete(path), 409, "queued")

    canceled = client.post(f"{path}/cancel")

    assert (canceled.status_code, canceled.json["status"], canceled.json["done"]) == (200, "canceled", True)
    assert client.get(f"{path}/outputs").json == {"prediction": []}
    assert client.get(f"{path}/errors").data == b""
    assert (client.delete(path).status_code, client.delete(f"/v1/inputs/{job['input_id']}").status_code) == (
        204,
        204,
    )
    refused(client.get(path), 404, job["id"])
    assert count_rows() == {}


@pytest.mark.usefixtures("runner")
def test_a_deleted_job_takes_its_outputs_and_errors_along_but_not_its_input(
    client: Client, count_rows: CountRows
) -> None:
    job = ended(client, data=items("a", "!raise"))

    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204

    assert count_rows() == {"inputs": 1, "input_chunks": 1, "runners": 1}


@pytest.mark.usefixtures("runner")
def test_a_waiting_request_answers_when_the_job_ends(client: Client, gate: type[moody.Gated]) -> None:
    job = make_job(client, "gated", data=[{"hold": True}])
    answers: list[Any] = []
    waiting = threading.Thread(
        target=lambda: answers.append(client_of(client.application).get(f"/v1/jobs/{job['id']}?wait=30"))
    )
    waiting.start()
    assert gate.entered.acquire(timeout=30)

    in_time = client.get(f"/v1/jobs/{job['id']}?wait=0.01")
    gate.opened.set()
    waiting.join(30)

    assert (in_time.json["status"], in_time.headers["Retry-After"]) == ("running", "1")
    assert (answers[0].json["status"], "Retry-After" in answers[0].headers) == ("succeeded", False)


def test_half_of_the_threads_are_for_those_who_do_not_wait(client: Client) -> None:
    job = make_job(client, data=items("a"), run_at="2199-01-01T00:00:00Z")
    services: Services = client.application.extensions[EXTENSION]
    n_taken = 0
    while services.waiting.acquire(blocking=False):
        n_taken += 1
    assert n_taken == services.settings.web_threads // 2

    crowded = client.get(f"/v1/jobs/{job['id']}?wait=60")
    services.waiting.release()
    alone = [client.get(f"/v1/jobs/{job['id']}?wait=0.01") for _ in range(2)]

    for response in (crowded, *alone):
        assert (response.status_code, response.json["status"]) == (200, "queued")
        assert response.headers["Retry-After"] == "1"


@pytest.mark.usefixtures("runner")
def test_an_unchanged_job_is_not_sent_again(client: Client) -> None:
    job = make_job(client, data=items("a"), run_at="2199-01-01T00:00:00Z")
    path = f"/v1/jobs/{job['id']}"
    first = client.get(path)

    unchanged = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    client.post(f"{path}/cancel")
    changed = client.get(path, headers={"If-None-Match": first.headers["ETag"]})

    assert (unchanged.status_code, unchanged.data) == (304, b"")
    assert unchanged.headers["ETag"] == first.headers["ETag"]
    assert (changed.status_code, changed.json["status"]) == (200, "canceled")


def test_a_job_for_a_model_that_failed_to_load_fails_and_says_why(
    make_app: MakeApp, start_runner: Callable[[Flask], Runner]
) -> None:
    app = make_app('[[model]]\nname = "broken"\nversion = "7"\nclass = "tests.api.moody:Broken"\n')
    start_runner(app)
    client = client_of(app)
    reason = "model broken 7 failed to load: OSError: the weights are corrupt"

    job = ended(client, "broken", data=[{}] * 9)

    assert (job["status"], job["error"]) == ("failed", reason)
    assert job["counts"]["succeeded"] == 0
    errors = [orjson.loads(line) for line in client.get(f"/v1/jobs/{job['id']}/errors").data.splitlines()]
    assert errors
    assert {(error["code"], error["message"]) for error in errors} == {("chunk_failed", reason)}
    assert client.get(f"/v1/jobs/{job['id']}/outputs").json == {"prediction": []}
