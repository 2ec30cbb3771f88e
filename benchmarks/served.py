"""The service as it is deployed, gunicorn with a runner, for benchmarks over a socket."""

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import URL

from app.models import JsonObject

READ_BYTES = 1 << 20
START_SECONDS = 60
MODELS = """
[[model]]
name = "nothing"
version = "1"
class = "benchmarks.served:Nothing"
"""


class Nothing:
    """Answers at once, so that what is measured is the pipe."""

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        return [{"ok": True} for _ in items]


class Service:
    """A running gunicorn, and what a client does with it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, models_file: Path) -> None:
        self.process = process
        self.port = port
        self.models_file = models_file

    def upload(self, body: bytes | Iterable[bytes]) -> Any:
        """The input made of this NDJSON; an iterable is sent chunked."""
        headers = {"Content-Type": "application/x-ndjson"}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port)) as connection:
            connection.request(
                "POST", "/v1/inputs", body, headers, encode_chunked=not isinstance(body, bytes)
            )
            return _answer(connection, 201)

    def register(self, url: str) -> Any:
        """The input made of an object that stays where it is."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port)) as connection:
            body = orjson.dumps({"url": url})
            connection.request("POST", "/v1/inputs", body, {"Content-Type": "application/json"})
            return _answer(connection, 201)

    def run(self, input_id: str, model: str = "nothing", **options: str) -> Any:
        """The job over this input, when it has succeeded."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port)) as connection:
            body = orjson.dumps({"model": model, "input_id": input_id, **options})
            connection.request("POST", "/v1/jobs", body, {"Content-Type": "application/json"})
            job = _answer(connection, 202)
            while not job["done"]:
                connection.request("GET", f"/v1/jobs/{job['id']}?wait=60")
                job = _answer(connection, 200)
        if job["status"] != "succeeded":
            sys.exit(f"the job ended as {job['status']}: {job['error']}")
        return job

    def download(self, job_id: str) -> Iterator[bytes]:
        """The outputs as NDJSON, in blocks."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port)) as connection:
            connection.request(
                "GET", f"/v1/jobs/{job_id}/outputs", headers={"Accept": "application/x-ndjson"}
            )
            response = connection.getresponse()
            while block := response.read(READ_BYTES):
                yield block

    def is_ready(self) -> bool:
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", self.port)) as connection:
                connection.request("GET", "/readyz")
                return connection.getresponse().status == 200
        except OSError:
            return False


def _answer(connection: http.client.HTTPConnection, status: int) -> Any:
    response = connection.getresponse()
    body = response.read()
    if response.status != status:
        sys.exit(f"{response.status}: {body.decode()}")
    return orjson.loads(body)


@contextmanager
def service(
    url: URL, *, models: str = MODELS, lane: str = "wsgi", workers: int = 1, **settings: str
) -> Iterator[Service]:
    """Starts the service over a database, with other models and settings if given; stops it at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        models_file = Path(folder) / "models.toml"
        models_file.write_text(models)
        environment = {
            **os.environ,
            "DATABASE_URL": url.render_as_string(hide_password=False),
            "TWOFOLD_MODELS_FILE": str(models_file),
            "TWOFOLD_LOG_LEVEL": "warning",
            "PYTHONPATH": ".",
            **settings,
        }
        command = [
            Path(sys.executable).with_name("gunicorn"),
            "-b",
            f"127.0.0.1:{port}",
            "-w",
            str(workers),
            f"{lane}:app",
        ]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            running = Service(process, port, models_file)
            deadline = time.monotonic() + START_SECONDS
            while not running.is_ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit("gunicorn did not start")
                time.sleep(0.1)
            yield running
        finally:
            process.terminate()
            process.wait()
