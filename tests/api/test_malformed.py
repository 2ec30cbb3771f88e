"""Malformed requests: each a precise problem, none a bug's 500, and nothing stays in the database."""

import gzip
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from tests.api.conftest import MakeApp, client_of

JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
ONLINE, JOBS, INPUTS = "/v1/models/moody/predict", "/v1/jobs", "/v1/inputs"
NO_ID = "01981f5e-7c4b-7d3a-9f10-2b6c8e0d4a71"
A_JOB = f"/v1/jobs/{NO_ID}"
DEEP = b'{"text":"a","a":' + b"[" * 100 + b"1" + b"]" * 100 + b"}"

Case = tuple[str, str, dict[str, Any], int, str]


def post(
    path: str, data: bytes, status: int, place: str, content_type: str | None = JSON, **headers: str
) -> Case:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return "POST", path, {"data": data, "content_type": content_type, "headers": named}, status, place


def job(fields: bytes, status: int, place: str) -> Case:
    return post(JOBS, b'{"model":"moody",' + fields + b"}", status, place)


def get(path: str, status: int, place: str, method: str = "GET", **headers: str) -> Case:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return method, path, {"headers": named}, status, place


ONE = b'"data":[{"text":"a"}]'

BODIES = [
    post(ONLINE, b"", 400, "empty"),
    post(ONLINE, b" \n", 400, "empty"),
    post(ONLINE, b"{", 400, "not JSON"),
    post(ONLINE, b'{"data":[{"text":"a"}]} x', 400, "not JSON"),
    post(ONLINE, b'\xff{"data":[]}', 400, "UTF-8"),
    post(ONLINE, b'{"data":[{"text":"\xe9"}]}', 400, "UTF-8", "application/json; charset=latin-1"),
    post(ONLINE, b'{"data":[{"text":"a\x00b"}]}', 400, "not JSON"),
    post(ONLINE, b'{"data":[{"text":"\\ud800"}]}', 400, "surrogate"),
    post(ONLINE, b'{"data":[{"text":"a","x":NaN}]}', 400, "not JSON"),
    post(ONLINE, b'{"data":[{"text":"a","x":1e999}]}', 400, "infinity"),
    post(ONLINE, b'{"data":[{"text":"a","x":' + b"9" * 5000 + b"}]}", 400, "infinity"),
    post(ONLINE, b"[" * 100_000, 400, "not JSON"),
    post(ONLINE, b"[" * 900 + b"1" + b"]" * 900, 422, "object"),
    post(
        ONLINE, b"[" * 1000 + b"9" * 30 + b"]" * 1000, 422, "body: "
    ),  # too deep before 3.12, else no object
    post(ONLINE, b'{"data":[{"text":"a"},' + DEEP + b"]}", 422, "/data/1"),
    post(ONLINE, b'{"data":[{"text":"a"},' + DEEP.replace(b"1", b"9" * 30) + b"]}", 422, "/data/1"),
    post(ONLINE, b'{"data":[],"x":[' + DEEP + b"]}", 422, "deep"),
    post(ONLINE, b"null", 422, "object"),
    post(ONLINE, b'"data"', 422, "object"),
    post(ONLINE, b"{}", 422, "/data"),
    post(ONLINE, b'{"data":null}', 422, "/data"),
    post(ONLINE, b'{"data":{"text":"a"}}', 422, "/data"),
    post(ONLINE, b'{"data":[]}', 422, "/data"),
    post(ONLINE, b'{"data":[{"text":"a"}],"dta":1}', 422, "/dta"),
    post(ONLINE, b'{"data":[{"text":"a"},null,[],1,"x"]}', 422, "/data/4"),
    post(ONLINE, b'{"data":[{"text":1}]}', 422, "/data/0/text"),
    post(ONLINE, b'{"data":[{"text":"a"},{"tet":"a"}]}', 422, "/data/1/text"),
    post(ONLINE, b'{"data":[{"text":"!refuse"}]}', 422, "/data/0/text"),
    post(ONLINE, b"{" + ONE + b"}", 415, "Content-Type:", None),
    post(ONLINE, b"data=1", 415, "Content-Type:", "application/x-www-form-urlencoded"),
    post(ONLINE, b"{" + ONE + b"}", 415, "Content-Type:", "application/json\xe9"),
    post(ONLINE, b"{" + ONE + b"}", 415, "Content-Encoding:", content_encoding="br"),
    post(ONLINE, b"{" + ONE + b"}", 400, "gzip", content_encoding="gzip"),
    post(ONLINE, gzip.compress(b"{" + ONE + b"}", mtime=0)[:-6], 400, "gzip", content_encoding="gzip"),
    post(ONLINE, gzip.compress(b" " * 10**6, mtime=0), 413, "131,072 bytes", content_encoding="gzip"),
    post(ONLINE, b" " * 10**6, 413, "131,072 bytes"),
    post("/prediction/online", b"[]", 422, "object"),
    post("/prediction/online", b'{"data":[{}]}', 422, "/data/0/text"),
]
UPLOADS = [
    post(INPUTS, b"", 422, "/data"),
    post(INPUTS, b'{"data":[{"a":1},{"a":2}', 400, "cut short"),
    post(INPUTS, b'{"data":[{"a":1},{"a":}]}', 400, "/data/1"),
    post(INPUTS, b'{"data":[{"a":1},7]}', 422, "/data/1"),
    post(INPUTS, b'{"data":[{"a":1}],"data":[]}', 422, "data"),
    post(INPUTS, b'{"data":[{"a":"\\ud800"}]}', 400, "/data/0"),
    post(INPUTS, b'{"data":[' + DEEP + b"]}", 422, "/data/0"),
    post(INPUTS, b"[" * 100_000, 422, "object"),
    post(INPUTS, b"", 422, "line 1", NDJSON),
    post(INPUTS, b'{"a":1}\n{"a":\n', 400, "line 2", NDJSON),
    post(INPUTS, b'{"a":1}\n[1]\n', 422, "line 2", NDJSON),
    post(INPUTS, b'{"a":1}\n{"a":"\xff"}\n', 400, "line 2", NDJSON),
    post(INPUTS, b'{"a":1}\n{"a":NaN}\n', 400, "line 2", NDJSON),
    post(INPUTS, b'{"a":"' + b"x" * 5000 + b'"}', 413, "line 1", NDJSON),
    post(INPUTS, b'{"a":1}\n' * 100_000, 413, "131,072 bytes", NDJSON),
    post(INPUTS, b"a,a\n1,2\n", 422, "line 1", CSV),
    post(INPUTS, b"a,\n1,2\n", 422, "line 1", CSV),
    post(INPUTS, b"a,b\n1,2\n1\n", 422, "line 3", CSV),
    post(INPUTS, b'a\n"1\n', 400, "line 2", CSV),
    post(INPUTS, b"a\n\xff\n", 400, "line 2", CSV),
    post(INPUTS, b"a\n", 422, "line 1", CSV),
    post(INPUTS, b'{"a":1}\n', 415, "Content-Type:", None),
    post(INPUTS, b"<a/>", 415, "Content-Type:", "application/xml"),
    post(INPUTS, b"a\n1\n", 415, "charset", "text/csv; charset=utf-16"),
    post(INPUTS, b'{"a":1}\n', 415, "Content-Encoding:", NDJSON, content_encoding="br"),
    post(INPUTS, b'{"a":1}\n', 400, "zstd body is corrupt", NDJSON, content_encoding="zstd"),
    post(
        INPUTS, gzip.compress(b'{"a":1}\n' * 50, mtime=0)[:-9], 400, "gzip", NDJSON, content_encoding="gzip"
    ),
    post(
        INPUTS, gzip.compress(b"\n" * 10**7, mtime=0), 413, "131,072 bytes", NDJSON, content_encoding="gzip"
    ),
    post(
        INPUTS, gzip.compress(b'{"a":1}\n', mtime=0) + b"junk", 400, "gzip", NDJSON, content_encoding="gzip"
    ),
    post("/upload", b'{"data":[]}', 422, "/data"),
    post("/upload", b"<html>", 400, "not JSON", "text/html"),
]
JOB_BODIES = [
    post(JOBS, b"", 400, "empty"),
    post(JOBS, b"[]", 422, "body"),
    post(JOBS, b'{"data":[{"text":"a"}]}', 422, "/model"),
    job(b'"data":[{"text":"a"},{"text":"' + b"x" * 5000 + b'"}]', 413, "/data/1"),
    post(JOBS, b'{"model":"","data":[{}]}', 404, "''"),
    post(JOBS, b'{"model":null,"data":[{}]}', 422, "/model"),
    post(JOBS, b'{"model":["moody"],"data":[{}]}', 422, "/model"),
    post(JOBS, b'{"model":"a\\u0000b","data":[{}]}', 404, "x00b"),
    post(JOBS, b'{"model":"\\ud800","data":[{}]}', 400, "surrogate"),
    job(ONE + b',"version":"9"', 404, "'9'"),
    job(ONE + b',"version":2', 422, "/version"),
    job(ONE + b',"version":"\\u0000"', 404, "x00"),
    job(ONE + b',"modle":"a","a~/b":1', 422, "/a~0~1b"),
    job(b'"priority":0', 422, "/input_id"),
    job(ONE + b',"input_id":"%s"' % NO_ID.encode(), 422, "/input_id"),
    job(b'"input_id":"%s"' % NO_ID.encode(), 404, NO_ID),
    job(b'"input_id":"%s"' % NO_ID.upper().encode(), 422, "/input_id"),
    job(b'"input_id":7', 422, "/input_id"),
    job(b'"input_id":"\\u0000"', 422, "/input_id"),
    job(b'"data":[]', 422, "/data"),
    job(b'"data":{"text":"a"}', 422, "/data"),
    job(b'"data":[{"text":"a"},1]', 422, "/data/1"),
    job(b'"data":[{"text":"a"},' + DEEP + b"]", 422, "/data/1"),
    *(
        job(ONE + b',"priority":' + value, 422, "/priority")
        for value in (b"1.5", b"1.0", b'"1"', b"true", b"null", b"101", b"-101", b"1" * 30, b"[]")
    ),
    *(
        job(ONE + b',"run_at":' + value, 422, "/run_at")
        for value in (
            b'"tomorrow"',
            b"1700000000",
            b'""',
            b'"2027-01-01"',
            b'"2027-01-01T00:00:00"',
            b'"2027-02-30T00:00:00Z"',
            b'"2027-01-01T00:00:00+99:00"',
            b'"0001-01-01T00:00:00+14:00"',
            b'"9999-12-31T23:59:59-12:00"',
            b'"9999-12-31T23:59:59Z","priority":100',
            b'"0001-01-01T00:00:00Z","priority":-100',
            b'"10000-01-01T00:00:00Z"',
            b'"2027-01-01T00:00:00Z\\u0000"',
        )
    ),
]
ADDRESSES = [
    get("/nowhere", 404, "/nowhere"),
    get("/%00%ff", 404, "there is nothing"),
    get("/v1/models/%00", 404, "x00"),
    get("/v1/models/%ff%ed%a0%80", 404, "No model"),
    *(
        get(f"/v1/{kind}/{text}", 404, f"no {kind[:-1]}")
        for kind in ("inputs", "jobs")
        for text in ("7", "%00", "%ff", NO_ID, NO_ID.upper(), NO_ID + "%00", "x" * 3000)
    ),
    get(f"{A_JOB}/outputs", 404, NO_ID),
    get(f"{A_JOB}/errors", 404, NO_ID),
    get("/v1/jobs/%00/outputs?partial=true", 404, "no job"),
    get("/v1/jobs/%00/errors", 404, "no job"),
    get(A_JOB, 404, NO_ID, "DELETE"),
    get("/v1/jobs/%00", 404, "no job", "DELETE"),
    get("/v1/inputs/1'--", 404, "no input", "DELETE"),
    get(f"{A_JOB}/cancel", 404, NO_ID, "POST"),
    get(f"{A_JOB}/cancel", 405, "not allowed"),
    get(JOBS, 405, "not allowed", "PATCH"),
    get(f"{A_JOB}/outputs?partial=maybe", 422, "?partial"),
    get(f"{A_JOB}/outputs", 406, "Accept:", accept="image/png"),
    get(f"{A_JOB}/outputs", 406, "Accept:", accept="*/*;q=0"),
    *(get(f"{A_JOB}?wait={value}", 422, "?wait") for value in ("-1", "61", "nan", "inf", "1e999", "x", "")),
    *(
        get(f"/v1/{kind}?limit={value}", 422, "?limit")
        for kind in ("inputs", "jobs")
        for value in ("0", "-1", "1001", "1" * 30, "9" * 5000, "1.5", "x", "%00", "")
    ),
    *(
        get(f"/v1/{kind}?cursor={value}", 422, "?cursor")
        for kind in ("inputs", "jobs")
        for value in ("7", "%00", "%ff", "", NO_ID[:-1], NO_ID.upper(), f"{{{NO_ID}}}", NO_ID + "%0a")
    ),
    get("/v1/jobs?status=done", 422, "?status"),
    get("/v1/jobs?status=%00", 422, "?status"),
    get("/v1/jobs?model=a%00b", 422, "?model"),
    get("/v1/jobs?model=%ff", 422, "?model"),
    get("/v1/jobs?input_id=%00", 422, "?input_id"),
    get("/v1/jobs?lmit=1&%00=1", 422, "?lmit"),
    get("/v1/inputs?page=2", 422, "?page"),
    get("/prediction/batch", 422, "?filename"),
    get("/prediction/batch?filename=..%2Fx%00", 404, "no upload"),
    get(f"/prediction/batch?filename={NO_ID}", 404, NO_ID),
    get("/download", 422, "?filename"),
    get("/download?filename=", 404, "no upload"),
    get(f"/download?filename={NO_ID}", 404, NO_ID),
]


