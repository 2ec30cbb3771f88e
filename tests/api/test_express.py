"""The express: it takes plain requests, answers them as the lane does, now or later, and takes nothing else."""

import queue
import threading
from collections.abc import Callable

import orjson
import pytest
from flask import Flask

from app.lanes import Answer, Lane, express
from app.lanes.express import Express
from app.lanes.mailbox import Mailbox
from app.models import JsonObject
from app.models.batcher import Call
from app.models.quickness import PROBATION_CALLS
from tests.api import moody
from tests.api.conftest import MakeApp, client_of, services_of
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.parametrize("database", ["sqlite"], indirect=True),
    pytest.mark.parametrize("lane", ["asgi"], indirect=True),
]

PATH = b"/v1/models/moody/predict"
BODY = b'{"data":[{"text":"a","id":7}]}'
HOST, JSON, LENGTH = b"Host: x", b"Content-Type: application/json", b"Content-Length: %d" % len(BODY)


def asking(*headers: bytes, line: bytes = b"POST %b HTTP/1.1" % PATH, body: bytes = BODY) -> bytes:
    return b"\r\n".join([line, *headers, b"", body])


class Desk:
    """An express whose loop is turned by the test."""

    def __init__(self, app: Flask) -> None:
        self.rings: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.alarms: list[Callable[[], None]] = []
        mailbox = Mailbox(self.rings.put, lambda _seconds, alarm: self.alarms.append(alarm))
        self.express = Express(Lane(services_of(app), max_bytes=1000), mailbox)
        self.answers: list[Answer] = []

    def take(self, data: bytes) -> Answer | Call | None:
        """Alone in its turn of the loop, at whose end the model is told of it."""
        taken = self.express.take(data, self.answers.append)
        for _ in range(self.rings.qsize()):
            self.rings.get()()
        return taken

    def wait(self, data: bytes) -> Call:
        call = self.take(data)
        assert isinstance(call, Call)
        return call

    def turn(self, n_answers: int = 0) -> None:
        """Until there are so many answers, but once in any case."""
        self.rings.get(timeout=30)()
        while len(self.answers) < n_answers:
            self.rings.get(timeout=30)()

    def answer(self, data: bytes) -> Answer | None:
        """The answer to these bytes, at once or when the model has it."""
        taken = self.take(data)
        if not isinstance(taken, Call):
            return taken
        self.turn()
        return self.answers.pop()


def ready(app: Flask) -> Desk:
    """A desk whose models are."""
    for served in services_of(app).registry.models():
        assert served.wait_ready(30)
    return Desk(app)


@pytest.fixture
def desk(app: Flask) -> Desk:
    """One whose models are ready, and not known to be quick."""
    return ready(app)


