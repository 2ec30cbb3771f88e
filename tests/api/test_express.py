"""The express: it takes plain requests for a quick model, answers them as the lane does, and takes nothing else."""

import orjson
import pytest
from flask import Flask

from app.lanes import Lane, express
from app.lanes.express import Express
from app.models.quickness import PROBATION_CALLS
from tests.api.conftest import client_of, services_of

pytestmark = [
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.parametrize("lane", ["asgi"], indirect=True),
]

PATH = b"/v1/models/moody/predict"
BODY = b'{"data":[{"text":"a","id":7}]}'
HOST, JSON, LENGTH = b"Host: x", b"Content-Type: application/json", b"Content-Length: %d" % len(BODY)


def request(*headers: bytes, line: bytes = b"POST %b HTTP/1.1" % PATH, body: bytes = BODY) -> bytes:
    return b"\r\n".join([line, *headers, b"", body])


@pytest.fixture
def taken(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Express:
    """The express of an app whose model has proved quick, however slow this machine is."""
    monkeypatch.setattr("app.models.quickness.QUICK_SECONDS", 60)
    monkeypatch.setattr("app.models.quickness.SLOW_SECONDS", 60)
    here = services_of(app)
    served = here.registry.get("moody")
    assert served.wait_ready(30)
    for _ in range(PROBATION_CALLS):
        here.registry.batcher(served).predict([{"text": "a"}], None, seconds=30)
    return Express(Lane(here, max_bytes=1000))


@pytest.mark.parametrize(
    "headers",
    [
        [HOST, JSON, LENGTH],
        [b"host: x", b"content-type: application/json; charset=utf-8", b"content-length: %d" % len(BODY)],
        [HOST, JSON, LENGTH, b"User-Agent: a (b) c/1", b"Accept: */*", b"Connection: Keep-Alive"],
        [HOST, b"X-Forwarded-For: 1.2.3.4, 5.6.7.8", JSON, LENGTH, b"Accept-Encoding: gzip, br"],
    ],
)
def test_a_plain_request_is_answered_as_by_the_lane(taken: Express, app: Flask, headers: list[bytes]) -> None:
    answer = taken.answer(request(*headers, b"X-Request-ID: mine"))
    by_lane = client_of(app).post(
        PATH.decode(), data=BODY, content_type="application/json", headers={"X-Request-ID": "mine"}
    )

    assert answer is not None
    assert (answer.status, answer.body) == (200, by_lane.data)
    assert {name.lower(): value for name, value in answer.headers} == {
        name.lower(): value for name, value in by_lane.headers
    }


def test_the_article_s_path_takes_it_too(taken: Express) -> None:
    answer = taken.answer(request(HOST, JSON, LENGTH, line=b"POST /prediction/online HTTP/1.1"))

    assert answer is not None
    assert orjson.loads(answer.body) == {"prediction": [{"text": "a", "id": 7, "mood": "better"}]}


def test_what_is_wrong_with_a_body_is_told_by_a_problem(taken: Express) -> None:
    body = b'{"data":[{"text":1}]}'

    answer = taken.answer(request(HOST, JSON, b"Content-Length: %d" % len(body), body=body))

    assert answer is not None
    assert answer.status == 422
    assert ("Content-Type", "application/problem+json") in answer.headers
    assert orjson.loads(answer.body)["errors"][0]["pointer"] == "/data/0/text"


@pytest.mark.parametrize(
    "data",
    {
        "no host": request(JSON, LENGTH),
        "no length": request(HOST, JSON),
        "two lengths": request(HOST, JSON, LENGTH, LENGTH),
        "a body that goes on": request(HOST, JSON, LENGTH, body=BODY[:-1]),
        "a second request behind it": request(HOST, JSON, LENGTH) + request(HOST, JSON, LENGTH),
        "a sign": request(HOST, JSON, b"Content-Length: +%d" % len(BODY)),
        "a zero before": request(HOST, JSON, b"Content-Length: 0%d" % len(BODY)),
        "chunks": request(HOST, JSON, LENGTH, b"Transfer-Encoding: chunked"),
        "another coding": request(HOST, JSON, LENGTH, b"Content-Encoding: gzip"),
        "a preference": request(HOST, JSON, LENGTH, b"Prefer: wait=1"),
        "an expectation": request(HOST, JSON, LENGTH, b"Expect: 100-continue"),
        "a header nobody knows": request(HOST, JSON, LENGTH, b"X-Other: 1"),
        "the end of the connection": request(HOST, JSON, LENGTH, b"Connection: close"),
        "a folded header": request(HOST, JSON, LENGTH, b"Accept: a", b" b"),
        "a space before the colon": request(HOST, JSON, b"Content-Length : %d" % len(BODY)),
        "no space after the colon": request(HOST, JSON, b"Content-Length:%d" % len(BODY)),
        "a tab": request(HOST, JSON, LENGTH, b"Accept: a\tb"),
        "a NUL": request(HOST, JSON, LENGTH, b"Accept: a\0b"),
        "a lone line feed": request(HOST, JSON, LENGTH).replace(b"\r\nHost", b"\nHost"),
        "an older HTTP": request(HOST, JSON, LENGTH, line=b"POST %b HTTP/1.0" % PATH),
        "another method": request(HOST, JSON, LENGTH, line=b"PUT %b HTTP/1.1" % PATH),
        "a query": request(HOST, JSON, LENGTH, line=b"POST %b?a=b HTTP/1.1" % PATH),
        "an escape": request(HOST, JSON, LENGTH, line=b"POST /v1/models/m%6fody/predict HTTP/1.1"),
        "no such model": request(HOST, JSON, LENGTH, line=b"POST /v1/models/other/predict HTTP/1.1"),
        "another path": request(HOST, JSON, LENGTH, line=b"POST /v1/jobs HTTP/1.1"),
        "a line before it": b"\r\n" + request(HOST, JSON, LENGTH),
        "no end of its head": b"POST %b HTTP/1.1\r\nHost: x\r\n" % PATH,
        "a long head": request(HOST, JSON, LENGTH, b"Accept: " + b"a" * 3000),
        "a body that is too long for a lane": request(HOST, b"Content-Length: 1001", JSON, body=b" " * 1001),
        "nothing": b"",
    }.items(),
    ids=lambda data: data[0],
)
def test_all_else_is_left_to_gunicorn(taken: Express, data: tuple[str, bytes]) -> None:
    assert taken.answer(request(HOST, JSON, LENGTH)) is not None
    assert taken.answer(data[1]) is None


def test_a_model_that_is_not_quick_is_left_to_its_thread(
    taken: Express, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.models.quickness.QUICK_SECONDS", 0)

    assert taken.answer(request(HOST, JSON, LENGTH)) is None


def test_only_so_many_heads_are_remembered(taken: Express, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(express, "MOST_HEADS", 3)

    for number in range(10):
        assert taken.answer(request(HOST, JSON, LENGTH, b"X-Request-ID: %d" % number)) is not None

    assert len(taken._heads) <= 3
