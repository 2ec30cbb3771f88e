"""Retries, limits of errors, times that end, what a job tells of itself, and runners in trouble."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from sqlalchemy import text

from app.db import Database
from app.jobs import presence
from app.jobs.ids import new_id
from app.jobs.upkeep import sweep_all
from tests.api.conftest import Client, ended, items, make_job, refused

CountRows = Callable[[], dict[str, int]]
PAST = "2020-01-01T00:00:00Z"


@pytest.mark.usefixtures("runner")
def test_a_retry_runs_what_has_no_prediction_and_nothing_else(client: Client, database: Database) -> None:
    job = ended(client, data=items("a", "!raise", "c"))
    path = f"/v1/jobs/{job['id']}"
    assert job["counts"]["errored"] == 1

    response = client.post(f"{path}/retry")
    again = client.get(f"{path}?wait=30").json

    assert (response.status_code, response.json["done"]) == (202, False)
    assert response.headers["Location"] == path
    assert (again["status"], again["counts"]) == (job["status"], job["counts"])
    assert [answer["text"] for answer in client.get(f"{path}/outputs").json["prediction"]] == ["a", "c"]
    (error,) = map(orjson.loads, client.get(f"{path}/errors").data.splitlines())
    assert error["index"] == 1
    with database.reading() as session:
        ran = session.execute(text("SELECT n_items FROM chunks WHERE n_errored > 0")).scalars().all()
    assert ran == [1]


@pytest.mark.usefixtures("runner")
def test_there_must_be_something_to_retry(client: Client) -> None:
    job = ended(client, data=items("a"))
    refused(client.post(f"/v1/jobs/{job['id']}/retry"), 409, "nothing to retry")
    waiting = make_job(client, data=items("a"), run_at="2199-01-01T00:00:00Z")
    refused(client.post(f"/v1/jobs/{waiting['id']}/retry"), 409, "queued")
    refused(client.post(f"/v1/jobs/{new_id()}/retry"), 404, "no job")
    refused(client.post("/v1/jobs/x/retry"), 404, "no job")


@pytest.mark.usefixtures("runner")
def test_a_hopeless_job_ends_early(client: Client) -> None:
    # 20 chunks of 4 items; only 16 of them are queued at once.
    job = ended(client, data=items(*["!raise"] * 80), max_errors=3)

    assert (job["status"], job["max_errors"]) == ("failed", 3)
    assert "max_errors is 3" in job["error"]
    assert job["counts"]["canceled"] > 0


@pytest.mark.parametrize("wrong", [-1, 1.5, "3", 2**31, True])
def test_max_errors_is_a_count(wrong: Any, client: Client) -> None:
    body = {"model": "moody", "data": items("a"), "max_errors": wrong}
    refused(client.post("/v1/jobs", json=body), 422, "/max_errors")


def test_the_story_of_a_job(client: Client) -> None:
    job = make_job(client, data=items("a"))
    client.post(f"/v1/jobs/{job['id']}/cancel")

    events = client.get(f"/v1/jobs/{job['id']}/events").json["data"]

    assert [event["event"] for event in events] == ["created", "cancel_requested", "finished"]
    assert set(events[0]) == {"at", "event", "first_item", "runner_id", "runner", "detail"}
    assert job["created_at"] <= events[0]["at"] <= events[-1]["at"]
    refused(client.get(f"/v1/jobs/{new_id()}/events"), 404, "no job")


@pytest.mark.usefixtures("runner")
def test_what_was_pruned_is_gone_and_its_counts_are_not(client: Client, database: Database) -> None:
    job = ended(client, data=items("a", "!raise"))
    path = f"/v1/jobs/{job['id']}"
    with database.writing() as session:
        session.execute(text(f"UPDATE jobs SET expires_at = '{PAST}'"))
        session.execute(text(f"UPDATE inputs SET expires_at = '{PAST}'"))
    sweep_all(database, None)

    for path_of_payload in (f"{path}/outputs", f"{path}/outputs?partial=true", f"{path}/errors"):
        assert refused(client.get(path_of_payload), 410, job["id"])["title"] == "Gone"
    refused(client.post(f"{path}/retry"), 410, job["id"])
    refused(
        client.post("/v1/jobs", json={"model": "moody", "input_id": job["input_id"]}), 410, job["input_id"]
    )
    shown = client.get(path).json
    assert (shown["status"], shown["counts"], shown["expires_at"]) == (
        *(job["status"], job["counts"]),
        "2020-01-01T00:00:00.000Z",
    )
    assert shown["pruned_at"] is not None
    assert client.get(f"/v1/inputs/{job['input_id']}").json["pruned_at"] is not None
    assert client.delete(path).status_code == 204
    refused(client.get(f"/download?filename={job['input_id']}"), 404)


def test_the_time_of_a_job_is_kept(client: Client) -> None:
    job = make_job(client, data=items("a"), expires_at="2199-01-31T10:30:00+01:00")
    assert job["expires_at"] == "2199-01-31T09:30:00.000Z"
    for wrong in ("soon", "2199-01-31T10:30:00", "9999-12-31T23:59:59Z", 5):
        body = {"model": "moody", "data": items("a"), "expires_at": wrong}
        refused(client.post("/v1/jobs", json=body), 422, "/expires_at")


def test_an_upload_may_name_a_collection_and_a_time(client: Client, count_rows: CountRows) -> None:
    def upload(query: str) -> Any:
        return client.post(
            f"/v1/inputs?{query}", data=b'{"text": "a"}\n', content_type="application/x-ndjson"
        )

    named = upload("collection=reviews%20é&expires_at=2199-01-31T10:30:00Z").json
    bare = upload("").json

    assert (named["collection"], named["expires_at"]) == ("reviews é", "2199-01-31T10:30:00.000Z")
    assert (bare["collection"], bare["expires_at"], bare["pruned_at"]) == (None, None, None)
    assert client.get("/v1/inputs?collection=reviews%20é").json["data"] == [named]
    assert client.get("/v1/inputs").json["data"] == [bare, named]
    assert client.get("/v1/inputs?collection=other").json["data"] == []
    for query in ("collection=", "collection=a%00b", "collection=" + "x" * 256):
        refused(upload(query), 422, "?collection")
        refused(client.get(f"/v1/inputs?{query}"), 422, "?collection")
    refused(upload("expires_at=soon"), 422, "?expires_at")
    refused(upload("colection=x"), 422, "?colection")
    assert count_rows() == {"inputs": 2, "input_chunks": 2}


def test_readyz_tells_of_runners_in_trouble_and_is_ready_all_the_same(
    client: Client, database: Database
) -> None:
    client.application.extensions["twofold"].registry.get("moody").wait_ready(30)
    well, hung, gone = new_id(), new_id(), new_id()
    with database.writing() as session:
        for runner_id in (well, hung, gone):
            presence.register(session, runner_id, threads=1)
        presence.confess(session, hung, "moody@1 has been in predict for over 5 seconds")
        presence.confess(session, gone, "so it was")
        presence.leave(session, gone)
        session.execute(text("UPDATE runners SET host = 'elsewhere', pid = 7 WHERE trouble IS NOT NULL"))

    answer = client.get("/readyz")

    assert answer.json["runners_in_trouble"] == {
        "elsewhere:7": "moody@1 has been in predict for over 5 seconds"
    }
    assert answer.json["database"] == "ok"
