"""Uploads: what arrives is what is stored, and what breaks off leaves nothing."""

import gzip
import hashlib
import io
import re
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import pytest
from flask import Flask
from sqlalchemy.orm import Session

from app.jobs import inputs, uploads
from tests.api.conftest import Answer, Client, client_of, ended, items, refused

CountRows = Callable[[], dict[str, int]]
JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
ITEMS = [{"text": f"{index} é 😀", "n": index} for index in range(10)]
BODIES = {
    JSON: orjson.dumps({"data": ITEMS}, option=orjson.OPT_INDENT_2),
    NDJSON: b"".join(orjson.dumps(item) + b"\n" for item in ITEMS),
    CSV: "".join(["text,n\r\n", *(f"{item['text']},{item['n']}\r\n" for item in ITEMS)]).encode(),
}


def upload(client: Client, body: bytes, content_type: str = NDJSON, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/v1/inputs", data=body, content_type=content_type, headers=named)


class Blocks(io.RawIOBase):
    """A connection that gives these blocks, one a read, and then breaks if it is told how."""

    def __init__(self, blocks: Iterable[bytes], then: BaseException | None = None) -> None:
        self._blocks = iter(blocks)
        self._then = then

    def read(self, size: int = -1) -> bytes:
        block = next(self._blocks, b"")
        if not block and self._then is not None:
            raise self._then
        return block


def stream(client: Client, blocks: Blocks, **environ: Any) -> Answer:
    """An upload without a length, as `Transfer-Encoding: chunked` makes it."""
    overrides = {"wsgi.input": blocks, "wsgi.input_terminated": True, **environ}
    return client.post("/v1/inputs", content_type=NDJSON, environ_overrides=overrides)


@pytest.mark.parametrize("content_type", [JSON, NDJSON, CSV])
def test_an_upload_is_sealed_and_measured_as_decoded(
    content_type: str, client: Client, count_rows: CountRows
) -> None:
    body = BODIES[content_type]

    plain = upload(client, body, content_type)
    compressed = upload(client, gzip.compress(body), content_type, content_encoding="gzip")

    for response in (plain, compressed):
        assert response.status_code == 201
        made = response.json
        assert response.headers["Location"] == f"/v1/inputs/{made['id']}"
        assert made["format"] == {JSON: "json", NDJSON: "ndjson", CSV: "csv"}[content_type]
        assert made["n_items"] == 10
        assert made["n_bytes"] == len(body)
        assert made["sha256"] == hashlib.sha256(body).hexdigest()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made["created_at"])
        assert made["sealed_at"] >= made["created_at"]
        assert client.get(response.headers["Location"]).json == made
    assert count_rows() == {"inputs": 2, "input_chunks": 6}


def test_a_streamed_upload_of_many_commits_is_whole(
    client: Client, count_rows: CountRows, select_all: Callable[..., list[dict[str, Any]]]
) -> None:
    n_items = 4 * uploads.CHUNKS_PER_COMMIT * 3 + 1
    body = b"".join(b'{"n":%d}\n' % index for index in range(n_items))

    response = stream(client, Blocks(body[start : start + 7] for start in range(0, len(body), 7)))

    assert response.status_code == 201
    assert (response.json["n_items"], response.json["n_bytes"]) == (n_items, len(body))
    assert response.json["sha256"] == hashlib.sha256(body).hexdigest()
    assert count_rows() == {"inputs": 1, "input_chunks": 49}
    chunks = select_all("SELECT seq, first_item, n_items, items FROM input_chunks ORDER BY seq")
    assert [(chunk["seq"], chunk["first_item"]) for chunk in chunks] == [(i, 4 * i) for i in range(49)]
    stored = [item["n"] for chunk in chunks for item in orjson.loads(chunk["items"])]
    assert stored == list(range(n_items))


def test_an_upload_of_exactly_whole_commits_is_sealed(client: Client, count_rows: CountRows) -> None:
    n_items = 4 * uploads.CHUNKS_PER_COMMIT * 2

    response = upload(client, b'{"n":1}\n' * n_items)

    assert response.json["n_items"] == n_items
    assert count_rows() == {"inputs": 1, "input_chunks": 32}


LONG = [b'{"n":"%s"}\n' % (b"x" * 1000)] * 300
"""300 KB in 75 chunks: several commits are made by the time that its end is read."""


HANG_UPS = ("reset by peer", "connection closed")


