"""Kept connections of the threaded worker: which requests take the express, and what becomes of their connections."""

import selectors
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http import get_parser
from gunicorn.workers.gthread import TConn, ThreadWorker

from app.lanes import Answer
from app.lanes.thread_connections import KeptConnections
from app.models.batcher import Call

QUICK, SLOW, BIG, OTHER = b"quick", b"slow", b"big", b"GET / HTTP/1.1\r\n"
HEADERS = [("Content-Length", "3")]
BIG_BODY = b"x" * 5_000_000


class Express:
    """Takes three requests: one waits for its answer, and the others have it at once."""

    def __init__(self) -> None:
        self.replies: list[Callable[[Answer], None]] = []
        self.is_gone: Callable[[], bool]

    def take(
        self, data: bytes, reply: Callable[[Answer], None], is_gone: Callable[[], bool]
    ) -> Answer | Call | None:
        if data == SLOW:
            self.replies.append(reply)
            self.is_gone = is_gone
            return Call([], None, seconds=1, wake=lambda _: None)
        bodies = {QUICK: b"now", BIG: BIG_BODY}
        return Answer(200, HEADERS, bodies[data]) if data in bodies else None


class Lane:
    def __init__(self) -> None:
        self.made = Express()
        self.call_later: Callable[[float, Callable[[], None]], object]

    def express(self, _call_soon: Any, call_later: Callable[[float, Callable[[], None]], object]) -> Express:
        self.call_later = call_later
        return self.made


class Side:
    """A worker with kept connections, whose loop turns when the test says so."""

    def __init__(self) -> None:
        cfg = Config()
        self.worker: Any = ThreadWorker(0, 0, [], None, 30, cfg, Logger(cfg))
        self.worker.max_requests = sys.maxsize
        self.worker.tpool = ThreadPoolExecutor(1)
        self.worker.poller = selectors.DefaultSelector()
        self.worker.method_queue.init()
        queue = self.worker.method_queue
        self.worker.poller.register(queue.fileno(), selectors.EVENT_READ, queue.run_callbacks)
        self.lane = Lane()
        self.kept = KeptConnections(self.worker, self.lane)  # type: ignore[arg-type]  # as much of a lane as it needs
        self.clients: list[socket.socket] = []

    @property
    def express(self) -> Express:
        return self.lane.made

    def connect(self) -> tuple[socket.socket, TConn]:
        """A client, and the worker's side of its connection, which is kept."""
        client, accepted = socket.socketpair()
        client.settimeout(30)
        self.clients.append(client)
        connection = TConn(self.worker.cfg, accepted, "", "")
        connection.parser = get_parser(self.worker.cfg, accepted, "")
        connection.initialized = True
        connection.set_timeout()
        self.worker.nr_conns += 1
        self.worker.keepalived_conns.append(connection)
        look = partial(self.worker.on_client_socket_readable, connection)
        self.worker.poller.register(accepted, selectors.EVENT_READ, look)
        return client, connection

    def is_kept(self, connection: TConn) -> bool:
        """Whether its next request, or its end, will be seen."""
        number = connection.sock.fileno()  # -1 once it is closed, which a selector's map takes for a mistake
        is_registered = number != -1 and number in self.worker.poller.get_map()
        assert is_registered == (connection in self.worker.keepalived_conns)
        return is_registered

    def turn(self) -> None:
        self.worker.wait_for_and_dispatch_events(30)

    def end(self) -> None:
        self.worker.tpool.shutdown()
        self.worker.murder_keepalived(force=True)
        for client in self.clients:
            client.close()
        self.worker.poller.close()
        self.worker.method_queue.close()
        self.worker.tmp.close()


@pytest.fixture
def side() -> Iterator[Side]:
    side = Side()
    yield side
    side.end()


def ask(side: Side, client: socket.socket, connection: TConn, data: bytes) -> bool:
    client.sendall(data)
    return side.kept.take(connection)


def lines(client: socket.socket, n_bytes: int = 3) -> list[str]:
    """The head of an answer, whose body has so many bytes."""
    with client.makefile("rb") as stream:
        head = [line.decode().rstrip() for line in iter(stream.readline, b"\r\n")]
        assert len(stream.read(n_bytes)) == n_bytes
    return head


