"""Other model servers, on real sockets: one that speaks v1 and v2, MLflow's own, and a second Twofold."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import urllib3
from sqlalchemy import make_url
from werkzeug.serving import make_server

from app.api.services import EXTENSION
from app.config import Settings
from app.db import Database
from app.factory import create_app
from tests.ports import free_port
from tests.serving import in_a_thread

PROJECT = Path(__file__).parents[2]


class ModelServer:
    """KServe's v1 and the Open Inference Protocol's v2 over one estimator that takes rows of three floats.

    `failures` are statuses to answer with first, one for each request; 0 closes the connection without an answer.
    """

    def __init__(self, estimator: Any) -> None:
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.failures: list[int] = []
        self.answer: Any = None
        """In place of what the protocol says."""
        self.gate = threading.Event()
        self.gate.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(orjson.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body: Any) -> None:
                outer.requests.append((self.path, dict(self.headers), body))
                outer.gate.wait(60)
                status = outer.failures.pop(0) if outer.failures else 200
                if status == 0:
                    self.close_connection = True
                    return
                told = outer.answer or outer.respond(self.path, body, estimator)
                data = orjson.dumps(told if status == 200 else {"error": "out of order"})
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._httpd.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._httpd.server_port}"
        self._thread = threading.Thread(target=self._httpd.serve_forever)
        self._thread.start()

    def respond(self, path: str, body: Any, estimator: Any) -> Any:
        if path == "/v2/models/points":
            return {
                "name": "points",
                "platform": "test",
                "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 3]}],
                "outputs": [
                    {"name": "label", "datatype": "BOOL", "shape": [-1, 1]},
                    {"name": "probabilities", "datatype": "FP64", "shape": [-1, 2]},
                ],
            }
        if path == "/v2/models/points/infer":
            [given] = body["inputs"]
            n_items, width = given["shape"]
            assert (given["name"], given["datatype"], width) == ("x", "FP64", 3)
            rows = [given["data"][start : start + 3] for start in range(0, 3 * n_items, 3)]
            likely = estimator.predict_proba(rows)
            return {
                "model_name": "points",
                "outputs": [
                    {
                        "name": "label",
                        "datatype": "BOOL",
                        "shape": [n_items, 1],
                        "data": estimator.predict(rows).tolist(),
                    },
                    {
                        "name": "probabilities",
                        "datatype": "FP64",
                        "shape": [n_items, 2],
                        "data": likely.ravel().tolist(),
                    },
                ],
            }
        assert path == "/v1/models/points/versions/2:predict", path
        return {"predictions": estimator.predict(body["instances"]).tolist()}

    def close(self) -> None:
        self.gate.set()
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join()


@contextmanager
def mlflow_server(model: Path) -> Iterator[str]:
    """MLflow's own scoring server with a model folder, in a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"],
        env=os.environ
        | {"PYTHONPATH": str(PROJECT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        patience = urllib3.Retry(60, backoff_factor=0.5, backoff_max=1)
        assert urllib3.request("GET", f"{url}/ping", retries=patience).status == 200
        yield url
    finally:
        os.killpg(process.pid, 9)  # its workers too
        process.wait()


@contextmanager
def twofold_server(folder: Path, models: str) -> Iterator[str]:
    """A second Twofold, with these models."""
    (folder / "models.toml").write_text(models)
    settings = Settings(
        database_url=make_url(f"sqlite:///{folder}/other.db"),
        models_file=folder / "models.toml",
        artifact_cache=folder / "cache",
        runner="off",
    )
    app = create_app(settings)
    database: Database = app.extensions[EXTENSION].database
    database.upgrade()
    server = make_server("127.0.0.1", 0, app, threaded=True)
    try:
        with in_a_thread(server):
            yield f"http://127.0.0.1:{server.port}"
    finally:
        app.extensions[EXTENSION].registry.replace(())  # or one that waits for what it needs tries for ever
        database.dispose()
