"""Plain requests on connections that are kept: each is answered once, and in turn, whatever comes, waits or ends."""

import random
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from app.models.quickness import PROBATION_CALLS
from tests.process.conftest import Server, both_lanes
from tests.waiting import wait_until

ECHOING_MODELS = """
import threading


class Quick:
    def predict(self, items):
        return [{"echo": item["number"]} for item in items]


class Slow(Quick):
    def predict(self, items):
        threading.Event().wait(0.001)
        return super().predict(items)
"""
ECHOING = """
[[model]]
name = "quick"
version = "1"
class = "echoing:Quick"

[[model]]
name = "slow"
version = "1"
class = "echoing:Slow"
"""
N_REQUESTS = 600
N_WAITING = 20
"""Fewer than prove that a model which is held now and then is quick: then it would hold the whole worker."""
OPTIONS = "-w", "1", "--threads", "1", "--keep-alive", "6"
"""One worker, which on `wsgi:app` answers nothing else while its only thread waits for a model."""
TIMEOUT_SECONDS = 8.0
"""Much longer than any test holds the model, but for the one that waits for it."""

pytestmark = both_lanes


@pytest.fixture(scope="module")
def echoing_server(shared_server: Server) -> Server:
    shared_server.declare_also(ECHOING, "echoing", ECHOING_MODELS)
    shared_server.environment["TWOFOLD_RUNNER"] = "off"
    shared_server.environment["TWOFOLD_ONLINE_TIMEOUT_SECONDS"] = str(TIMEOUT_SECONDS)
    return shared_server


@pytest.fixture
def server(echoing_server: Server) -> Iterator[Server]:
    """A server that runs."""
    with echoing_server.lent(*OPTIONS):
        yield echoing_server


def request(number: int, *headers: str, model: str = "held", n_inner: int | None = None) -> bytes:
    # What looks like a request inside a body must not become one, wherever the bytes are cut.
    inner = f"POST /v1/models/{model}/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 25\r\n\r\n"
    text = inner * (number % 3 if n_inner is None else n_inner)
    body = orjson.dumps({"data": [{"number": number, "text": text}]})
    lines = [
        f"POST /v1/models/{model}/predict HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        *headers,
    ]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


@dataclass
class Answered:
    status: int
    head: list[str]
    """As it is written."""
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in (line.split(": ", 1) for line in self.head)}

    @property
    def is_express(self) -> bool:
        """On the event loop, where gunicorn is given lower case by the lane."""
        return any(line.startswith("Content-Length") for line in self.head)

    @property
    def item(self) -> Any:
        return orjson.loads(self.body)["prediction"][0]


