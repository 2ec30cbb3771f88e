"""Versions of models that come, take over and go, in all processes of servers that go on answering."""

import http.client
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from sqlalchemy import URL

from app.versions import events
from tests.process.conftest import Server, both_lanes
from tests.waiting import wait_until

MODEL = '''
import os


class Which:
    """Tells the process that answers, and for whom."""

    def load(self, artifact, *, breaks=False):
        if breaks:
            raise OSError("the weights are corrupt")

    def predict(self, items):
        return [{"pid": os.getpid()} for _ in items]
'''
ENTRY = """
[[model]]
name = "which"
version = "{}"
class = "which:Which"
"""
DEFAULT, BREAKS = "default = true\n", "options = { breaks = true }\n"
PACE_SECONDS = 0.02
"""Between two requests of a client, which would take all of a processor otherwise."""
PATH = "/v1/models/which/predict"
BODY = orjson.dumps({"data": [{"a": 1}]})


def start_two(serve: Callable[[URL], Server], url: URL, models: str) -> list[Server]:
    """Two servers on one database, of both lanes, with two web workers each; the first has a runner."""
    servers = [serve(url), serve(url)]
    servers[1].lane = "wsgi"
    servers[1].environment["TWOFOLD_RUNNER"] = "off"
    for server in servers:
        (server.directory / "which.py").write_text(MODEL)
        server.declare(models)
        server.launch(server.command("-w", "2", "--keep-alive", "30"))
    for server in servers:
        server.wait_ready()
        await_version(server, "1")
    return servers


def tell_reload(server: Server, models: str) -> None:
    """Writes the file, and has it read, as `twofold models reload` does."""
    server.declare(models)
    with server.database.writing() as session:
        events.tell_reload(session)


def answering(server: Server, version: str) -> set[int]:
    """The processes that answer by this version, all web workers, very likely; none if any answers by another."""
    told = set()
    for _ in range(16):
        status, answer = server.call("POST", PATH, BODY)
        assert status == 200, answer
        if answer["version"] != version:
            return set()
        told.add(answer["prediction"][0]["pid"])
    return told


def await_version(server: Server, version: str, seconds: float = 15.0) -> None:
    """Until all web workers answer by this version."""
    wait_until(
        lambda: answering(server, version) == server.web_workers(),
        f"version {version} in all web workers",
        seconds,
    )


def test_a_promotion_reaches_every_process_of_two_servers_and_outlives_them(
    serve: Callable[[URL], Server], postgres_url: URL
) -> None:
    first, second = start_two(serve, postgres_url, ENTRY.format(1) + DEFAULT + ENTRY.format(2))

    status, answer = first.call("POST", "/v1/models/which/versions/2/promote")

    assert (status, answer) == (202, {"model": "which", "version": "2"})
    for server in (first, second):
        await_version(server, "2")
    victim = max(first.web_workers())
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(first.web_workers() - {victim}) == 2, "another web worker")
    assert answering(first, "2"), "from its first answer on"

    # The runner has what a reload brings.
    tell_reload(first, ENTRY.format(3) + ENTRY.format(2) + DEFAULT)
    asked = {"model": "which", "version": "3", "data": [{"a": 1}]}
    job = wait_until(lambda: first.make_job(asked), "a web worker that has it")
    assert first.call("GET", f"/v1/jobs/{job['id']}?wait=20")[1]["status"] == "succeeded"
    assert [server.stop() for server in (first, second)] == [0, 0]


def listed(server: Server) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = server.call("GET", "/v1/models")[1]["data"]
    return models


def test_no_request_fails_while_models_are_swapped_promoted_broken_and_mended(
    serve: Callable[[URL], Server], sqlite_url: URL
) -> None:
    servers = start_two(serve, sqlite_url, ENTRY.format(1))
    before = [server.children() for server in servers]
    first = servers[0]
    assert first.process is not None

    with requests_under_way(*servers) as versions:
        first.declare(ENTRY.format(2) + DEFAULT + ENTRY.format(1))
        first.process.send_signal(signal.SIGHUP)
        for server in servers:
            await_version(server, "2")

        tell_reload(first, ENTRY.format(2) + DEFAULT + ENTRY.format(1) + ENTRY.format(3) + BREAKS)
        first.log_says("model_failed_to_load", 5)  # all of both servers: four web workers and a runner
        assert failed(first) == {"3": "OSError: the weights are corrupt"}
        assert first.call("GET", "/readyz")[0] == 200
        assert first.call("POST", "/v1/models/which/versions/3/promote")[0] == 409

        assert first.call("POST", "/v1/models/which/versions/1/promote")[0] == 202
        for server in servers:
            await_version(server, "1")

        first.declare("[[model]]\nname = 3\n")
        first.process.send_signal(signal.SIGHUP)
        first.log_says("twofold: ")

        tell_reload(first, ENTRY.format(2))
        for server in servers:
            await_version(server, "2")

    assert set(versions) == {"1", "2"}
    assert [server.children() for server in servers] == before, "no process was replaced"
    assert [server.stop() for server in servers] == [0, 0]


@both_lanes
def test_workers_that_die_while_the_file_is_broken_are_replaced_and_serve_what_it_said_before(
    sqlite_server: Server,
) -> None:
    server = sqlite_server
    (server.directory / "which.py").write_text(MODEL)
    server.declare(ENTRY.format(1))
    server.launch(server.command("-w", "2"))
    server.wait_ready()
    server.declare(ENTRY.format(2))
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    await_version(server, "2")

    server.declare("[[model]]\nname = 3\n")
    server.kill_children(n_web=2)

    await_version(server, "2")
    server.log_says("models_not_reloaded")
    server.log_says("name is 3")
    job = server.call("POST", "/v1/jobs", {"model": "which", "data": [{"a": 1}]})[1]
    assert server.call("GET", f"/v1/jobs/{job['id']}?wait=20")[1]["status"] == "succeeded"
    assert server.stop() == 0


def failed(server: Server) -> dict[str, str]:
    return {model["version"]: model["reason"] for model in listed(server) if model["state"] == "failed"}


@contextmanager
def requests_under_way(*servers: Server) -> Iterator[Counter[str]]:
    """Keeps asking, on connections that are kept and on new ones; all must be answered, by versions that it counts."""
    is_over = threading.Event()
    versions: Counter[str] = Counter()
    errors: list[Exception] = []

    def ask(server: Server, is_kept: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        try:
            while not is_over.is_set():
                connection.request("POST", PATH, BODY, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = orjson.loads(response.read())
                assert response.status == 200, answer
                versions[answer["version"]] += 1
                if not is_kept:
                    connection.close()
                is_over.wait(PACE_SECONDS)
        except Exception as error:  # noqa: BLE001 — told below, in the test's thread
            errors.append(error)
        finally:
            connection.close()

    threads = [
        threading.Thread(target=ask, args=[server, is_kept])
        for server in servers
        for is_kept in (True, False)
    ]
    for thread in threads:
        thread.start()
    try:
        yield versions
    finally:
        is_over.set()
        for thread in threads:
            thread.join(20)
    assert errors == []
