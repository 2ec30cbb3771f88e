"""The service as it is deployed: real processes on a free port, and a model that waits when it is told to."""

import http.client
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import URL, make_url, text

from app.db import Database
from tests.ports import free_port
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent

HELD_MODEL = '''
import os
import threading
from pathlib import Path

from marshmallow import Schema, fields


class Held:
    """Doubles numbers, and writes them down; it does not return while a file named `hold` is there."""

    class Item(Schema):
        number = fields.Integer(required=True)

    class Prediction(Schema):
        double = fields.Integer(required=True)

    def load(self, artifact: Path | None) -> None:
        self.directory = artifact

    def predict(self, items):
        with (self.directory / "seen").open("a") as seen:
            seen.write("".join(f"{item['number']} {os.getpid()}\\n" for item in items))
        while (self.directory / "hold").exists():
            threading.Event().wait(0.02)
        return [{"double": 2 * item["number"]} for item in items]
'''
HELD_TOML = """
[[model]]
name = "held"
version = "1"
class = "held:Held"
artifact = "{directory}"
"""


def seen_in(directory: Path) -> list[tuple[int, int]]:
    """What the models of a directory were asked for, in order: each number, and the process that was."""
    path = directory / "seen"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(number), int(process)) for number, process in map(str.split, lines)]


class Server:
    """A command that serves this project's HTTP, with its own environment, log and port."""

    def __init__(self, database: Database, directory: Path, lane: str) -> None:
        self.database = database
        self.lane = lane
        self.directory = directory
        self.port = free_port()
        self.log = directory / "server.log"
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TWOFOLD_", "GUNICORN", "FLASK"))
        } | {
            "DATABASE_URL": database.url.render_as_string(hide_password=False),
            "PYTHONPATH": str(directory),
            "TWOFOLD_MODELS_FILE": str(self.declare(HELD_TOML.format(directory=directory))),
            "TWOFOLD_CHUNK_ITEMS": "1",
            "TWOFOLD_RUNNER_NICE": "0",  # beside the other tests' processes it would hardly come to anything
        }
        self.process: subprocess.Popen[bytes] | None = None
        self._n_logged = 0
        (directory / "held.py").write_text(HELD_MODEL)

    def declare(self, models: str) -> Path:
        """Writes the models' file."""
        path = self.directory / "models.toml"
        path.write_text(models)
        return path

    def declare_also(self, models: str, module: str, code: str) -> None:
        """Adds models to those that it serves, and writes the module that has their classes."""
        self.declare((self.directory / "models.toml").read_text() + models)
        (self.directory / f"{module}.py").write_text(code)

    def start(self, *options: str) -> None:
        """Starts gunicorn from the repository's root, and waits until it is ready."""
        self.launch(self.command(*options))
        self.wait_ready()

    @contextmanager
    def lent(self, *options: str) -> Iterator[None]:
        """For one test of those that share it: it runs, holds nothing and has seen nothing; shows what it logs."""
        for name in ("hold", "seen"):  # of a test that failed
            (self.directory / name).unlink(missing_ok=True)
        self._n_logged = self.log.stat().st_size if self.log.exists() else 0
        try:
            if self.process is None or self.process.poll() is not None:
                self.start(*options)
            yield
        finally:
            sys.stdout.write(self.logged())

    def command(self, *options: str) -> list[str]:
        return [str(BIN / "gunicorn"), f"{self.lane}:app", "-b", f"127.0.0.1:{self.port}", *options]

    def launch(self, command: list[str]) -> None:
        # A shell has what it starts in the background ignore SIGINT, and that is inherited, by these processes too.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def refuse(self, *options: str) -> tuple[int, list[str]]:
        """Runs a gunicorn that is expected not to start; its exit status, and the lines that it wrote."""
        ended = subprocess.run(
            self.command(*options),
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return ended.returncode, (ended.stdout + ended.stderr).splitlines()

    def wait_ready(self) -> None:
        """Until a dozen answers in a row say so: any of the web workers may give one."""

        def is_ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"it ended with status {self.process.returncode}"
            return self.is_ready()

        wait_until(is_ready, "the server to be ready", 40)

    def is_ready(self) -> bool:
        try:
            return all(self.call("GET", "/readyz")[0] == 200 for _ in range(12))
        except OSError:
            return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal, and returns the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(45)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        timeout_seconds: float = 40.0,
    ) -> tuple[int, Any]:
        """One request on a connection of its own; the status, and the body, parsed if it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_seconds)
        try:
            sent = body if isinstance(body, bytes | None) else orjson.dumps(body)
            connection.request(method, path, sent, {"Content-Type": content_type} if sent else {})
            response = connection.getresponse()
            content = response.read()
            is_json = "json" in response.headers.get("Content-Type", "") and "ndjson" not in str(
                response.headers.get("Content-Type")
            )
            return response.status, orjson.loads(content) if is_json else content
        finally:
            connection.close()

    def enqueue(self, n_items: int) -> str:
        """Uploads the numbers from 0 on, and makes a job over them; returns its id."""
        lines = b"".join(b'{"number":%d}\n' % number for number in range(n_items))
        status, uploaded = self.call("POST", "/v1/inputs", lines, "application/x-ndjson")
        assert (status, uploaded.get("n_items")) == (201, n_items), uploaded
        status, job = self.call("POST", "/v1/jobs", {"model": "held", "input_id": uploaded["id"]})
        assert status == 202, job
        return str(job["id"])

    def make_job(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        """The job that is asked for, or None if it is refused."""
        status, job = self.call("POST", "/v1/jobs", asked)
        return job if status == 202 else None

    def finish(self, job_id: str, n_items: int) -> None:
        """Waits for the job's end, and checks that its outputs are exact."""
        status, job = self.call("GET", f"/v1/jobs/{job_id}?wait=30")
        assert (status, job["status"]) == (200, "succeeded"), job
        status, outputs = self.call("GET", f"/v1/jobs/{job_id}/outputs")
        assert status == 200
        assert outputs == {
            "prediction": [{"number": number, "double": 2 * number} for number in range(n_items)]
        }
        n_chunks, n_outputs = (
            self.rows(f"SELECT count(*) AS n FROM {table} WHERE job_id = '{job_id}'")
            for table in ("chunks", "outputs")
        )
        assert n_outputs == n_chunks

    def logged(self) -> str:
        """Its log, from where it was last lent."""
        return self.log.read_bytes()[self._n_logged :].decode()

    def log_says(self, words: str, n_times: int = 1) -> None:
        """Waits until the log has these words so many times."""
        wait_until(lambda: self.logged().count(words) >= n_times, f"the log to say {words!r}")

    def check_log(self) -> None:
        """That it tells of no error."""
        log = self.log.read_text()
        assert "Traceback" not in log
        assert '"level": "error"' not in log

    def rows(self, sql: str) -> list[dict[str, Any]]:
        with self.database.reading() as session:
            return [dict(row) for row in session.execute(text(sql)).mappings()]

    def children(self, parent: int | None = None) -> set[int]:
        """The live processes that the server's main process started, or another one."""
        assert self.process is not None
        pid = parent or self.process.pid
        return {
            int(child)
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if is_alive(int(child))
        }

    def registered(self) -> set[int]:
        """The processes of all runners that have not said that they stopped."""
        return {row["pid"] for row in self.rows("SELECT pid FROM runners WHERE stopped_at IS NULL")}

    def runners(self, parent: int | None = None) -> set[int]:
        """Those of the children that are runners, by their own word."""
        return self.registered() & self.children(parent)

    def web_workers(self) -> set[int]:
        """Those of them that are not."""
        return self.children() - self.runners()

    def wait_workers(self, n_web: int, n_runners: int = 1) -> None:
        """Until there are so many of both."""
        wait_until(
            lambda: (len(self.web_workers()), len(self.runners())) == (n_web, n_runners),
            f"{n_web} web workers and {n_runners} runners",
            20,
        )

    def kill_children(self, n_web: int) -> None:
        """Kills all workers and runners, and waits until as many others are there, and ready."""
        killed = self.children()
        for process in killed:
            os.kill(process, signal.SIGKILL)
        wait_until(lambda: not killed & self.children(), "their end")
        self.wait_workers(n_web)
        self.wait_ready()

    def hold(self) -> None:
        """From now on the model does not return."""
        (self.directory / "hold").touch()

    def let_go(self) -> None:
        (self.directory / "hold").unlink()

    def seen(self) -> list[int]:
        """The numbers that the model was asked for, in order."""
        return [number for number, _ in seen_in(self.directory)]

    def seen_by(self, process: int) -> list[int]:
        """Those of one process."""
        return [number for number, by in seen_in(self.directory) if by == process]

    def end(self) -> None:
        """Kills what is left, the whole session of it, and shows the log, which pytest keeps for failures."""
        if self.process is not None:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        if self.log.exists():
            sys.stdout.write(self.log.read_text())


