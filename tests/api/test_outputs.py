"""Outputs and errors of jobs: in input order, in three formats, and only when there is something to say."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.api.conftest import Client, ended, items, refused

pytestmark = pytest.mark.usefixtures("runner")

MIXED = [*items("a", "b", "!raise", "c"), {"text": 5}, {}, *items("d", "e", "f", "!set", "!nul", "g")]


def errors(client: Client, job: dict[str, Any]) -> list[dict[str, Any]]:
    response = client.get(f"/v1/jobs/{job['id']}/errors")
    assert response.mimetype == "application/x-ndjson"
    return [orjson.loads(line) for line in response.data.splitlines()]


def test_outputs_come_in_input_order_in_three_formats(client: Client) -> None:
    given = [{"text": f"{index}, é\n", "id": 10**20 + index} for index in range(11)]
    expected = [item | {"mood": "better"} for item in given]
    job = ended(client, data=given)
    path = f"/v1/jobs/{job['id']}/outputs"

    by_default = client.get(path)
    ndjson = client.get(path, headers={"Accept": "application/x-ndjson"})
    table = client.get(path, headers={"Accept": "text/csv, application/json;q=0.5"})

    assert by_default.mimetype == "application/json"
    assert by_default.json == {"prediction": expected}
    assert ndjson.mimetype == "application/x-ndjson"
    assert [json.loads(line) for line in ndjson.data.splitlines()] == expected
    assert table.mimetype == "text/csv"
    rows = list(csv.DictReader(io.StringIO(table.text, newline="")))
    assert rows == [{name: str(value) for name, value in answer.items()} for answer in expected]
    assert {response.headers["Vary"] for response in (by_default, ndjson, table)} == {
        "Accept, Accept-Encoding"
    }


def test_a_csv_has_every_field_that_occurs_in_any_chunk(client: Client) -> None:
    job = ended(client, data=[*items("a", "b", "c", "d"), {"text": "e", "late": [1]}])

    table = client.get(f"/v1/jobs/{job['id']}/outputs", headers={"Accept": "text/csv"})

    assert table.text.splitlines()[0] == "text,mood,late"
    assert table.text.splitlines()[-1] == "e,better,[1]"


def test_answers_with_too_many_fields_for_a_table_are_had_as_json_alone(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.outputs.MAX_COLUMNS", 3)
    job = ended(client, data=[{"text": "a", "x": 1}, {"text": "b", "y": 2}])
    path = f"/v1/jobs/{job['id']}/outputs"

    for table in ("text/csv", "application/vnd.apache.parquet"):
        problem = refused(client.get(path, headers={"Accept": table}), 406)
        assert "4 different fields, more than the 3 columns of a table" in problem["detail"]
        assert "ask for application/x-ndjson" in problem["detail"]
    assert client.get(path).status_code == 200


def test_bad_items_are_named_and_their_neighbours_succeed(
    client: Client, select_all: Callable[..., list[dict[str, Any]]]
) -> None:
    job = ended(client, data=MIXED)

    assert (job["status"], job["progress"], job["error"]) == ("partial", 1.0, None)
    assert job["counts"] == {"total": 12, "succeeded": 7, "errored": 5, "canceled": 0, "cached": 0}
    answered = client.get(f"/v1/jobs/{job['id']}/outputs").json["prediction"]
    assert [answer["text"] for answer in answered] == ["a", "b", "c", "d", "e", "f", "g"]
    found = errors(client, job)
    assert [(error["index"], error["code"]) for error in found] == [
        (2, "model_failed"),
        (4, "invalid_item"),
        (5, "invalid_item"),
        (9, "model_failed"),
        (10, "model_failed"),
    ]
    assert found[0]["message"] == "model moody 2 raised RuntimeError: this text is too sad"
    assert found[1]["message"] == "/text: Not a valid string."
    assert "is not JSON" in found[3]["message"]
    assert "NUL \\x00 and a lone \\udc80 surrogate" in found[4]["message"]
    table = client.get(f"/v1/jobs/{job['id']}/outputs", headers={"Accept": "text/csv"}).text
    assert len(table.splitlines()) == 8
    predictions = select_all("SELECT item_index, prediction FROM predictions ORDER BY item_index")
    assert [row["item_index"] for row in predictions if row["prediction"] is None] == [2, 4, 5, 9, 10]


def test_a_schema_that_breaks_on_one_item_costs_that_item_alone(client: Client) -> None:
    job = ended(client, data=items("a", "!schema", "b", "!refuse"))

    assert job["counts"] == {"total": 4, "succeeded": 2, "errored": 2, "canceled": 0, "cached": 0}
    assert [(error["index"], error["code"], error["message"]) for error in errors(client, job)] == [
        (1, "model_failed", "model moody 2: its Item schema raised KeyError: 'bug'"),
        (3, "invalid_item", "/text: no \\x00 here"),
    ]


def test_a_job_without_one_success_has_failed(client: Client) -> None:
    job = ended(client, data=[{}, *items("!raise")])

    assert (job["status"], job["counts"]["errored"]) == ("failed", 2)
    path = f"/v1/jobs/{job['id']}/outputs"
    assert client.get(path).json == {"prediction": []}
    assert client.get(path, headers={"Accept": "application/x-ndjson"}).data == b""
    assert client.get(path, headers={"Accept": "text/csv"}).text.strip() == ""


def test_a_job_without_errors_has_none_to_tell(client: Client) -> None:
    assert errors(client, ended(client, data=items("a"))) == []


def test_outputs_in_no_format_that_is_accepted_are_refused(client: Client) -> None:
    job = ended(client, data=items("a"))

    response = client.get(f"/v1/jobs/{job['id']}/outputs", headers={"Accept": "application/xml"})

    refused(response, 406, "Accept:", "application/json, application/x-ndjson, text/csv")


def test_outputs_of_a_job_that_waits_need_partial(client: Client) -> None:
    body = {"model": "moody", "data": items("a"), "run_at": "2199-01-01T00:00:00Z"}
    path = client.post("/v1/jobs", json=body).headers["Location"]

    refused(client.get(f"{path}/outputs"), 409, "queued", "?partial=true")

    assert client.get(f"{path}/outputs?partial=true").json == {"prediction": []}