@pytest.fixture
def quick(desk: Desk, app: Flask, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """One whose model has proved quick, however slow this machine is."""
    monkeypatch.setattr("app.models.quickness.QUICK_SECONDS", 60)
    monkeypatch.setattr("app.models.quickness.SLOW_SECONDS", 60)
    here = services_of(app)
    batcher = here.registry.batcher(here.registry.get("moody"))
    for _ in range(PROBATION_CALLS):
        batcher.predict([{"text": "a"}], None, seconds=30)
    wait_until(lambda: batcher.is_quick, "the model's thread to be idle")
    return desk


def gated(item: JsonObject) -> bytes:
    body = orjson.dumps({"data": [item]})
    headers = [HOST, JSON, b"Content-Length: %d" % len(body), b"X-Request-ID: mine"]
    return asking(*headers, line=b"POST /v1/models/gated/predict HTTP/1.1", body=body)


def hold(desk: Desk) -> Call:
    """A call that is in the model until the gate opens."""
    call = desk.wait(gated({"hold": True}))
    assert moody.Gated.entered.acquire(timeout=10)
    return call


@pytest.mark.parametrize(
    "headers",
    [
        [HOST, JSON, LENGTH],
        [b"host: x", b"content-type: application/json; charset=utf-8", b"content-length: %d" % len(BODY)],
        [HOST, JSON, LENGTH, b"User-Agent: a (b) c/1", b"Accept: */*", b"Connection: Keep-Alive"],
        [HOST, b"X-Forwarded-For: 1.2.3.4, 5.6.7.8", JSON, LENGTH, b"Accept-Encoding: gzip, br"],
    ],
)
@pytest.mark.parametrize("pace", ["desk", "quick"])
def test_a_plain_request_is_answered_as_by_the_lane(
    app: Flask, headers: list[bytes], pace: str, request: pytest.FixtureRequest
) -> None:
    desk: Desk = request.getfixturevalue(pace)

    answer = desk.answer(asking(*headers, b"X-Request-ID: mine"))

    by_lane = client_of(app).post(
        PATH.decode(), data=BODY, content_type="application/json", headers={"X-Request-ID": "mine"}
    )

    assert answer is not None
    assert (answer.status, answer.body) == (200, by_lane.data)
    assert {name.lower(): value for name, value in answer.headers} == {
        name.lower(): value for name, value in by_lane.headers
    }


def test_the_article_s_path_takes_it_too(desk: Desk) -> None:
    answer = desk.answer(asking(HOST, JSON, LENGTH, line=b"POST /prediction/online HTTP/1.1"))

    assert answer is not None
    assert orjson.loads(answer.body) == {"prediction": [{"text": "a", "id": 7, "mood": "better"}]}


def test_a_version_s_path_takes_it_too(desk: Desk) -> None:
    line = b"POST /v1/models/moody/versions/2/predict HTTP/1.1"

    answer = desk.answer(asking(HOST, JSON, LENGTH, line=line))

    assert answer is not None
    assert orjson.loads(answer.body)["version"] == "2"


def test_what_is_wrong_with_a_body_is_told_by_a_problem(desk: Desk) -> None:
    body = b'{"data":[{"text":1}]}'

    answer = desk.answer(asking(HOST, JSON, b"Content-Length: %d" % len(body), body=body))

    assert answer is not None
    assert answer.status == 422
    assert ("Content-Type", "application/problem+json") in answer.headers
    assert orjson.loads(answer.body)["errors"][0]["pointer"] == "/data/0/text"


@pytest.mark.parametrize(
    "data",
    {
        "no host": asking(JSON, LENGTH),
        "no length": asking(HOST, JSON),
        "two lengths": asking(HOST, JSON, LENGTH, LENGTH),
        "a body that goes on": asking(HOST, JSON, LENGTH, body=BODY[:-1]),
        "a second request behind it": asking(HOST, JSON, LENGTH) + asking(HOST, JSON, LENGTH),
        "a sign": asking(HOST, JSON, b"Content-Length: +%d" % len(BODY)),
        "a zero before": asking(HOST, JSON, b"Content-Length: 0%d" % len(BODY)),
        "chunks": asking(HOST, JSON, LENGTH, b"Transfer-Encoding: chunked"),
        "another coding": asking(HOST, JSON, LENGTH, b"Content-Encoding: gzip"),
        "a preference": asking(HOST, JSON, LENGTH, b"Prefer: wait=1"),
        "an expectation": asking(HOST, JSON, LENGTH, b"Expect: 100-continue"),
        "a header nobody knows": asking(HOST, JSON, LENGTH, b"X-Other: 1"),
        "the end of the connection": asking(HOST, JSON, LENGTH, b"Connection: close"),
        "a folded header": asking(HOST, JSON, LENGTH, b"Accept: a", b" b"),
        "a space before the colon": asking(HOST, JSON, b"Content-Length : %d" % len(BODY)),
        "no space after the colon": asking(HOST, JSON, b"Content-Length:%d" % len(BODY)),
        "a tab": asking(HOST, JSON, LENGTH, b"Accept: a\tb"),
        "a NUL": asking(HOST, JSON, LENGTH, b"Accept: a\0b"),
        "a lone line feed": asking(HOST, JSON, LENGTH).replace(b"\r\nHost", b"\nHost"),
        "an older HTTP": asking(HOST, JSON, LENGTH, line=b"POST %b HTTP/1.0" % PATH),
        "another method": asking(HOST, JSON, LENGTH, line=b"PUT %b HTTP/1.1" % PATH),
        "a query": asking(HOST, JSON, LENGTH, line=b"POST %b?a=b HTTP/1.1" % PATH),
        "an escape": asking(HOST, JSON, LENGTH, line=b"POST /v1/models/m%6fody/predict HTTP/1.1"),
        "no such model": asking(HOST, JSON, LENGTH, line=b"POST /v1/models/other/predict HTTP/1.1"),
        "another path": asking(HOST, JSON, LENGTH, line=b"POST /v1/jobs HTTP/1.1"),
        "a line before it": b"\r\n" + asking(HOST, JSON, LENGTH),
        "no end of its head": b"POST %b HTTP/1.1\r\nHost: x\r\n" % PATH,
        "a long head": asking(HOST, JSON, LENGTH, b"Accept: " + b"a" * 3000),
        "a body that is too long for a lane": asking(HOST, b"Content-Length: 1001", JSON, body=b" " * 1001),
        "nothing": b"",
    }.items(),
    ids=lambda data: data[0],
)
def test_all_else_is_left_to_gunicorn(desk: Desk, data: tuple[str, bytes]) -> None:
    assert desk.answer(asking(HOST, JSON, LENGTH)) is not None
    assert desk.answer(data[1]) is None


def test_a_quick_model_is_called_at_once_and_any_other_by_its_thread(quick: Desk) -> None:
    assert isinstance(quick.take(asking(HOST, JSON, LENGTH)), Answer)
    assert isinstance(quick.take(gated({})), Call)


def test_a_quick_model_that_fails_is_told_by_a_problem(quick: Desk) -> None:
    body = b'{"data":[{"text":"!raise"}]}'

    answer = quick.take(asking(HOST, JSON, b"Content-Length: %d" % len(body), body=body))

    assert isinstance(answer, Answer)
    assert answer.status == 500
    assert "this text is too sad" in orjson.loads(answer.body)["detail"]


def test_a_model_that_fails_in_its_thread_is_told_by_a_problem(desk: Desk) -> None:
    body = b'{"data":[{"text":"!raise"}]}'

    desk.wait(asking(HOST, JSON, b"Content-Length: %d" % len(body), body=body))
    desk.turn()

    assert desk.answers[0].status == 500
    assert "this text is too sad" in orjson.loads(desk.answers[0].body)["detail"]


def test_the_loop_is_woken_once_for_all_that_a_batch_answers(
    make_app: MakeApp, gate: type[moody.Gated]
) -> None:
    app = make_app(moody.DECLARED.replace("concurrency = 2", ""))
    desk = ready(app)
    calls = [hold(desk), *(desk.wait(gated({"n": number})) for number in range(5))]

    gate.opened.set()
    wait_until(lambda: all(call.is_answered for call in calls), "all to be answered")

    assert desk.rings.qsize() == 1
    desk.turn(n_answers=6)
    told = [orjson.loads(answer.body)["prediction"][0].get("n") for answer in desk.answers]
    assert told == [None, 0, 1, 2, 3, 4]


def test_a_late_answer_is_the_lane_s_504(desk: Desk, app: Flask, gate: type[moody.Gated]) -> None:
    batcher = services_of(app).registry.batcher(services_of(app).registry.get("gated"))
    held = [hold(desk), hold(desk)]
    waiting = desk.wait(gated({"n": 1}))
    waiting.expires_at = held[0].expires_at = 0

    desk.alarms.pop()()

    assert [answer.status for answer in desk.answers] == [504, 504]
    problem = orjson.loads(desk.answers[0].body)
    assert problem["type"] == "urn:twofold:problem:overdue"
    assert "Prefer: wait=" in problem["detail"]
    assert problem["request_id"] == "mine"
    assert not batcher.n_waiting_items, "the model does not see it any more"
    assert len(desk.alarms) == 1, "another call waits"
    gate.opened.set()
    wait_until(lambda: all(call.is_answered for call in held), "the model to answer")
    desk.turn(n_answers=3)
    assert [answer.status for answer in desk.answers] == [504, 504, 200], "its answer went nowhere"
    desk.alarms.pop()()
    assert not desk.alarms, "nothing waits"


def test_who_hangs_up_is_not_answered_and_the_model_does_not_see_the_items(
    desk: Desk, app: Flask, gate: type[moody.Gated]
) -> None:
    batcher = services_of(app).registry.batcher(services_of(app).registry.get("gated"))
    held = [hold(desk), hold(desk)]
    waiting = desk.wait(gated({"n": 1}))

    desk.express.withdraw(held[0])
    desk.express.withdraw(waiting)

    assert not batcher.n_waiting_items
    gate.opened.set()
    wait_until(lambda: all(call.is_answered for call in held), "the model to answer")
    desk.turn(n_answers=1)
    assert len(desk.answers) == 1
    assert not waiting.is_answered


def test_a_call_that_is_answered_when_its_client_hangs_up_is_forgotten(desk: Desk) -> None:
    call = desk.wait(gated({}))
    wait_until(lambda: call.is_answered, "the model to answer")

    desk.express.withdraw(call)
    desk.turn()

    assert not desk.answers


def test_the_model_is_told_who_is_gone_before_it_sees_the_items(desk: Desk) -> None:
    assert isinstance(desk.express.take(gated({}), desk.answers.append, lambda: True), Call)
    desk.turn(n_answers=1)

    assert desk.answers[0].status == 400
    assert "hung up" in orjson.loads(desk.answers[0].body)["detail"]


def test_a_model_that_keeps_too_many_waiting_turns_the_next_away(
    make_app: MakeApp, gate: type[moody.Gated]
) -> None:
    app = make_app(moody.DECLARED.replace("concurrency = 2", "max_waiting_items = 1"))
    desk = ready(app)
    hold(desk)
    desk.wait(gated({"n": 2}))

    answer = desk.take(gated({"n": 3}))

    assert isinstance(answer, Answer)
    assert answer.status == 503
    assert ("Retry-After", "1") in answer.headers
    assert orjson.loads(answer.body)["type"] == "urn:twofold:problem:overloaded"


def test_a_model_with_a_cache_is_left_to_gunicorn(make_app: MakeApp) -> None:
    app = make_app(moody.DECLARED.replace("concurrency = 2", "cache = true"))

    assert ready(app).take(gated({})) is None


def test_a_model_that_loads_is_left_to_gunicorn(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moody.Loading, "may_load", threading.Event())
    app = make_app(moody.DECLARED.replace(":Gated", ":Loading").replace("concurrency = 2", ""))

    assert Desk(app).take(gated({})) is None
    moody.Loading.may_load.set()


def test_only_so_many_heads_are_remembered(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(express, "MOST_HEADS", 3)

    for number in range(10):
        assert desk.answer(asking(HOST, JSON, LENGTH, b"X-Request-ID: %d" % number)) is not None

    assert len(desk.express._heads) <= 3
