"""The same request, sent again: one job. By a key of the client's, or by an id of its own."""

import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from app.jobs.ids import new_id
from tests.api.conftest import Answer, Client, client_of, items, make_job, refused

CountRows = Callable[[], dict[str, int]]
BODY: dict[str, Any] = {"model": "moody", "data": items("a", "b")}


def post(client: Client, key: str, body: dict[str, Any] = BODY) -> Answer:
    return client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})


def test_the_same_key_and_body_give_the_same_job(client: Client, count_rows: CountRows) -> None:
    first, again, other = post(client, "k1"), post(client, "k1"), post(client, "k2")

    assert (first.status_code, again.status_code, other.status_code) == (202, 202, 202)
    assert first.json["id"] == again.json["id"] != other.json["id"]
    assert first.headers["Location"] == again.headers["Location"]
    replayed = [answer.headers.get("Idempotency-Replayed") for answer in (first, again, other)]
    assert replayed == [None, "true", None]
    rows = count_rows()
    assert (rows["inputs"], rows["jobs"]) == (2, 2)


def test_a_replay_shows_the_job_as_it_is_now(client: Client) -> None:
    job = post(client, "k1").json
    client.post(f"/v1/jobs/{job['id']}/cancel")

    assert post(client, "k1").json["status"] == "canceled"


def test_the_same_key_with_another_body_is_refused(client: Client, count_rows: CountRows) -> None:
    post(client, "k1")

    refused(post(client, "k1", BODY | {"priority": 1}), 422, "k1", "used before")

    assert count_rows()["jobs"] == 1


def test_a_request_that_was_refused_does_not_use_up_its_key(client: Client) -> None:
    refused(post(client, "k1", BODY | {"model": "nobody"}), 404, "nobody")

    assert post(client, "k1").status_code == 202


def test_without_a_key_the_same_request_makes_another_job(client: Client) -> None:
    assert make_job(client, data=items("a"))["id"] != make_job(client, data=items("a"))["id"]


@pytest.mark.parametrize("key", ["", " ", "a b", "ä", "x" * 256])
def test_a_key_is_visible_ascii(key: str, client: Client, count_rows: CountRows) -> None:
    refused(post(client, key), 422, "Idempotency-Key:", "255 visible ASCII")
    assert count_rows() == {}
    assert post(client, "!" * 254 + "~").status_code == 202


def test_concurrent_requests_with_one_key_make_one_job(app: Flask, count_rows: CountRows) -> None:
    answers = together(8, lambda: post(client_of(app), "k1"))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 7
    rows = count_rows()
    assert (rows["inputs"], rows["jobs"]) == (1, 1)


def test_a_job_is_made_under_the_clients_id_once(client: Client, count_rows: CountRows) -> None:
    for job_id in (new_id(), str(uuid.uuid4())):
        first, again = (client.put(f"/v1/jobs/{job_id}", json=BODY) for _ in range(2))

        assert (first.status_code, again.status_code) == (202, 200)
        assert first.json == again.json
        assert first.json["id"] == job_id
        assert first.headers["Location"] == again.headers["Location"] == f"/v1/jobs/{job_id}"
        refused(client.put(f"/v1/jobs/{job_id}", json=BODY | {"priority": 1}), 422, job_id, "used before")
    assert count_rows()["jobs"] == 2


def test_concurrent_puts_make_one_job(app: Flask, count_rows: CountRows) -> None:
    job_id = new_id()

    answers = together(8, lambda: client_of(app).put(f"/v1/jobs/{job_id}", json=BODY))

    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    assert count_rows()["jobs"] == 1


def test_an_id_of_another_job_or_of_no_form_is_refused(client: Client, count_rows: CountRows) -> None:
    job = make_job(client, data=items("a"))
    refused(client.put(f"/v1/jobs/{job['id']}", json=BODY), 422, "used before")

    for wrong in ("x", job["id"].upper(), job["id"].replace("-", "")):
        refused(client.put(f"/v1/jobs/{wrong}", json=BODY), 422, "UUID in lower case")
    refused(client.put(f"/v1/jobs/{new_id()}", json={"model": "moody"}), 422, "input_id")
    assert count_rows()["jobs"] == 1


def together(n_times: int, send: Callable[[], Answer]) -> list[Answer]:
    """What so many threads are answered that send at the same moment."""
    start, answers = threading.Barrier(n_times), []

    def run() -> None:
        start.wait()
        answers.append(send())

    threads = [threading.Thread(target=run) for _ in range(n_times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == n_times
    return answers
