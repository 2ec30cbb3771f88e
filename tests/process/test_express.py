"""Requests for a quick model on connections that cut and join them at random: each is answered once, and in turn."""

import random
import socket
from collections.abc import Iterator

import orjson
import pytest

from app.models.quickness import PROBATION_CALLS
from tests.process.conftest import Server

QUICK_MODEL = """
class Quick:
    def predict(self, items):
        return [{"echo": item["number"]} for item in items]
"""
QUICK = '[[model]]\nname = "quick"\nversion = "1"\nclass = "quick:Quick"\n'
N_REQUESTS = 1500


@pytest.fixture
def server(sqlite_server: Server) -> Iterator[Server]:
    sqlite_server.declare(QUICK)
    (sqlite_server.directory / "quick.py").write_text(QUICK_MODEL)
    sqlite_server.start("-w", "1")
    yield sqlite_server
    assert sqlite_server.stop() == 0


def request(number: int, *headers: str) -> bytes:
    # What looks like a request inside a body must not become one, wherever the bytes are cut.
    inner = "POST /v1/models/quick/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 25\r\n\r\n"
    body = orjson.dumps({"data": [{"number": number, "text": inner * (number % 3)}]})
    lines = ["POST /v1/models/quick/predict HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


class Answers:
    """What comes back on a connection, one answer after the other."""

    def __init__(self, connection: socket.socket) -> None:
        self._stream = connection.makefile("rb")

    def read(self) -> tuple[dict[str, str], int]:
        """The headers as they are written, and the number that is echoed."""
        assert self._stream.readline() == b"HTTP/1.1 200 OK\r\n"
        headers = dict(line.decode().rstrip().split(": ", 1) for line in iter(self._stream.readline, b"\r\n"))
        length = headers.get("Content-Length") or headers["content-length"]
        answer = orjson.loads(self._stream.read(int(length)))
        return headers, answer["prediction"][0]["echo"]


def test_requests_in_any_pieces_are_answered_in_turn(server: Server) -> None:
    randomness = random.Random(11)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = Answers(connection)
        n_sent = n_express = 0
        while n_sent < N_REQUESTS:
            n_together = randomness.choice([1, 1, 1, 1, 2, 3])
            headers = [f"X-Other: {n_sent}"] if randomness.random() < 0.1 else []
            data = b"".join(request(number, *headers) for number in range(n_sent, n_sent + n_together))
            n_pieces = randomness.choice([1, 1, 1, 2, 3]) if n_sent > PROBATION_CALLS else 1
            cuts = sorted(randomness.sample(range(1, len(data)), n_pieces - 1))
            for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
                connection.sendall(data[start:end])
            for number in range(n_sent, n_sent + n_together):
                written, echo = answers.read()
                assert echo == number
                n_express += "Content-Length" in written  # gunicorn is given lower case by the lane
            n_sent += n_together
    assert n_express, "some at least: on a busy machine a quick model looks slow now and then"


def test_a_connection_of_the_express_is_kept_alive_and_then_closed(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        answers = Answers(connection)
        written: dict[str, str] = {}
        for number in range(N_REQUESTS):
            connection.sendall(request(number))
            written, echo = answers.read()
            assert echo == number
            if "Content-Length" in written:
                break
        assert "Content-Length" in written, "the express was taken"

        assert connection.recv(1) == b""  # closed by gunicorn's keep-alive timer, which each answer winds up
