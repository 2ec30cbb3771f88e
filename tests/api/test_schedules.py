"""Schedules over HTTP: made, listed, paused, resumed, deleted; and run, from upload to download."""

from typing import Any

import pytest
from sqlalchemy import text

from app.db import Database
from app.jobs.ids import new_id
from tests.api.conftest import Client, refused
from tests.waiting import wait_until

BODY = {"cron": "0 18 * * *", "time_zone": "Europe/Berlin", "model": "moody", "collection": "reviews"}


def make(client: Client, **changes: Any) -> dict[str, Any]:
    response = client.post("/v1/schedules", json=BODY | changes)
    assert response.status_code == 201, response.text
    assert response.headers["Location"] == f"/v1/schedules/{response.json['id']}"
    made: dict[str, Any] = response.json
    return made


def test_a_schedule_is_made_and_shown(client: Client) -> None:
    made = make(client)

    assert made.pop("created_at") < (following := made.pop("next_fire_at"))
    assert following[10:] in ("T16:00:00.000Z", "T17:00:00.000Z")
    assert made == BODY | {"id": made["id"], "version": None, "paused": False, "fires": []}
    shown = client.get(f"/v1/schedules/{made['id']}").json
    assert shown["next_fire_at"] == following
    assert make(client, version="1", cron="  */5  * * * * ")["cron"] == "*/5 * * * *"
    without_zone = {name: value for name, value in BODY.items() if name != "time_zone"}
    assert client.post("/v1/schedules", json=without_zone).json["time_zone"] == "UTC"


def test_they_are_listed_newest_first_a_page_at_a_time(client: Client) -> None:
    made = [make(client)["id"] for _ in range(3)]

    first = client.get("/v1/schedules?limit=2")
    assert [schedule["id"] for schedule in first.json["data"]] == [made[2], made[1]]
    following = first.headers["Link"].split(">")[0][1:]
    rest = client.get(following)
    assert [schedule["id"] for schedule in rest.json["data"]] == [made[0]]
    assert "Link" not in rest.headers


def test_pause_resume_and_delete(client: Client) -> None:
    made = make(client, cron="0 18 29 2 *")  # which does not come meanwhile
    path = f"/v1/schedules/{made['id']}"

    paused = client.post(f"{path}/pause").json
    assert (paused["paused"], paused["next_fire_at"]) == (True, None)
    assert client.post(f"{path}/pause").json == paused
    resumed = client.post(f"{path}/resume").json
    assert (resumed["paused"], resumed["next_fire_at"]) == (False, made["next_fire_at"])
    assert client.delete(path).status_code == 204
    for response in (
        client.get(path),
        client.delete(path),
        client.post(f"{path}/pause"),
        client.post(f"{path}/resume"),
        client.get(f"/v1/schedules/{new_id()}"),
        client.get("/v1/schedules/x"),
    ):
        refused(response, 404, "no schedule")


@pytest.mark.parametrize(
    ("changes", "status", "fragment"),
    [
        ({"cron": "0 18 * *"}, 422, "/cron"),
        ({"cron": "0 0 18 * * *"}, 422, "/cron"),
        ({"cron": "0 99 * * *"}, 422, "/cron"),
        ({"cron": None}, 422, "/cron"),
        ({"time_zone": "Europe/Bonn"}, 422, "/time_zone"),
        ({"time_zone": ""}, 422, "/time_zone"),
        ({"collection": ""}, 422, "/collection"),
        ({"timezone": "UTC"}, 422, "/timezone"),
        ({"model": "nobody"}, 404, "nobody"),
        ({"version": "9"}, 404, "9"),
    ],
)
def test_what_is_wrong_is_pointed_at(
    changes: dict[str, Any], status: int, fragment: str, client: Client
) -> None:
    refused(client.post("/v1/schedules", json=BODY | changes), status, fragment)
    assert client.get("/v1/schedules").json == {"data": []}


@pytest.mark.usefixtures("runner")
def test_what_was_collected_is_predicted_when_it_fires(client: Client, database: Database) -> None:
    schedule = make(client)
    path = f"/v1/schedules/{schedule['id']}"
    for word in ("a", "b", "c"):
        client.post(
            "/v1/inputs?collection=reviews",
            data=f'{{"text": "{word}"}}\n',
            content_type="application/x-ndjson",
        )
    with database.writing() as session:
        session.execute(text("UPDATE schedules SET next_fire_at = '2026-01-01T17:00:00.000Z'"))

    (fire,) = wait_until(lambda: client.get(path).json["fires"], "the schedule fires")
    job = client.get(f"/v1/jobs/{fire['job_id']}?wait=30").json

    assert fire["fire_at"] == "2026-01-01T17:00:00.000Z"
    assert (job["status"], job["version"], job["counts"]["total"]) == ("succeeded", "2", 3)
    answers = client.get(f"/v1/jobs/{job['id']}/outputs").json["prediction"]
    assert [answer["text"] for answer in answers] == ["a", "b", "c"]
    next_fire_at = client.get(path).json["next_fire_at"]
    assert next_fire_at >= schedule["next_fire_at"], "later only where its hour struck meanwhile"
    gathered = client.get(f"/v1/inputs/{job['input_id']}").json
    assert (gathered["collection"], gathered["sha256"], gathered["n_items"]) == (None, None, 3)
