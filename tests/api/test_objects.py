"""Object stores by way of the API: inputs that stay there, outputs that go there, uploads past the service."""

import hashlib
import http.client
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from flask import Flask
from sqlalchemy import text

from app.data import objects
from app.data.addresses import Address
from app.data.objects import Found, Storage
from app.db import Database
from app.jobs import schedules
from app.jobs.ids import new_id
from app.runner import Runner
from tests.api.conftest import Client, MakeApp, client_of, ended, make_job, refused
from tests.waiting import wait_until

CountRows = Callable[[], dict[str, int]]
TEXTS = [f"{index} é" for index in range(10)]
NDJSON = b"".join(orjson.dumps({"text": text}) + b"\n" for text in TEXTS)
CSV = "".join(["text\r\n", *(f"{text}\r\n" for text in TEXTS)]).encode()

on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For what does not depend on the database."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that the app may read and write."""
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def bucket(make_bucket: Callable[[str], Any]) -> Any:
    """A bucket of which the app may read and write `data`."""
    return make_bucket("inputs")


@pytest.fixture
def app(make_app: MakeApp, folder: Path, bucket: Any) -> Flask:
    return make_app(storage_prefixes=("s3://inputs/data", f"file://{folder}"))


def register(client: Client, url: str, query: str = "", **body: Any) -> dict[str, Any]:
    response = client.post(f"/v1/inputs{query}", json={"url": url, **body})
    assert response.status_code == 201, response.text
    registered: dict[str, Any] = response.json
    assert response.headers["Location"] == f"/v1/inputs/{registered['id']}"
    return registered


def outputs(client: Client, job: dict[str, Any]) -> list[str]:
    return [answer["text"] for answer in client.get(f"/v1/jobs/{job['id']}/outputs").json["prediction"]]


