"""Downloads in parts, compressed, or not at all: ranges of items, codings, and tags of what a client has already."""

import gzip
import io
from collections.abc import Callable
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from app.columns import Payload
from tests.api.conftest import Answer, Client, ended, items, make_job, refused
from tests.conftest import on_fresh_databases
from tests.data.bodies import zstd

JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
PARQUET = "application/vnd.apache.parquet"
TEXTS = [*"abcdef", "!raise", *"ghijklmno", "!raise", *"pq"]
"""19 items, of which the model refuses those in the places 6 and 16; chunks have four."""
PRESENT = [(place, text) for place, text in enumerate(TEXTS) if text != "!raise"]

pytestmark = pytest.mark.usefixtures("runner")


@pytest.fixture
def job(client: Client) -> dict[str, Any]:
    return ended(client, data=items(*TEXTS))


def download(client: Client, job: dict[str, Any], query: str = "", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(f"/v1/jobs/{job['id']}/outputs{query}", headers={"Accept": NDJSON} | named)


def texts(response: Answer) -> list[str]:
    return [orjson.loads(line)["text"] for line in response.data.splitlines()]


def within(start: int, stop: int) -> list[str]:
    return [text for place, text in PRESENT if start <= place < stop]


def test_every_part_by_offset_and_limit_is_that_of_the_input(client: Client, job: dict[str, Any]) -> None:
    for offset in range(len(TEXTS) + 2):
        for limit in (1, 3, 4, 9, 100):
            response = download(client, job, f"?offset={offset}&limit={limit}")
            assert response.status_code == 200
            assert texts(response) == within(offset, offset + limit)
    assert texts(download(client, job, "?limit=5")) == within(0, 5)
    assert texts(download(client, job, "?offset=17")) == within(17, 19)


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("items=0-0", 0, 1),
        ("items=0-18", 0, 19),
        ("items=5-9", 5, 10),
        ("items=7-", 7, 19),
        ("items=-3", 16, 19),
        ("items=-100", 0, 19),
        ("items=15-1000", 15, 19),
        ("Items = 18 - 18", 18, 19),
    ],
)
def test_a_range_is_answered_with_206(
    asked: str, start: int, stop: int, client: Client, job: dict[str, Any]
) -> None:
    response = download(client, job, Range=asked)

    assert response.status_code == 206
    assert response.headers["Content-Range"] == f"items {start}-{stop - 1}/19"
    assert response.headers["Accept-Ranges"] == "items"
    assert texts(response) == within(start, stop)


def test_what_broke_off_is_resumed_from_the_next_item(client: Client, job: dict[str, Any]) -> None:
    whole = download(client, job)
    first, tag = whole.data[:60].rpartition(b"\n")[0] + b"\n", whole.headers["ETag"]
    n_read = first.count(b"\n")

    rest = download(client, job, Range=f"items={n_read}-", If_Range=tag)

    assert rest.status_code == 206
    assert rest.headers["ETag"] == tag
    assert first + rest.data == whole.data


def test_a_range_of_another_body_is_answered_with_the_whole(client: Client, job: dict[str, Any]) -> None:
    for known in ('"another"', "Tue, 24 Nov 2026 18:00:00 GMT", 'W/"weak"'):
        response = download(client, job, Range="items=5-", If_Range=known)
        assert response.status_code == 200
        assert texts(response) == within(0, 19)


@pytest.mark.parametrize("asked", ["items=19-", "items=19-30", "items=-0", "items=999999999999-"])
def test_a_range_beyond_the_end_is_416(asked: str, client: Client, job: dict[str, Any]) -> None:
    response = download(client, job, Range=asked)

    refused(response, 416, "Range:", "19")
    assert response.headers["Content-Range"] == "items */19"


@pytest.mark.parametrize("asked", ["items=", "items=-", "items=5", "items=a-b", "items=0-1,3-4", "items=5-4"])
def test_a_range_that_cannot_be_read_is_refused(asked: str, client: Client, job: dict[str, Any]) -> None:
    refused(download(client, job, Range=asked), 400, "Range:", asked)


def test_a_range_in_bytes_is_not_ours(client: Client, job: dict[str, Any]) -> None:
    response = download(client, job, Range="bytes=0-10")

    assert response.status_code == 200
    assert texts(response) == within(0, 19)


def test_two_ways_to_ask_for_a_part_at_once_are_refused(client: Client, job: dict[str, Any]) -> None:
    refused(download(client, job, "?offset=3", Range="items=0-1"), 422, "Range:", "not by both")
    refused(download(client, job, "?offset=-1"), 422, "?offset")
    refused(download(client, job, "?limit=0"), 422, "?limit")


def test_a_part_is_a_document_of_its_own_in_each_format(client: Client, job: dict[str, Any]) -> None:
    query = "?offset=5&limit=3"

    assert download(client, job, query, Accept=JSON).json == {
        "prediction": [{"text": "f", "mood": "better"}, {"text": "g", "mood": "better"}]
    }
    assert download(client, job, query, Accept=CSV).text == "text,mood\r\nf,better\r\ng,better\r\n"
    table = pq.read_table(io.BytesIO(download(client, job, query, Accept=PARQUET).data))
    assert table.to_pydict() == {"text": ["f", "g"], "mood": ["better", "better"]}