def test_an_answer_at_once_renews_the_place_of_its_connection(side: Side) -> None:
    client, connection = side.connect()
    _, other = side.connect()
    connection.timeout = other.timeout = 0

    assert ask(side, client, connection, QUICK)

    head = lines(client)
    assert head[0] == "HTTP/1.1 200 OK"
    assert head[3:] == ["Connection: keep-alive", "Content-Length: 3"]
    assert side.is_kept(connection)
    assert list(side.worker.keepalived_conns) == [other, connection]
    assert connection.timeout > 0
    assert (side.worker.nr, side.worker.nr_conns) == (1, 2)


@pytest.mark.parametrize("data", [OTHER, b"x" * 70_000])
def test_other_bytes_are_given_back(side: Side, data: bytes) -> None:
    client, connection = side.connect()

    assert not ask(side, client, connection, data)

    assert side.is_kept(connection)
    client.close()
    connection.sock.setblocking(True)
    assert connection.parser.unreader.read(len(data) + 1) == data


def test_the_end_of_a_connection_is_left_to_gunicorn(side: Side) -> None:
    client, connection = side.connect()
    client.close()

    assert not side.kept.take(connection)

    assert connection.parser.unreader.read() == b""


def test_a_connection_on_which_nothing_came_stays_as_it_is(side: Side) -> None:
    _, connection = side.connect()

    assert side.kept.take(connection)

    assert side.is_kept(connection)


def test_while_a_request_waits_its_connection_cannot_time_out_and_is_counted(side: Side) -> None:
    client, connection = side.connect()

    assert ask(side, client, connection, SLOW)

    client.sendall(QUICK)
    assert not side.is_kept(connection)
    assert side.worker.nr_conns == 1
    side.express.replies.pop()(Answer(200, HEADERS, b"yes"))
    assert lines(client)[3] == "Connection: keep-alive"
    assert side.is_kept(connection)
    assert side.kept.take(connection), "what came meanwhile"
    assert lines(client)[0] == "HTTP/1.1 200 OK"


def test_what_a_client_does_not_take_yet_is_sent_by_a_thread(side: Side) -> None:
    client, connection = side.connect()

    assert ask(side, client, connection, BIG)

    assert not side.is_kept(connection)
    assert lines(client, len(BIG_BODY))[3] == "Connection: keep-alive"
    side.turn()
    assert side.is_kept(connection)


def test_a_client_that_goes_while_a_thread_sends_is_forgotten(side: Side) -> None:
    client, connection = side.connect()
    assert ask(side, client, connection, BIG)

    client.close()
    side.turn()

    assert side.worker.nr_conns == 0


def test_who_hangs_up_while_a_request_waits_is_seen_to_be_gone_and_forgotten(side: Side) -> None:
    client, connection = side.connect()
    assert ask(side, client, connection, SLOW)
    assert not side.express.is_gone()

    client.close()

    assert side.express.is_gone()
    side.express.replies.pop()(Answer(400, HEADERS, b"who"))
    side.turn()
    assert side.worker.nr_conns == 0
    assert connection.sock.fileno() == -1


def test_a_worker_that_is_told_to_stop_answers_what_waits_and_closes(side: Side) -> None:
    client, connection = side.connect()
    assert ask(side, client, connection, SLOW)
    side.worker.alive = False

    side.express.replies.pop()(Answer(200, HEADERS, b"yes"))

    assert lines(client)[3] == "Connection: close"
    assert client.recv(1) == b""
    client.close()
    side.turn()
    assert side.worker.nr_conns == 0


def test_a_worker_that_is_told_to_stop_lets_no_more_take_the_express(side: Side) -> None:
    client, connection = side.connect()
    side.worker.alive = False

    assert not ask(side, client, connection, QUICK)


def test_the_last_request_that_a_worker_may_have_closes_its_connection(side: Side) -> None:
    client, connection = side.connect()
    side.worker.max_requests = 2

    assert ask(side, client, connection, QUICK)
    assert lines(client)[3] == "Connection: keep-alive"
    assert side.worker.alive
    assert ask(side, client, connection, QUICK)

    assert lines(client)[3] == "Connection: close"
    assert not side.worker.alive
    assert not side.is_kept(connection)


def test_no_more_connections_are_kept_than_gunicorn_keeps(side: Side) -> None:
    client, connection = side.connect()
    side.connect()
    side.worker.max_keepalived = 1

    assert ask(side, client, connection, QUICK)

    assert lines(client)[3] == "Connection: close"
    assert not side.is_kept(connection)


def test_what_is_to_be_called_later_is_called_by_the_loop(side: Side) -> None:
    called: list[str] = []

    side.lane.call_later(0, lambda: called.append(threading.current_thread().name))
    side.turn()

    assert called == [threading.main_thread().name]
