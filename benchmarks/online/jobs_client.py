"""A client of this project's uploads and jobs, and a stream that is a process of its own, beside the load.

python -m benchmarks.online.jobs_client upload PORT FILE      prints the answer
python -m benchmarks.online.jobs_client download PORT JOB     prints how many bytes came
"""

import http.client
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BLOCK_BYTES = 1 << 18
JSON = {"Content-Type": "application/json"}


def call(port: int, method: str, path: str, body: Any = None) -> Any:
    """One request; the parsed answer, or a `SystemExit` that tells what went wrong."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), JSON)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status >= 400:
        raise SystemExit(f"{method} {path}: {response.status} {content[:500]!r}")
    return json.loads(content) if content else None


def upload(port: int, file: Path) -> dict[str, Any]:
    """Streams a file of NDJSON; the input that it became."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    with file.open("rb") as body:
        headers = {"Content-Type": "application/x-ndjson", "Content-Length": str(file.stat().st_size)}
        connection.request("POST", "/v1/inputs", body, headers)
        response = connection.getresponse()
    answer: dict[str, Any] = json.loads(response.read())
    if response.status != 201:
        raise SystemExit(f"upload: {response.status} {answer}")
    return answer


def download(port: int, job_id: str, file: Path | None = None) -> int:
    """Reads all outputs of a job as NDJSON, into a file if one is named; how many bytes they are."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("GET", f"/v1/jobs/{job_id}/outputs", headers={"Accept": "application/x-ndjson"})
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"download: {response.status} {response.read()[:500]!r}")
    n_bytes = 0
    with (file or Path(os.devnull)).open("wb") as out:
        while block := response.read(BLOCK_BYTES):
            n_bytes += out.write(block)
    return n_bytes


def enqueue(port: int, model: str, input_id: str) -> str:
    job = call(port, "POST", "/v1/jobs", {"model": model, "input_id": input_id})
    return str(job["id"])


def wait(port: int, job_id: str, *, until_running: bool = False, seconds: float = 600) -> dict[str, Any]:
    """The job once it is done, or once it runs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job: dict[str, Any] = call(port, "GET", f"/v1/jobs/{job_id}" + ("" if until_running else "?wait=30"))
        if job["done"] or (until_running and job["counts"]["succeeded"] > 0):
            return job
        time.sleep(0.05 if until_running else 0)
    raise SystemExit(f"job {job_id} took longer than {seconds} seconds")


def stream(kind: str, port: int, what: str) -> "subprocess.Popen[bytes]":
    """Starts an upload or a download in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.online.jobs_client", kind, str(port), what]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


if __name__ == "__main__":
    kind, port, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    print(json.dumps(upload(port, Path(what)) if kind == "upload" else download(port, what)))