@on_fresh_databases  # a statement that has run already keeps the method that is replaced here
def test_the_database_reads_no_chunk_outside_the_part(client: Client, job: dict[str, Any]) -> None:
    fetched: list[int] = []

    def note(payload: str, *_: object) -> bytes:
        fetched.append(1)
        return payload.encode()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Payload, "process_result_value", lambda self, value, dialect: note(value))
        response = download(client, job, "?offset=9&limit=6")
        assert texts(response) == within(9, 15)

    assert len(fetched) == 2


def test_head_looks_at_no_range(client: Client, job: dict[str, Any]) -> None:
    for part in ("items=0-1", "items=999-"):
        response = client.open(
            f"/v1/jobs/{job['id']}/outputs", method="HEAD", headers={"Accept": NDJSON, "Range": part}
        )
        assert (response.status_code, response.data) == (200, b"")


def test_downloads_have_a_file_name(client: Client, job: dict[str, Any]) -> None:
    for accept, ending in ((JSON, "json"), (NDJSON, "ndjson"), (CSV, "csv"), (PARQUET, "parquet")):
        response = download(client, job, Accept=accept)
        assert response.headers["Content-Disposition"] == f'attachment; filename="{job["id"]}.{ending}"'
        assert response.mimetype == accept


def test_a_tag_is_that_of_one_body(client: Client, job: dict[str, Any]) -> None:
    asked: list[tuple[str, dict[str, str]]] = [
        ("", {}),
        ("", {"Accept": CSV}),
        ("", {"Accept": JSON}),
        ("", {"Accept_Encoding": "gzip"}),
        ("?offset=1", {}),
        ("?limit=3", {}),
    ]
    tags = [download(client, job, query, **headers).headers["ETag"] for query, headers in asked]

    assert len(set(tags)) == len(tags)
    assert all(tag.startswith('"') for tag in tags), "strong"
    for (query, headers), tag in zip(asked, tags, strict=True):
        again = download(client, job, query, If_None_Match=tag, **headers)
        assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", tag)
        assert again.headers["Vary"] == "Accept, Accept-Encoding"
        assert download(client, job, query, If_None_Match='"other"', **headers).status_code == 200
    for part in ("items=0-1", "items=999-"):
        assert download(client, job, If_None_Match=tags[0], Range=part).status_code == 304


def test_a_retry_makes_another_tag(client: Client, job: dict[str, Any]) -> None:
    before = download(client, job).headers["ETag"]

    client.post(f"/v1/jobs/{job['id']}/retry")
    assert client.get(f"/v1/jobs/{job['id']}?wait=30").json["done"]

    response = download(client, job, If_None_Match=before)
    assert response.status_code == 200
    assert response.headers["ETag"] != before


def test_what_is_partial_has_no_tag_and_the_places_of_the_whole(client: Client) -> None:
    waiting = make_job(client, data=items("a", "b"), run_at="2199-01-01T00:00:00Z")

    response = download(client, waiting, "?partial=true", Range="items=1-")

    assert response.status_code == 206
    assert response.headers["Content-Range"] == "items 1-1/2"
    assert "ETag" not in response.headers
    assert response.data == b""


@pytest.mark.parametrize(
    ("coding", "unpack"), [("gzip", gzip.decompress), ("zstd", zstd.decompress)], ids=["gzip", "zstd"]
)
def test_bodies_are_compressed_as_the_client_likes(
    coding: str, unpack: Callable[[bytes], bytes], client: Client, job: dict[str, Any]
) -> None:
    for accept in (JSON, NDJSON, CSV, PARQUET):
        plain = download(client, job, Accept=accept)
        packed = download(client, job, Accept=accept, Accept_Encoding=f"br, {coding};q=0.5")
        assert packed.headers["Content-Encoding"] == coding
        assert "Content-Encoding" not in plain.headers
        assert unpack(packed.data) == plain.data
    failed = client.get(f"/v1/jobs/{job['id']}/errors", headers={"Accept-Encoding": coding})
    assert [orjson.loads(line)["index"] for line in unpack(failed.data).splitlines()] == [6, 16]


def test_a_coding_that_we_have_not_is_not_forced_upon_us(client: Client, job: dict[str, Any]) -> None:
    assert download(client, job, Accept_Encoding="br").status_code == 200
    refused(download(client, job, Accept_Encoding="br, identity;q=0"), 406, "Accept-Encoding:", "zstd")


def test_head_tells_what_get_would(client: Client, job: dict[str, Any]) -> None:
    path = f"/v1/jobs/{job['id']}/outputs"

    head, get = client.head(path), client.get(path)

    assert head.data == b""
    told = ("Content-Type", "Content-Disposition", "ETag", "Accept-Ranges", "Vary")
    assert {name: head.headers[name] for name in told} == {name: get.headers[name] for name in told}


def test_a_body_is_not_collected_before_it_is_sent(client: Client, job: dict[str, Any]) -> None:
    response = download(client, job)

    assert response.is_streamed
    assert "Content-Length" not in response.headers
