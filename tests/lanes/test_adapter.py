"""The slow lane, and a client that takes its time, stops, or goes."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from flask import Flask, Response

from app.lanes.adapter import PART_BYTES, Message, SlowLane

BLOCK = bytes(range(256)) * (PART_BYTES // 100)
N_BLOCKS = 40
"""More than the adapter keeps for a client that does not take them."""

Send = Callable[[Message], Awaitable[None]]


class Download:
    """A Flask app that streams `N_BLOCKS`, and tells of its end."""

    def __init__(self) -> None:
        self.has_ended = threading.Event()
        self.app = Flask(__name__)
        self.app.add_url_rule("/", view_func=self.get)

    def get(self) -> Response:
        def blocks() -> Iterator[bytes]:
            try:
                for _ in range(N_BLOCKS):
                    yield BLOCK
            finally:
                self.has_ended.set()

        return Response(blocks())

    def ask(self, send: Send, client_timeout_seconds: float) -> "asyncio.Task[None]":
        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "query_string": b"",
            "headers": [(b"host", b"a")],
            "http_version": "1.1",
        }
        lane = SlowLane(self.app, 1, client_timeout_seconds)
        return asyncio.ensure_future(lane(scope, receive, send))


def test_long_blocks_are_sent_in_parts_and_arrive_as_they_were() -> None:
    sent: list[Message] = []

    async def run() -> None:
        async def send(message: Message) -> None:
            sent.append(message)

        await Download().ask(send, 60)

    asyncio.run(run())

    bodies = [message["body"] for message in sent if message["type"] == "http.response.body"]
    assert b"".join(bodies) == BLOCK * N_BLOCKS
    assert max(map(len, bodies)) == PART_BYTES
    assert [message["more_body"] for message in sent[1:-1]] == [True] * (len(bodies) - 1)
    assert not sent[-1].get("more_body")


@pytest.mark.parametrize("is_gone", [True, False], ids=["gone", "stalled"])
def test_a_client_that_takes_nothing_more_ends_its_download(is_gone: bool) -> None:
    download = Download()
    sent: list[Message] = []

    async def run() -> None:
        has_stalled = asyncio.Event()

        async def send(message: Message) -> None:
            sent.append(message)
            if len(sent) > 3:
                has_stalled.set()
                await asyncio.Event().wait()

        task = download.ask(send, 600 if is_gone else 0.05)
        await has_stalled.wait()
        if is_gone:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            await task
        assert await asyncio.to_thread(download.has_ended.wait, 10)

    asyncio.run(asyncio.wait_for(run(), 20))

    assert len(sent) == 4, "nothing is sent to it any more"
