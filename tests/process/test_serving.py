"""The service as one command: it starts, predicts, runs jobs and stops; or says in one line why it cannot."""

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import orjson
import pytest

from tests.data.bodies import zstd
from tests.process.conftest import BIN, HELD_TOML, Server, both_lanes, one_lane
from tests.waiting import wait_until


@pytest.fixture
def running_server(shared_server: Server) -> Iterator[Server]:
    """A server that runs."""
    shared_server.environment["TWOFOLD_CHUNK_ITEMS"] = "100"
    with shared_server.lent():
        yield shared_server


@both_lanes
def test_gunicorn_serves_online_and_batch(running_server: Server) -> None:
    server = running_server
    status, answer = server.call("POST", "/v1/models/held/predict", {"data": [{"number": 4, "id": "a"}]})
    assert (status, answer["prediction"]) == (200, [{"number": 4, "id": "a", "double": 8}])
    server.finish(server.enqueue(250), 250)


@both_lanes
def test_a_compressed_upload_in_pieces_and_a_compressed_download_come_through(running_server: Server) -> None:
    server = running_server
    lines = [b'{"number":%d}\n' % number for number in range(20_000)]
    body = zstd.compress(b"".join(lines))
    pieces = (body[start : start + 1000] for start in range(0, len(body), 1000))
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "zstd"}
        connection.request("POST", "/v1/inputs", pieces, headers, encode_chunked=True)
        made = orjson.loads(connection.getresponse().read())
        assert (made["n_items"], made["n_bytes"]) == (20_000, len(b"".join(lines)))

        job = server.call("POST", "/v1/jobs", {"model": "held", "input_id": made["id"]})[1]
        assert server.call("GET", f"/v1/jobs/{job['id']}?wait=30")[1]["status"] == "succeeded"
        headers = {"Accept": "application/x-ndjson", "Accept-Encoding": "zstd", "Range": "items=19000-"}
        connection.request("GET", f"/v1/jobs/{job['id']}/outputs", headers=headers)
        response = connection.getresponse()
        assert (response.status, response.headers["Content-Range"]) == (206, "items 19000-19999/20000")
        assert response.headers["Transfer-Encoding"] == "chunked"
        answered = [orjson.loads(line) for line in zstd.decompress(response.read()).splitlines()]
        assert answered == [{"number": number, "double": 2 * number} for number in range(19_000, 20_000)]


@one_lane
def test_a_second_server_at_the_same_address_is_refused_in_one_line(running_server: Server) -> None:
    server = running_server

    status, lines = server.refuse()

    assert status != 0
    assert lines[1:] == [f"twofold: cannot listen at 127.0.0.1:{server.port}: Address already in use"]
    assert server.call("GET", "/livez")[0] == 200


@both_lanes
def test_a_server_that_has_run_a_job_stops_cleanly(running_server: Server) -> None:
    server = running_server
    server.finish(server.enqueue(250), 250)

    assert server.stop() == 0

    assert server.registered() == set()
    server.check_log()


@both_lanes
def test_an_app_that_is_loaded_before_the_fork_serves_all_the_same(sqlite_server: Server) -> None:
    server = sqlite_server
    server.start("--preload", "-w", "2")
    server.wait_workers(2)

    status, answer = server.call("POST", "/v1/models/held/predict", {"data": [{"number": 4}]})
    assert (status, answer["prediction"]) == (200, [{"number": 4, "double": 8}])
    server.finish(server.enqueue(5), 5)
    assert server.stop() == 0


def test_a_preloaded_model_is_loaded_once_for_web_workers_and_runner(sqlite_server: Server) -> None:
    server = sqlite_server
    server.declare(HELD_TOML.format(directory=server.directory) + "preload = true\n")
    server.start("-w", "2")
    server.wait_workers(2)

    server.finish(server.enqueue(5), 5)
    assert server.call("POST", "/v1/models/held/predict", {"data": [{"number": 4}]})[0] == 200
    assert server.stop() == 0
    assert server.log.read_text().count("model_loaded") == 1


def test_without_a_runner_jobs_wait(sqlite_server: Server) -> None:
    server = sqlite_server
    server.environment["TWOFOLD_RUNNER"] = "off"
    server.start("-w", "1")
    server.wait_workers(1, n_runners=0)

    job_id = server.enqueue(1)
    assert server.call("GET", f"/v1/jobs/{job_id}?wait=1")[1]["status"] == "queued"
    assert server.rows("SELECT count(*) AS n FROM runners") == [{"n": 0}]
    assert server.stop() == 0


def test_flask_run_serves_and_runs_jobs_in_one_process(sqlite_server: Server) -> None:
    server = sqlite_server
    server.environment["FLASK_APP"] = "wsgi.py"
    server.launch([sys.executable, "-m", "flask", "run", "-p", str(server.port)])
    server.wait_ready()

    server.finish(server.enqueue(5), 5)
    assert server.process is not None
    assert server.rows("SELECT pid FROM runners") == [{"pid": server.process.pid}]
    server.stop(signal.SIGINT)


def test_a_wrong_setting_stops_the_start_with_one_line_that_says_what_to_change(
    sqlite_server: Server,
) -> None:
    server = sqlite_server
    for name, value, shown in [
        ("TWOFOLD_LEASE_SECOND", "60", "did you mean TWOFOLD_LEASE_SECONDS?"),
        ("TWOFOLD_MODELS_FILE", "absent.toml", "absent.toml: no such file"),
        ("TWOFOLD_STORAGE_PREFIXES", "foo", "foo"),
    ]:
        environment = dict(server.environment)
        server.environment[name] = value
        status, lines = server.refuse()
        server.environment = environment

        assert status != 0
        assert len(lines) == 1, lines
        assert lines[0].startswith("twofold: ")
        assert shown in lines[0]


@both_lanes
def test_it_serves_on_a_unix_socket_by_all_of_its_workers(sqlite_server: Server) -> None:
    server = sqlite_server
    path = server.directory / "socket"
    server.launch([str(BIN / "gunicorn"), f"{sqlite_server.lane}:app", "-b", f"unix:{path}", "-w", "2"])
    wait_until(path.exists, "the socket")
    server.wait_workers(2)
    listeners = [
        line for line in Path("/proc/net/unix").read_text().splitlines() if line.endswith(f" {path}")
    ]

    assert len(listeners) == 1, "one socket that all share; another would hide it"
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
    assert server.stop() == 0
    assert not path.exists()