@pytest.fixture(scope="module")
def lane(request: pytest.FixtureRequest) -> str:
    """What is served: `asgi`, as `make serve` does, or what a test names by `both_lanes`."""
    return str(getattr(request, "param", "asgi"))


both_lanes = pytest.mark.parametrize("lane", ["asgi", "wsgi"], indirect=True)
one_lane = pytest.mark.parametrize("lane", ["asgi"], indirect=True)
"""For what does not depend on it, but shares a server with what is tested on both."""


@pytest.fixture
def serve(tmp_path: Path, lane: str) -> Iterator[Callable[[URL], Server]]:
    """Makes a server of a database; it has to be started."""
    servers: list[Server] = []

    def make(url: URL) -> Server:
        servers.append(Server(Database(url), tmp_path, lane))
        return servers[-1]

    yield make
    for server in servers:
        server.end()
        server.database.dispose()


@pytest.fixture
def server(serve: Callable[[URL], Server], database_url: URL) -> Server:
    """A server on either kind of database in turn; it has to be started."""
    return serve(database_url)


@pytest.fixture
def sqlite_server(serve: Callable[[URL], Server], sqlite_url: URL) -> Server:
    """A server on SQLite, for what does not depend on the database; it has to be started."""
    return serve(sqlite_url)


@pytest.fixture(scope="module")
def shared_server(
    migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory, lane: str
) -> Iterator[Server]:
    """A server on SQLite for those tests of a module that leave it as they found it; it is lent to each of them."""
    directory = tmp_path_factory.mktemp("server")
    path = shutil.copy(migrated_sqlite, directory / "twofold.db")
    server = Server(Database(make_url(f"sqlite:///{path}")), directory, lane)
    try:
        yield server
        assert server.process is None or server.stop() == 0
    finally:
        server.end()
        server.database.dispose()


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False  # by the latter it ended between the opening and the reading
    return stat.rpartition(")")[2].split()[0] != "Z"
