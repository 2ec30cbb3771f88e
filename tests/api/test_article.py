"""The article's four routes, which serve the first model of `models.toml`."""

import pytest

from tests.api.conftest import Client, items, refused


def test_online_answers_with_the_prediction_alone(client: Client) -> None:
    # Its curl calls send no JSON content type.
    response = client.post("/prediction/online", data=b'{"data":[{"text":"a","id":1}]}')

    assert (response.status_code, response.mimetype) == (200, "application/json")
    assert response.json == {"prediction": [{"text": "a", "id": 1, "mood": "better"}]}


@pytest.mark.usefixtures("runner")
def test_upload_batch_and_download_follow_each_other(client: Client) -> None:
    uploaded = client.post(
        "/upload",
        data=b'{"data":[{"text":"a"},{"text":"b"}]}',
        content_type="application/x-www-form-urlencoded",
    )
    assert uploaded.status_code == 200
    name = uploaded.json["filename"]
    assert uploaded.json == {"filename": name}
    refused(client.get(f"/download?filename={name}"), 404, name)

    started = client.get(f"/prediction/batch?filename={name}")

    assert (started.status_code, started.json) == (200, {})
    (job,) = client.get(f"/v1/jobs?input_id={name}").json["data"]
    assert client.get(f"/v1/jobs/{job['id']}?wait=30").json["status"] == "succeeded"
    expected = [{"text": "a", "mood": "better"}, {"text": "b", "mood": "better"}]
    assert client.get(f"/download?filename={name}").json == {"prediction": expected}
    refused(client.get(f"/prediction/batch?filename={name}"), 404, "exists already", f"filename={name}")


def test_a_batch_that_waits_is_not_started_twice(client: Client) -> None:
    name = client.post("/upload", json={"data": items("a")}).json["filename"]

    for _ in range(3):
        assert client.get(f"/prediction/batch?filename={name}").json == {}

    assert len(client.get(f"/v1/jobs?input_id={name}").json["data"]) == 1
    refused(client.get(f"/download?filename={name}"), 404, "no result")


@pytest.mark.usefixtures("runner")
def test_a_batch_that_failed_has_no_result_and_may_be_started_again(client: Client) -> None:
    name = client.post("/upload", json={"data": items("!raise")}).json["filename"]
    client.get(f"/prediction/batch?filename={name}")
    (job,) = client.get(f"/v1/jobs?input_id={name}").json["data"]
    assert client.get(f"/v1/jobs/{job['id']}?wait=30").json["status"] == "failed"

    refused(client.get(f"/download?filename={name}"), 404, "no result")
    assert client.get(f"/prediction/batch?filename={name}").json == {}

    assert len(client.get(f"/v1/jobs?input_id={name}").json["data"]) == 2


def test_an_unknown_name_is_a_404(client: Client) -> None:
    for path in ("/prediction/batch", "/download"):
        for name in ("results.json", "01981f5e-7c4b-7d3a-9f10-2b6c8e0d4a71"):
            refused(client.get(f"{path}?filename={name}"), 404, name)
