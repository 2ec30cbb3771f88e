"""The servers that are measured: how each is started, and that it answers as it must before it is measured."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from benchmarks.online.bodies import ITEMS_PER_REQUEST, N_BODIES
from benchmarks.online.scratch import ROOT, Scratch

N_WORKERS = 2
READY_SECONDS, STOP_SECONDS = 60.0, 15.0
BARE = ["-w", str(N_WORKERS), "--reuse-port", "--no-control-socket", "--log-level", "warning"]
GTHREAD = ["-k", "gthread", "--threads", "16"]  # as gunicorn.conf.py has it


@dataclass(frozen=True)
class Server:
    """A way to serve both models. `{port}` in its command is replaced; `{model}` in its path, too."""

    name: str
    environment: str  # "service" or "peers"
    command: list[str]
    path: str = "/{model}"
    variables: Mapping[str, str] = field(default_factory=dict)
    needs: str = ""  # a file of the repository
    is_ours: bool = False


def _bare(name: str, app: str, *options: str) -> Server:
    return Server(
        name,
        "service",
        ["gunicorn", f"benchmarks.online.peers.{app}:app", "-b", "127.0.0.1:{port}", *BARE, *options],
    )


def _mosec(name: str, batching: str) -> Server:
    command = [
        "python",
        "-m",
        "benchmarks.online.peers.mosec_app",
        "--address",
        "127.0.0.1",
        "--port",
        "{port}",
    ]
    return Server(name, "peers", [*command, "--log-level", "error"], variables={"BENCH_BATCHING": batching})


def _ours(name: str, app: str) -> Server:
    return Server(
        name,
        "service",
        ["gunicorn", f"{app}:app", "-b", "127.0.0.1:{port}", "-w", str(N_WORKERS)],
        path="/v1/models/{model}/predict",
        needs=f"{app}.py",
        is_ours=True,
    )


FASTAPI = ["uvicorn", "benchmarks.online.peers.fastapi_app:app", "--host", "127.0.0.1", "--port", "{port}"]
SERVERS = {
    server.name: server
    for server in (
        _ours("fast-lane", "asgi"),
        _ours("wsgi-lane", "wsgi"),
        _bare("bare-asgi", "bare_asgi", "-k", "asgi"),
        _bare("bare-wsgi", "bare_wsgi", *GTHREAD),
        _mosec("mosec", "0"),
        _mosec("mosec-batching", "1"),
        Server(
            "fastapi",
            "peers",
            [*FASTAPI, "--workers", str(N_WORKERS), "--log-level", "warning", "--no-access-log"],
        ),
    )
}


class Running:
    """A server that was started, on a port of its own, in a session of its own."""

    def __init__(self, server: Server, scratch: Scratch, variables: Mapping[str, str] | None = None) -> None:
        self.server, self.scratch = server, scratch
        self.port = free_port()
        self._log = scratch.folder / f"{server.name}.log"
        program, *arguments = [part.replace("{port}", str(self.port)) for part in server.command]
        environment = scratch.environment() | dict(server.variables)
        environment |= _settings(server, scratch) | dict(variables or {}) if server.is_ours else {}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [scratch.bin(server.environment, program), *arguments],
                # gunicorn reads gunicorn.conf.py from where it starts: this project's is not for the bare ones.
                cwd=ROOT if server.is_ours else scratch.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def url(self, model: str) -> str:
        return f"http://127.0.0.1:{self.port}{self.server.path.format(model=model)}"

    def wait_right(self, models: list[str]) -> None:
        """Until it answers; exits the benchmark if an answer is wrong, or none comes."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                for model in models:
                    self._check(model)
            except (OSError, http.client.HTTPException, NotReady) as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    log = self._log.read_text(errors="replace")[-3000:]
                    raise SystemExit(
                        f"{self.server.name} does not answer: {error!r}. Its log ends:\n{log}"
                    ) from None
                time.sleep(0.2)
            else:
                return

    def _check(self, model: str) -> None:
        """Sends every body of the benchmark once, and compares each answer with the model's own."""
        for n_items in ITEMS_PER_REQUEST:
            for number in range(N_BODIES):
                name = f"{n_items}_{number}"
                body = (self.scratch.folder / "bodies" / f"{name}.json").read_bytes()
                labels = json.loads((self.scratch.folder / "expected" / f"{model}_{name}.json").read_text())
                items = json.loads(body)["data"]
                expected = [item | {"sentiment": label} for item, label in zip(items, labels, strict=True)]
                answer = json.loads(self._post(model, body))
                if answer["prediction"] != expected:
                    raise SystemExit(f"{self.server.name} answers body {name} for {model} wrongly: {answer}")

    def _post(self, model: str, body: bytes) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            path = self.server.path.format(model=model)
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                raise NotReady(f"{response.status} {content[:500]!r}")
            return content
        finally:
            connection.close()

    def stop(self) -> None:
        """Ends it and all that it started."""
        self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class NotReady(Exception):
    """It answered, and not with 200."""


def choose(names: list[str]) -> list[Server]:
    """Those servers, without the ones whose code is not there (yet)."""
    chosen = []
    for name in names:
        server = SERVERS[name]
        if server.needs and not (ROOT / server.needs).exists():
            print(f"{name} is left out: there is no {server.needs}", flush=True)
        else:
            chosen.append(server)
    return chosen


@contextmanager
def running(
    servers: list[Server], scratch: Scratch, models: list[str], variables: Mapping[str, str] | None = None
) -> Iterator[list[Running]]:
    """All of them at once, each checked: so one can be measured right after the other.

    An idle one takes less than half a percent of a core.
    """
    started: list[Running] = []
    try:
        for server in servers:
            started.append(Running(server, scratch, variables))
            started[-1].wait_right(models)
        yield started
    finally:
        for one in started:
            one.stop()


def _settings(server: Server, scratch: Scratch) -> dict[str, str]:
    return {
        "DATABASE_URL": f"sqlite:///{scratch.folder}/{server.name}.db",
        "TWOFOLD_MODELS_FILE": str(scratch.models_file),
        "TWOFOLD_RUNNER": "off",
        "TWOFOLD_LOG_LEVEL": "info",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