def listed(client: Client, job: dict[str, Any], folder: Path) -> tuple[dict[str, Any], bytes]:
    """The manifest of a job, once it is there, and its parts one after the other; each is what it says."""

    def look() -> Any:
        return client.get(f"/v1/jobs/{job['id']}").json["manifest_url"]

    assert wait_until(look, "the manifest") == f"{job['output_url']}/manifest.json"
    manifest: dict[str, Any] = orjson.loads((folder / "manifest.json").read_bytes())
    bodies = [(folder / part["object"]).read_bytes() for part in manifest["parts"]]
    for part, body in zip(manifest["parts"], bodies, strict=True):
        assert (part["n_bytes"], part["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
        assert part["n_items"] - part["n_errored"] == body.count(b"\n")
    return manifest, b"".join(bodies)


@pytest.mark.usefixtures("runner")
def test_an_object_is_an_input_like_its_upload_but_its_items_stay_where_they_are(
    client: Client, bucket: Any, folder: Path, database: Database
) -> None:
    bucket.put_object(Key="data/x.ndjson", Body=NDJSON)
    (folder / "x.csv").write_bytes(CSV)
    urls = {"s3://inputs/data/x.ndjson": NDJSON, f"file://{folder}/x.csv": CSV}

    for url, body in urls.items():
        registered = register(client, url)
        assert registered == client.get(f"/v1/inputs/{registered['id']}").json
        assert (registered["url"], registered["n_items"], registered["n_bytes"]) == (url, 10, len(body))
        assert registered["sha256"] == hashlib.sha256(body).hexdigest()
        assert registered["format"] == url.rpartition(".")[2]
        job = ended(client, input_id=registered["id"])
        assert job["status"] == "succeeded"
        assert outputs(client, job) == TEXTS

    with database.reading() as session:
        rows = session.execute(text("SELECT n_items, items FROM input_chunks")).all()
        assert session.execute(text("SELECT count(*) FROM predictions")).scalar_one() == 0
    assert sorted(map(tuple, rows)) == sorted([(4, None), (4, None), (2, None)] * 2)


@on_sqlite
def test_what_cannot_be_registered_is_refused_and_leaves_nothing(
    client: Client, bucket: Any, folder: Path, count_rows: CountRows
) -> None:
    bucket.put_object(Key="data/x.json", Body=b'{"data":[]}')
    bucket.put_object(Key="data/x.csv", Body=b"a,b\n1,2\n3\n")
    bucket.put_object(Key="secret/x.csv", Body=CSV)

    def attempt(status: int, *fragments: str, **body: Any) -> None:
        refused(client.post("/v1/inputs", json=body), status, *fragments)

    attempt(403, "/url", "TWOFOLD_STORAGE_PREFIXES", "s3://inputs/data", url="s3://inputs/secret/x.csv")
    attempt(403, "TWOFOLD_STORAGE_PREFIXES", url="s3://inputs/data-secret/x.csv")
    attempt(422, "/url", "`..`", url="s3://inputs/data/../secret/x.csv")
    attempt(422, "must begin with one of", url="http://127.0.0.1/x.csv")
    attempt(422, "/url", "does not exist", url="s3://inputs/data/none.csv")
    attempt(422, "/format", "POST /v1/inputs instead", url="s3://inputs/data/x.json")
    attempt(422, "/format", url="s3://inputs/data/x.csv", format="xml")
    attempt(422, "line 3", url="s3://inputs/data/x.csv")
    attempt(422, "/url", url=1)
    attempt(422, "/more", url="s3://inputs/data/x.csv", more=1)
    assert count_rows() == {}


@on_sqlite
def test_without_the_setting_nothing_is_allowed(make_app: MakeApp) -> None:
    client = client_of(make_app())
    body = {"url": "s3://inputs/data/x.csv"}
    refused(
        client.post("/v1/inputs", json=body), 403, "TWOFOLD_STORAGE_PREFIXES allows here, which is nothing"
    )
    job = {"model": "moody", "data": [{"text": "a"}], "output_url": "file:///tmp/out"}
    refused(client.post("/v1/jobs", json=job), 403, "/output_url", "TWOFOLD_STORAGE_PREFIXES")
    target = {"folder": "s3://inputs/data", "name": "x.csv"}
    refused(client.post("/v1/inputs/presigned", json=target), 403, "/folder", "TWOFOLD_STORAGE_PREFIXES")


@on_sqlite
def test_items_with_an_url_are_an_upload_all_the_same(client: Client) -> None:
    response = client.post("/v1/inputs", json={"data": [{"url": "s3://inputs/data/x.csv"}]})
    assert (response.status_code, response.json["n_items"], response.json["url"]) == (201, 1, None)


@on_sqlite
def test_an_object_over_the_limit_is_refused(make_app: MakeApp, folder: Path) -> None:
    (folder / "x.csv").write_bytes(CSV)
    client = client_of(make_app(storage_prefixes=(f"file://{folder}",), max_upload_bytes=len(CSV) - 1))
    refused(client.post("/v1/inputs", json={"url": f"file://{folder}/x.csv"}), 413, "larger than")


@pytest.mark.usefixtures("runner")
@pytest.mark.parametrize("is_gone", [False, True])
def test_an_object_that_changed_or_went_fails_the_chunks_that_it_concerns(
    client: Client, folder: Path, is_gone: bool
) -> None:
    (folder / "x.ndjson").write_bytes(NDJSON)
    registered = register(client, f"file://{folder}/x.ndjson")
    if is_gone:
        (folder / "x.ndjson").unlink()
    else:
        (folder / "x.ndjson").write_bytes(NDJSON.replace(b"5 ", b"6 "))

    job = ended(client, input_id=registered["id"])

    errors = [orjson.loads(line) for line in client.get(f"/v1/jobs/{job['id']}/errors").data.splitlines()]
    assert [error["index"] for error in errors] == (list(range(10)) if is_gone else [4, 5, 6, 7])
    code = "input_unavailable" if is_gone else "input_changed"
    assert all(error["message"].startswith(f"{code}: file://{folder}/x.ndjson") for error in errors)
    assert job["status"] == ("failed" if is_gone else "partial")


@on_sqlite
@pytest.mark.usefixtures("runner")
def test_an_unreachable_store_is_tried_again(
    client: Client, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put_object(Key="data/x.ndjson", Body=b'{"text":"a"}\n')
    registered = register(client, "s3://inputs/data/x.ndjson")
    with monkeypatch.context() as away:
        away.setattr(objects, "_filesystems", {})
        away.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        job = make_job(client, input_id=registered["id"])

        def retried() -> Any:
            story = client.get(f"/v1/jobs/{job['id']}/events").json["data"]
            return [event["detail"] for event in story if event["event"] == "retried"]

        (detail, *_) = wait_until(retried, "a retry")
        assert "the store of s3://inputs/data/x.ndjson does not answer" in detail

    assert client.get(f"/v1/jobs/{job['id']}?wait=30").json["status"] == "succeeded"


@pytest.mark.usefixtures("runner")
def test_a_retry_reads_again_what_failed(client: Client, folder: Path, database: Database) -> None:
    bad = NDJSON.replace(orjson.dumps({"text": TEXTS[2]}), b'{"text":"!raise"}')
    (folder / "x.ndjson").write_bytes(bad)
    job = ended(client, input_id=register(client, f"file://{folder}/x.ndjson")["id"])
    assert job["counts"]["errored"] == 1

    client.post(f"/v1/jobs/{job['id']}/retry")
    again = client.get(f"/v1/jobs/{job['id']}?wait=30").json

    assert (again["status"], again["counts"]) == ("partial", job["counts"])
    assert outputs(client, again) == [text for text in TEXTS if text != TEXTS[2]]
    with database.reading() as session:
        ran = session.execute(text("SELECT first_item, n_items FROM chunks WHERE n_errored > 0")).all()
    assert list(map(tuple, ran)) == [(2, 1)]


def test_a_schedule_gathers_objects_and_uploads_alike(
    client: Client, folder: Path, database: Database, app: Flask, start_runner: Callable[[Flask], Runner]
) -> None:
    (folder / "x.ndjson").write_bytes(NDJSON)
    (folder / "x.csv").write_bytes(CSV)
    register(client, f"file://{folder}/x.ndjson", "?collection=daily")
    client.post("/v1/inputs?collection=daily", json={"data": [{"text": "between"}]})
    register(client, f"file://{folder}/x.csv", "?collection=daily")
    schedule_id = new_id()
    with database.writing() as session:
        schedules.create(
            session,
            schedule_id=schedule_id,
            cron="0 0 * * *",
            time_zone="UTC",
            model="moody",
            version=None,
            collection="daily",
        )
        fire_at = schedules.get_schedule(session, schedule_id).next_fire_at
        assert fire_at is not None
        job_id = schedules.fire(session, schedule_id, fire_at, versions={"moody": "1"}, window=16)

    start_runner(app)
    job = client.get(f"/v1/jobs/{job_id}?wait=30").json

    assert outputs(client, job) == [*TEXTS, "between", *TEXTS]


@pytest.mark.usefixtures("runner")
def test_outputs_are_written_in_parts_that_a_manifest_lists(client: Client, folder: Path) -> None:
    items = [{"text": text} for text in (*TEXTS, "!raise", *["!raise"] * 5)]
    here = ended(client, data=items)
    wanted = client.get(f"/v1/jobs/{here['id']}/outputs", headers={"Accept": "application/x-ndjson"}).data
    errors = client.get(f"/v1/jobs/{here['id']}/errors").data

    job = ended(client, data=items, output_url=f"file://{folder}/out/")
    manifest, body = listed(client, job, folder / "out")

    assert (job["output_url"], job["status"]) == (f"file://{folder}/out", "partial")
    assert body == wanted
    assert [part["first_item"] for part in manifest["parts"]] == [0, 4, 8]
    assert manifest["counts"] == job["counts"]
    assert (manifest["job_id"], manifest["status"], manifest["version"]) == (job["id"], "partial", "2")
    assert (folder / "out" / manifest["errors"]["object"]).read_bytes() == errors
    assert manifest["errors"]["sha256"] == hashlib.sha256(errors).hexdigest()
    refused(client.get(f"/v1/jobs/{job['id']}/outputs"), 409, f"are in file://{folder}/out", "manifest.json")
    assert client.get(f"/v1/jobs/{job['id']}/errors").data == errors
    story = [event["event"] for event in client.get(f"/v1/jobs/{job['id']}/events").json["data"]]
    assert story[-2:] == ["finished", "manifest_written"]


@pytest.mark.usefixtures("runner")
def test_a_retry_writes_a_new_part_in_place_of_one_with_errors(
    client: Client, folder: Path, database: Database
) -> None:
    items = [{"text": text} for text in (*TEXTS[:2], "!raise", *TEXTS[2:])]
    job = ended(client, data=items, output_url=f"file://{folder}/out")
    before, body = listed(client, job, folder / "out")

    client.post(f"/v1/jobs/{job['id']}/retry")
    again = client.get(f"/v1/jobs/{job['id']}?wait=30").json

    after, same = listed(client, again, folder / "out")
    assert again["counts"] == job["counts"]
    assert same == body
    assert before["parts"][0]["object"] != after["parts"][0]["object"]
    assert before["parts"][1:] == after["parts"][1:]
    with database.reading() as session:
        sums = "SELECT sum(n_succeeded), sum(n_errored) FROM chunks"
        assert tuple(session.execute(text(sums)).one()) == (10, 1)


def test_each_job_writes_to_a_folder_of_its_own(client: Client, folder: Path) -> None:
    job = make_job(client, data=[{"text": "a"}], output_url=f"file://{folder}/out")
    body = {"model": "moody", "data": [{"text": "a"}], "output_url": f"file://{folder}/out/"}
    refused(client.post("/v1/jobs", json=body), 409, f"job {job['id']} has its outputs in")
    for wrong, status in (
        ("file:///etc", 403),
        (f"file://{folder}/../out", 422),
        ("s3://inputs/data2/x", 403),
    ):
        refused(client.post("/v1/jobs", json=body | {"output_url": wrong}), status, "/output_url")


@on_sqlite
@pytest.mark.usefixtures("runner")
def test_a_folder_that_cannot_be_written_fails_the_job_with_the_reason(client: Client, folder: Path) -> None:
    (folder / "out").write_text("a file, where a folder should be")
    job = ended(client, data=[{"text": "a"}], output_url=f"file://{folder}/out")
    (line,) = client.get(f"/v1/jobs/{job['id']}/errors").data.splitlines()
    assert job["status"] == "failed"
    assert orjson.loads(line)["message"].startswith("output_unavailable: ")


@on_sqlite
def test_a_client_uploads_past_the_service_and_then_registers(client: Client, folder: Path) -> None:
    target = {"folder": "s3://inputs/data/incoming", "name": "x.ndjson"}
    first, second = (client.post("/v1/inputs/presigned", json=target) for _ in range(2))
    assert (first.status_code, first.json["method"], first.json["headers"]) == (201, "PUT", {})
    assert first.json["url"].startswith("s3://inputs/data/incoming/")
    assert first.json["url"].endswith("-x.ndjson")
    assert first.json["url"] != second.json["url"]

    at = urlsplit(first.json["upload_url"])
    connection = http.client.HTTPConnection(at.netloc)
    connection.request(first.json["method"], f"{at.path}?{at.query}", NDJSON)
    assert connection.getresponse().status == 200
    connection.close()

    assert register(client, first.json["url"])["n_items"] == 10
    refused(
        client.post("/v1/inputs/presigned", json=target | {"folder": f"file://{folder}/x"}),
        422,
        "has no presigned uploads",
    )
    refused(client.post("/v1/inputs/presigned", json=target | {"name": "../x"}), 422, "/name")
    refused(client.post("/v1/inputs/presigned", json=target | {"folder": "s3://inputs/x"}), 403, "/folder")


@pytest.mark.usefixtures("bucket")
def test_half_of_the_threads_are_for_those_who_wait_for_no_store(
    make_app: MakeApp, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "x.csv").write_bytes(CSV)
    app = make_app(storage_prefixes=("s3://inputs/data", f"file://{folder}"), web_threads=4)
    registration = {"url": f"file://{folder}/x.csv"}
    asking = {
        "/v1/inputs": registration,
        "/v1/inputs/presigned": {"folder": "s3://inputs/data", "name": "x.csv"},
    }
    find, entered, answering = Storage.find, threading.Semaphore(0), threading.Event()

    def find_late(storage: Storage, address: Address) -> Found:
        entered.release()
        assert answering.wait(30)
        return find(storage, address)

    monkeypatch.setattr(Storage, "find", find_late)
    answers: list[int] = []
    waiting = [
        threading.Thread(
            target=lambda: answers.append(client_of(app).post("/v1/inputs", json=registration).status_code)
        )
        for _ in range(2)
    ]
    for thread in waiting:
        thread.start()
    assert all(entered.acquire(timeout=30) for _ in waiting)

    client = client_of(app)
    for path, body in asking.items():
        crowded = client.post(path, json=body)
        refused(crowded, 503, "TWOFOLD_WEB_THREADS")
        assert crowded.headers["Retry-After"] == objects.RETRY_SECONDS
    assert client.post("/v1/inputs", json={"data": [{"text": "a"}]}).status_code == 201

    answering.set()
    for thread in waiting:
        thread.join(30)
    assert answers == [201, 201]
    for path, body in [*asking.items()] * 2:
        assert client.post(path, json=body).status_code == 201
