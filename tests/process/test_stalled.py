"""Clients that stall, or leave, in the middle of a request: they keep no thread from the others for long."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import orjson
import pytest

from tests.process.conftest import Server, both_lanes
from tests.waiting import wait_until

N_THREADS = 6
GUNICORN_TIMEOUT = "8"
"""Of seconds, more than a worker needs to let go of a client, and less than of all, were it one after the other."""
N_ITEMS, PAD = 4000, "x" * 3000
"""Several times what the kernel holds for a client that does not read."""


@contextmanager
def stalled_downloads(server: Server, job_id: str) -> Iterator[list[socket.socket]]:
    """As many clients as there are threads, who begin to read a job's outputs and then do not go on."""
    with ExitStack() as stack:
        clients = []
        for _ in range(N_THREADS):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(30)
            client.connect(("127.0.0.1", server.port))
            client.sendall(f"GET /v1/jobs/{job_id}/outputs HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert client.recv(12) == b"HTTP/1.1 200"
            clients.append(client)
        yield clients


def is_closed(client: socket.socket) -> bool:
    """Whether the server has closed this connection, once all is read that had come."""
    try:
        while client.recv(1 << 20):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def has_thread(server: Server) -> bool:
    try:
        return server.call("GET", "/v1/models", timeout_seconds=1.0)[0] == 200
    except TimeoutError:
        return False


def start(server: Server, client_timeout_seconds: float) -> str:
    """One worker with few threads; a job that has succeeded, with long outputs."""
    server.environment["TWOFOLD_CHUNK_ITEMS"] = "200"
    server.environment["TWOFOLD_WEB_THREADS"] = str(N_THREADS)
    server.environment["TWOFOLD_CLIENT_TIMEOUT_SECONDS"] = str(client_timeout_seconds)
    server.start("-w", "1", "--timeout", GUNICORN_TIMEOUT)
    lines = b"".join(b'{"number":%d,"pad":"%b"}\n' % (number, PAD.encode()) for number in range(N_ITEMS))
    uploaded = server.call("POST", "/v1/inputs", lines, "application/x-ndjson")[1]
    job_id: str = server.call("POST", "/v1/jobs", {"model": "held", "input_id": uploaded["id"]})[1]["id"]
    assert server.call("GET", f"/v1/jobs/{job_id}?wait=30")[1]["status"] == "succeeded"
    return job_id


def stalled_upload(server: Server, path: str) -> bytes:
    """The answer to a body whose second half does not come."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=15) as client:
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"
        client.sendall(f"{head}Connection: close\r\n\r\n".encode() + b'{"data":[{"number":1},')
        return b"".join(iter(lambda: client.recv(65536), b""))


@both_lanes
def test_who_leaves_a_download_that_it_did_not_read_leaves_its_thread_to_others(
    sqlite_server: Server,
) -> None:
    job_id = start(sqlite_server, client_timeout_seconds=600)

    for _ in range(2):
        with stalled_downloads(sqlite_server, job_id):
            wait_until(lambda: not has_thread(sqlite_server), "all threads to wait for clients")
        wait_until(lambda: has_thread(sqlite_server), "the threads to be free", 30)

    assert sqlite_server.stop() == 0


@both_lanes
def test_who_reads_and_sends_nothing_for_too_long_is_let_go(sqlite_server: Server) -> None:
    server = sqlite_server
    job_id = start(server, client_timeout_seconds=2)
    workers = server.children()

    with stalled_downloads(server, job_id) as clients:
        wait_until(lambda: not has_thread(server), "all threads to wait for clients")
        wait_until(lambda: has_thread(server), "the threads to be free", 15)
        assert all(map(is_closed, clients))
    assert server.children() == workers, "gunicorn took none for dead"

    for path in ("/v1/inputs", "/v1/models/held/predict"):
        answer = stalled_upload(server, path)
        assert answer.startswith(b"HTTP/1.1 400 ")
        problem = orjson.loads(answer[answer.index(b"{") :])
        assert problem["detail"] == "nothing of the body arrived for 2 seconds"
    assert server.rows("SELECT count(*) AS n FROM inputs") == [{"n": 1}], "nothing of it stays"

    status, outputs = server.call("GET", f"/v1/jobs/{job_id}/outputs")
    assert (status, len(outputs["prediction"])) == (200, N_ITEMS), "who reads gets all"
    assert server.stop() == 0


@pytest.mark.parametrize("lane", ["wsgi"], indirect=True)
@pytest.mark.parametrize("broken", [b"zz\r\n", b'8\r\n{"a":1}\nXX0\r\n\r\n'])
def test_a_broken_chunk_of_a_body_is_a_400(sqlite_server: Server, broken: bytes) -> None:
    sqlite_server.start("-w", "1")

    with socket.create_connection(("127.0.0.1", sqlite_server.port), timeout=15) as client:
        head = "POST /v1/inputs HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\n"
        client.sendall(f"{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode())
        client.sendall(b'8\r\n{"a":1}\n\r\n' + broken)
        answer = client.recv(65536)

    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert sqlite_server.rows("SELECT count(*) AS n FROM inputs") == [{"n": 0}]
    assert sqlite_server.stop() == 0


@pytest.mark.parametrize("lane", ["asgi"], indirect=True)
def test_probes_are_answered_while_all_threads_wait_for_clients(sqlite_server: Server) -> None:
    server = sqlite_server
    job_id = start(server, client_timeout_seconds=600)

    with stalled_downloads(server, job_id):
        wait_until(lambda: not has_thread(server), "all threads to wait for clients")
        for path in ("/livez", "/readyz", "/metrics"):
            assert server.call("GET", path, timeout_seconds=30.0)[0] == 200

    assert server.stop() == 0