def fault(app: Flask, case: Case) -> str | None:
    """What is wrong with the answer to a malformed request, if anything is."""
    method, path, request, status, place = case
    response = client_of(app).open(path, method=method, **request)
    problem = response.json if response.mimetype == "application/problem+json" else None
    shown = f"{method} {path[:60]} {request.get('data', b'')[:60]!r}: {response.status_code} {response.text[:200]}"
    if response.status_code != status or problem is None:
        return f"{shown} (expected {status})"
    said = [problem["detail"], *(f"{e['pointer']} {e['detail']}" for e in problem.get("errors", []))]
    return None if any(place in text for text in said) else f"{shown} (expected {place!r})"


@pytest.mark.parametrize(
    "cases", [BODIES, UPLOADS, JOB_BODIES, ADDRESSES], ids=["online", "uploads", "jobs", "addresses"]
)
def test_a_malformed_request_is_refused_at_its_place_and_leaves_nothing(
    cases: list[Case], make_app: MakeApp, count_rows: Callable[[], dict[str, int]]
) -> None:
    # One chunk an item: a refused upload has committed many by then.
    app = make_app(chunk_items=1, max_request_bytes=131_072, max_upload_bytes=131_072, max_item_bytes=4096)

    assert "\n".join(found for case in cases if (found := fault(app, case))) == ""
    assert count_rows() == {}
