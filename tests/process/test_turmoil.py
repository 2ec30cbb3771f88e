"""Clients that hang up, items that break the model, and answers that come late, against real gunicorn processes."""

import asyncio
import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import orjson
import pytest

from tests.process.conftest import Server, both_lanes
from tests.waiting import wait_until

TOUCHY_MODEL = '''
import threading


class Touchy:
    """Echoes numbers; it cannot stand `poison`, and takes its time over `slow`."""

    def predict(self, items):
        if any(item.get("poison") for item in items):
            raise ValueError("poison")
        if any(item.get("slow") for item in items):
            threading.Event().wait(0.05)
        return [{"echo": item["number"]} for item in items]
'''
TOUCHY = '\n[[model]]\nname = "touchy"\nversion = "1"\nclass = "touchy:Touchy"\nmax_batch_size = 50\n'
N_REQUESTS, N_CLIENTS = 5_000, 32
MORE_THAN_THREADS = 40

pytestmark = both_lanes


@pytest.fixture(scope="module")
def touchy_server(shared_server: Server) -> Server:
    shared_server.declare_also(TOUCHY, "touchy", TOUCHY_MODEL)
    shared_server.environment["TWOFOLD_CHUNK_ITEMS"] = "20"
    return shared_server


@pytest.fixture
def server(touchy_server: Server) -> Iterator[Server]:
    """One web worker, so that all requests meet in it."""
    with touchy_server.lent("-w", "1", "--keep-alive", "30"):
        yield touchy_server


def request(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def test_the_model_never_sees_the_items_of_who_hung_up(server: Server) -> None:
    server.hold()
    body = orjson.dumps({"data": [{"number": 1}]})
    holding = connect(server)
    holding.sendall(request("/v1/models/held/predict", body))
    wait_until(server.seen, "the first request to be in the model")
    for number in range(100, 110):
        with closing(connect(server)) as leaving:
            leaving.sendall(request("/v1/models/held/predict", orjson.dumps({"data": [{"number": number}]})))
            # Answered by the same process, so it has been read before we leave.
            assert server.call("GET", "/livez")[0] == 200
    last = threading.Thread(
        target=server.call, args=("POST", "/v1/models/held/predict", {"data": [{"number": 2}]})
    )
    last.start()
    assert server.call("GET", "/livez")[0] == 200

    server.let_go()

    last.join(30)
    holding.close()
    assert server.seen() == [1, 2]


def test_uploads_that_are_cut_leave_nothing_and_hold_no_thread(server: Server) -> None:
    for number in range(MORE_THAN_THREADS):
        with closing(connect(server)) as leaving:
            head = "Transfer-Encoding: chunked" if number % 2 else "Content-Length: 1000000"
            lines = [
                "POST /v1/inputs?collection=cut HTTP/1.1",
                "Host: x",
                "Content-Type: application/x-ndjson",
                head,
            ]
            block = b'{"number":1}\n' * 5000
            framed = b"%x\r\n%b\r\n" % (len(block), block) if number % 2 else block
            leaving.sendall("\r\n".join([*lines, "", ""]).encode() + framed)

    def is_clean() -> bool:
        return not server.rows("SELECT id FROM inputs WHERE collection = 'cut'")

    wait_until(is_clean, "what was uploaded to be gone")
    assert server.call("GET", "/v1/inputs?collection=cut") == (200, {"data": []})


def test_downloads_that_nobody_takes_end_and_hold_no_thread(server: Server) -> None:
    lines = b"".join(b'{"number":%d,"text":"%b"}\n' % (number, b"x" * 20_000) for number in range(500))
    _, uploaded = server.call("POST", "/v1/inputs", lines, "application/x-ndjson")
    _, job = server.call("POST", "/v1/jobs", {"model": "touchy", "input_id": uploaded["id"]})
    assert server.call("GET", f"/v1/jobs/{job['id']}?wait=30")[1]["status"] == "succeeded"
    path = f"/v1/jobs/{job['id']}/outputs"

    for _ in range(MORE_THAN_THREADS):
        with closing(connect(server)) as leaving:
            leaving.sendall(request(path, b"", "Accept: application/x-ndjson", method="GET"))
            assert leaving.recv(100)

    status, outputs = server.call("GET", path)
    assert status == 200
    assert [item["echo"] for item in outputs["prediction"]] == list(range(500))


def test_every_answer_is_right_whatever_others_do(server: Server) -> None:
    outcomes = asyncio.run(_turmoil(server.port))

    assert sum(outcomes.values()) == N_REQUESTS
    assert set(outcomes) <= {"right", "poisoned", "job", "left"}, outcomes
    assert outcomes["right"] > N_REQUESTS / 2
    assert outcomes["poisoned"] > 0
    assert outcomes["job"] > 0
    metrics = server.call("GET", "/metrics")[1].decode()
    assert re.search(r'twofold_batch_items_count\{model="touchy",version="1"\} \d', metrics)
    # Nothing is left waiting: the next request is answered by an idle model.
    status, answer = server.call("POST", "/v1/models/touchy/predict", {"data": [{"number": -1}]})
    assert (status, answer["prediction"]) == (200, [{"number": -1, "echo": -1}])


async def _turmoil(port: int) -> Counter[str]:
    numbers = iter(range(N_REQUESTS))
    outcomes: Counter[str] = Counter()

    async def client(seed: int) -> None:
        chance = random.Random(seed)
        streams: Any = None
        for number in numbers:
            if streams is None:
                streams = await asyncio.open_connection("127.0.0.1", port)
            outcome = await _ask(streams, number, chance)
            outcomes[outcome] += 1
            if outcome == "left":
                await leave(streams)
                streams = None
        if streams is not None:
            await leave(streams)

    async def leave(streams: Any) -> None:
        streams[1].close()
        with suppress(OSError):
            await streams[1].wait_closed()

    await asyncio.wait_for(asyncio.gather(*map(client, range(N_CLIENTS))), 100)
    return outcomes


async def _ask(streams: Any, number: int, chance: random.Random) -> str:
    """One request of some items on a connection that stays: what became of it, which is right or named."""
    reader, writer = streams
    items: list[dict[str, Any]] = [{"number": number}] * chance.choice([1, 1, 1, 5, 80])
    is_poisoned = chance.random() < 0.02
    if is_poisoned:
        items = [*items, {"number": number, "poison": True}]
    if chance.random() < 0.01:
        items = [{"number": number, "slow": True}]
        is_poisoned = False
    wants_job = chance.random() < 0.03
    headers = ["Prefer: wait=0"] if wants_job else []
    writer.write(request("/v1/models/touchy/predict", orjson.dumps({"data": items}), *headers))
    if chance.random() < 0.05:
        return "left"
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
    assert length is not None, head
    body = orjson.loads(await reader.readexactly(int(length[1])))
    status = int(head.split()[1])
    if wants_job and status == 202 and body["counts"]["total"] == len(items):
        return "job"
    if is_poisoned and status == 500 and "poison" in body["detail"]:
        return "poisoned"
    if (
        status == 200
        and not is_poisoned
        and body["prediction"] == [item | {"echo": number} for item in items]
    ):
        return "right"
    return f"{status} {body}"