@pytest.mark.parametrize(
    ("sent", "then", "environ", "fragment"),
    [
        ([b'{"n":1}\n{"n":'], None, {}, "line 2"),
        ([*LONG, b"{"], None, {}, "line 301"),
        ([*LONG, b"7\n"], None, {}, "line 301"),
        (LONG, ConnectionResetError("reset by peer"), {}, "reset by peer"),
        (LONG, None, {"CONTENT_LENGTH": "9999999"}, "connection closed"),
        ([gzip.compress(b"".join(LONG), mtime=0)[:-8]], None, {"HTTP_CONTENT_ENCODING": "gzip"}, "cut short"),
    ],
    ids=["short", "cut", "no object", "reset", "hung up", "gzip"],
)
def test_an_upload_that_breaks_leaves_nothing(
    sent: list[bytes],
    then: BaseException | None,
    environ: dict[str, Any],
    fragment: str,
    app: Flask,
    count_rows: CountRows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[str] = []
    begin = inputs.begin

    def note(session: Session, input_id: str, format: str, **options: Any) -> None:
        begun.append(input_id)
        begin(session, input_id, format, **options)

    monkeypatch.setattr(inputs, "begin", note)

    response = stream(client_of(app), Blocks(sent, then), **environ)

    assert response.status_code in (400, 422), response.text
    if response.data:  # none, where the client is known to have hung up
        problem = response.json
        said = [problem["detail"], *(error["pointer"] for error in problem.get("errors", []))]
        assert any(fragment in text for text in said), said
    assert bool(response.data) is not (app.config["LANE"] == "asgi" and fragment in HANG_UPS)
    assert count_rows() == {}
    assert len(begun) == (fragment != "line 2")  # a short upload had not come to the database yet


@pytest.mark.parametrize(
    "lane", ["wsgi"], indirect=True
)  # on the other, the worker's end waits for its threads
def test_a_worker_that_must_exit_during_an_upload_leaves_nothing(app: Flask, count_rows: CountRows) -> None:
    with pytest.raises(SystemExit):
        stream(client_of(app), Blocks(LONG, SystemExit(1)))

    assert count_rows() == {}


def test_an_upload_is_invisible_until_it_is_sealed(app: Flask, client: Client) -> None:
    seen: list[object] = []

    class Looking(Blocks):
        def read(self, size: int = -1) -> bytes:
            block = super().read(size)
            if not block:
                seen.append(client_of(app).get("/v1/inputs").json["data"])
            return block

    response = stream(client, Looking(LONG))

    assert seen[0] == []
    assert [made["id"] for made in client.get("/v1/inputs").json["data"]] == [response.json["id"]]


def test_a_deleted_input_is_gone(client: Client, count_rows: CountRows) -> None:
    location = upload(client, BODIES[NDJSON]).headers["Location"]

    response = client.delete(location)

    assert (response.status_code, response.data) == (204, b"")
    refused(client.get(location), 404, location.rpartition("/")[2])
    refused(client.delete(location), 404)
    assert count_rows() == {}


def test_an_input_that_jobs_refer_to_is_kept(client: Client) -> None:
    made = upload(client, BODIES[NDJSON])
    client.post("/v1/jobs", json={"model": "moody", "input_id": made.json["id"]})

    refused(client.delete(made.headers["Location"]), 409, "has jobs", f"/v1/jobs?input_id={made.json['id']}")

    assert client.get(made.headers["Location"]).status_code == 200


@pytest.mark.usefixtures("runner")
def test_escaped_nul_characters_and_long_numbers_survive_the_whole_way(
    client: Client, select_all: Callable[..., list[dict[str, Any]]]
) -> None:
    line = b'{"text":"a\\u0000b","a\\u0000key":[0.10,1E2,123456789012345678901234567890]}'
    made = upload(client, line)

    job = ended(client, input_id=made.json["id"])

    assert job["status"] == "succeeded"
    output = client.get(f"/v1/jobs/{job['id']}/outputs", headers={"Accept": NDJSON}).data
    assert line[:-1] + b"," in output
    assert client.get(f"/v1/jobs/{job['id']}/outputs", headers={"Accept": CSV}).status_code == 200
    ((stored),) = select_all("SELECT items FROM input_chunks")
    assert stored["items"] == f"[{line.decode()}]"


def test_the_articles_upload_is_an_input_too(client: Client) -> None:
    name = client.post("/upload", json={"data": items("a")}).json["filename"]

    assert client.get(f"/v1/inputs/{name}").json["n_items"] == 1