class Kept:
    """A connection that has had its first request, so that the next may take the express."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self.socket.makefile("rb")
        self._server = server
        self.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert self.read().status == 200
        self.wait_turn()

    def wait_turn(self) -> None:
        """Until the server's loop has turned: after a request of gunicorn's, it waits for the next by then."""
        assert self._server.call("GET", "/livez")[0] == 200

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> Answered:
        status = self._stream.readline().split()[1]
        head = [line.decode().rstrip() for line in iter(self._stream.readline, b"\r\n")]
        answered = Answered(int(status), head, b"")
        answered.body = self._stream.read(int(answered.headers["content-length"]))
        return answered

    @property
    def is_ended(self) -> bool:
        """Whether the server closed it; waits for that."""
        return self._stream.read(1) == b""

    def close(self) -> None:
        self._stream.close()
        self.socket.close()


Connect = Callable[[], Kept]


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    with ExitStack() as connections:
        yield lambda: connections.enter_context(closing(Kept(server)))


@pytest.mark.parametrize("model", ["quick", "slow"])
def test_requests_in_any_pieces_are_answered_in_turn(server: Server, connect: Connect, model: str) -> None:
    randomness = random.Random(11)
    connection = connect()
    n_sent = n_express = 0
    while n_sent < N_REQUESTS:
        n_together = randomness.choice([1, 1, 1, 1, 2, 3])
        headers = [f"X-Other: {n_sent}"] if randomness.random() < 0.1 else []
        data = b"".join(
            request(number, *headers, model=model) for number in range(n_sent, n_sent + n_together)
        )
        n_pieces = randomness.choice([1, 1, 1, 2, 3]) if n_sent > PROBATION_CALLS else 1
        cuts = sorted(randomness.sample(range(1, len(data)), n_pieces - 1))
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            connection.send(data[start:end])
        for number in range(n_sent, n_sent + n_together):
            answered = connection.read()
            assert (answered.status, answered.item["echo"]) == (200, number)
            n_express += answered.is_express
        n_sent += n_together
    if server.lane == "asgi":
        assert n_express, (
            "some at least: one that comes before gunicorn is done with the last does not take it"
        )


@pytest.mark.parametrize("model", ["quick", "slow"])
def test_a_connection_of_the_express_is_kept_alive_and_then_closed(
    server: Server, connect: Connect, model: str
) -> None:
    connection = connect()

    for number in range(PROBATION_CALLS + 10):
        connection.send(request(number, model=model))
        answered = connection.read()
        assert answered.item["echo"] == number
        assert answered.is_express or server.lane == "wsgi"

    assert connection.is_ended  # by gunicorn's keep-alive timer, which each answer winds up


def test_an_answer_is_the_one_of_the_ordinary_lane(server: Server, connect: Connect) -> None:
    connection = connect()
    for body in ['{"data":[{"number":1}]}', '{"data":[{"number":"x"}]}', "[", ""]:
        lines = ["POST /v1/models/held/predict HTTP/1.1", "Host: x", "Content-Type: application/json"]
        lines += ["X-Request-ID: mine", f"Content-Length: {len(body)}", "", body]

        connection.send("\r\n".join(lines).encode())
        by_express = connection.read()
        connection.send("\r\n".join([lines[0], "X-Other: 1", *lines[1:]]).encode())
        by_lane = connection.read()

        assert (by_express.status, by_express.body) == (by_lane.status, by_lane.body)
        assert all("date" in answered.headers for answered in (by_express, by_lane))
        assert {**by_express.headers, "date": ""} == {**by_lane.headers, "date": ""}
        if server.lane == "asgi":
            assert (by_express.is_express, by_lane.is_express) == (True, False)
        else:
            assert list(by_express.headers) == list(by_lane.headers)
        connection.wait_turn()


def test_what_is_sent_while_a_request_waits_is_answered_after_it(server: Server, connect: Connect) -> None:
    server.hold()
    connection = connect()
    connection.send(request(0))
    wait_until(server.seen, "the model to have it")

    for number in range(1, N_WAITING):
        connection.send(request(number, n_inner=number % 2 * 600))  # together more than is read meanwhile
    assert server.call("GET", "/livez")[0] == 200
    server.let_go()

    assert connection.read().item == {"number": 0, "text": "", "double": 0}
    for number in range(1, N_WAITING):
        assert connection.read().item["double"] == 2 * number


def test_the_model_never_sees_the_items_of_who_hung_up(server: Server, connect: Connect) -> None:
    server.hold()
    holding, last = connect(), connect()
    leaving = [connect() for _ in range(N_WAITING)]
    holding.send(request(1))
    wait_until(server.seen, "the first request to be in the model")
    for number, connection in enumerate(leaving):
        connection.send(request(100 + number))
    # Answered by the same process, so they have been read before they leave.
    assert server.call("GET", "/livez")[0] == 200
    for connection in leaving:
        connection.close()
    last.send(request(2))
    assert server.call("GET", "/livez")[0] == 200

    server.let_go()

    assert [holding.read().item["number"], last.read().item["number"]] == [1, 2]
    assert server.seen() == [1, 2]


def test_a_late_answer_is_a_504_on_a_connection_that_goes_on(server: Server, connect: Connect) -> None:
    server.hold()
    connections = [connect() for _ in range(3)]
    for number, connection in enumerate(connections):
        connection.send(request(number))

    for connection in connections:
        answered = connection.read()
        assert answered.status == 504
        assert orjson.loads(answered.body)["type"] == "urn:twofold:problem:overdue"

    server.let_go()
    connections[0].send(request(7))
    assert connections[0].read().item["double"] == 14


def test_a_server_that_is_stopped_answers_all_that_waits(server: Server, connect: Connect) -> None:
    server.hold()
    connections = [connect() for _ in range(N_WAITING)]
    for number, connection in enumerate(connections):
        connection.send(request(number))
    assert server.call("GET", "/livez")[0] == 200
    assert server.process is not None

    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: not _listens(server), "the worker to be told")
    server.let_go()

    for number, connection in enumerate(connections):
        answered = connection.read()
        assert (answered.status, answered.item["number"]) == (200, number)
        assert answered.headers["connection"] == "close"
        assert connection.is_ended
        connection.close()
    assert server.process.wait(20) == 0


def test_with_the_access_log_on_each_request_is_logged(sqlite_server: Server) -> None:
    sqlite_server.environment |= {"TWOFOLD_ACCESS_LOG": "on", "TWOFOLD_RUNNER": "off"}
    sqlite_server.start(*OPTIONS)

    with closing(Kept(sqlite_server)) as connection:
        for number in range(3):
            connection.send(request(number))
            assert connection.read().item["double"] == 2 * number

    sqlite_server.log_says("POST /v1/models/held/predict", 3)
    assert sqlite_server.stop() == 0


def _listens(server: Server) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", server.port), timeout=30):
        return True
    return False
