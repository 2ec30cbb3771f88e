"""A connection on the event loop whose requests take the express: what it does while one waits, and when one ends."""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from gunicorn.config import Config

from app.lanes import Answer
from app.lanes.loop_connections import MOST_HELD_BYTES, Connection
from app.models.batcher import Call

QUICK, SLOW, OTHER = b"quick", b"slow", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
NOW, LATER = Answer(200, [("X-Told", "now")], b"now"), Answer(200, [("X-Told", "later")], b"later")


class Express:
    """Takes two requests: one has its answer at once, and one waits for it."""

    def __init__(self) -> None:
        self.replies: list[Callable[[Answer], None]] = []
        self.calls: list[Call] = []
        self.withdrawn: list[Call] = []

    def take(self, data: bytes, reply: Callable[[Answer], None]) -> Answer | Call | None:
        if data == QUICK:
            return NOW
        if data == SLOW:
            self.replies.append(reply)
            self.calls.append(Call([], None, seconds=1, wake=lambda _: None))
            return self.calls[-1]
        return None

    def withdraw(self, call: Call) -> None:
        self.withdrawn.append(call)


class Transport:
    """Writes down what is done with it."""

    def __init__(self) -> None:
        self.written = b""
        self.is_reading, self.is_closed, self.is_aborted = True, False, False
        self.n_unsent = 0

    def get_extra_info(self, _name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.n_unsent

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True


class Side:
    """A worker's side of one connection, on a loop that turns when the test says so."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.express, self.transport = Express(), Transport()
        self.may_end = asyncio.Event()
        self.may_end.set()
        cfg = Config()
        cfg.set("asgi_disconnect_grace_period", 0)  # as gunicorn.conf.py has it
        self.worker = SimpleNamespace(
            cfg=cfg,
            log=logging.getLogger("gunicorn"),
            asgi=self._app,
            loop=self.loop,
            express=self.express,
            alive=True,
            nr=0,
            nr_conns=0,
            max_requests=sys.maxsize,
        )
        self.worker.log.access_log_enabled = False
        self.connection = Connection(self.worker)
        self.connection.connection_made(self.transport)
        self.turn()

    async def _app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": [(b"x-told", b"by the app")]})
        await send({"type": "http.response.body", "body": b""})
        await self.may_end.wait()

    def turn(self) -> None:
        async def some_turns() -> None:
            for _ in range(10):
                await asyncio.sleep(0)

        self.loop.run_until_complete(some_turns())

    @property
    def told(self) -> list[str]:
        """By whom the answers so far are, in order."""
        lines = self.transport.written.decode().split("\r\n")
        return [line.partition(": ")[2] for line in lines if line.lower().startswith("x-told: ")]

    @property
    def is_timed(self) -> bool:
        """Whether it would be closed if nothing came."""
        return cast(Any, self.connection)._keepalive_handle is not None


@pytest.fixture
def side() -> Iterator[Side]:
    side = Side()
    yield side
    side.connection.connection_lost(None)
    side.turn()
    side.loop.close()
    assert side.worker.nr_conns == 0


def test_an_answer_at_once_is_written_at_once(side: Side) -> None:
    side.connection.data_received(QUICK)

    assert side.told == ["now"]
    assert b"Connection" not in side.transport.written
    assert side.is_timed
    assert side.worker.nr == 1


def test_while_a_request_waits_the_connection_is_not_timed(side: Side) -> None:
    side.connection.data_received(QUICK)
    side.connection.data_received(SLOW)

    assert not side.is_timed
    assert side.worker.nr_conns == 1
    side.express.replies.pop()(LATER)
    assert side.told == ["now", "later"]
    assert side.is_timed
    assert side.worker.nr == 2


def test_nor_is_it_when_the_app_has_done_with_the_request_before(side: Side) -> None:
    side.may_end.clear()
    side.connection.data_received(OTHER)
    side.turn()
    assert side.told == ["by the app"]
    side.connection.data_received(SLOW)

    side.may_end.set()
    side.turn()

    assert not side.is_timed
    side.express.replies.pop()(LATER)
    assert side.told == ["by the app", "later"]
    assert side.is_timed


def test_what_comes_meanwhile_is_read_after_the_answer(side: Side) -> None:
    side.connection.data_received(SLOW)
    side.connection.data_received(OTHER[:10])
    side.connection.data_received(OTHER[10:])
    side.turn()
    assert side.told == []

    side.express.replies.pop()(LATER)
    side.turn()

    assert side.told == ["later", "by the app"]


def test_what_comes_meanwhile_may_take_the_express_too(side: Side) -> None:
    side.connection.data_received(SLOW)
    side.connection.data_received(SLOW)

    side.express.replies.pop()(LATER)
    side.connection.data_received(QUICK)
    side.express.replies.pop()(LATER)

    assert side.told == ["later", "later", "now"]


def test_no_more_than_so_much_is_read_meanwhile(side: Side) -> None:
    side.connection.data_received(SLOW)
    side.connection.data_received(OTHER + b"x" * (MOST_HELD_BYTES - len(OTHER)))
    assert side.transport.is_reading
    side.connection.data_received(b"x")
    assert not side.transport.is_reading

    side.express.replies.pop()(LATER)

    assert side.transport.is_reading


def test_who_hangs_up_while_a_request_waits_has_it_withdrawn(side: Side) -> None:
    side.connection.data_received(SLOW)

    side.connection.connection_lost(None)

    assert side.express.withdrawn == side.express.calls


def test_who_hangs_up_after_the_answer_has_nothing_withdrawn(side: Side) -> None:
    side.connection.data_received(SLOW)
    side.express.replies.pop()(LATER)

    side.connection.connection_lost(None)

    assert not side.express.withdrawn


def test_a_worker_that_is_told_to_stop_answers_what_waits_and_closes(side: Side) -> None:
    side.connection.data_received(SLOW)
    side.connection.data_received(QUICK)
    side.worker.alive = False

    side.express.replies.pop()(LATER)

    assert side.told == ["later"]
    assert b"Connection: close\r\n" in side.transport.written
    assert side.transport.is_closed


def test_a_worker_that_is_told_to_stop_lets_no_more_take_the_express(side: Side) -> None:
    side.worker.alive = False

    side.connection.data_received(QUICK)

    assert side.told == []


def test_the_last_request_that_a_worker_may_have_closes_its_connection(side: Side) -> None:
    side.worker.max_requests = 2

    side.connection.data_received(QUICK)
    assert side.worker.alive
    side.connection.data_received(QUICK)

    assert not side.worker.alive
    assert side.transport.written.count(b"Connection: close\r\n") == 1
    assert side.transport.is_closed


@pytest.mark.parametrize("n_unsent", [0, 100_000])
def test_who_does_not_take_the_last_of_an_answer_is_given_some_time(
    side: Side, monkeypatch: pytest.MonkeyPatch, n_unsent: int
) -> None:
    monkeypatch.setattr("app.lanes.loop_connections.GOODBYE_SECONDS", 0.0)
    side.worker.alive = False
    side.connection.data_received(OTHER)
    side.transport.n_unsent = n_unsent

    side.connection._close_transport()
    assert (side.transport.is_closed, side.transport.is_aborted) == (True, False)
    side.turn()

    assert side.transport.is_aborted is (n_unsent > 0)


def test_a_request_of_which_a_piece_has_come_is_left_to_gunicorn(side: Side) -> None:
    side.connection.data_received(OTHER[:10])

    side.connection.data_received(QUICK)
    side.turn()

    assert "now" not in side.told
