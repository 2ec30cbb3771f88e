"""Object stores with the service as it is deployed: a runner is killed, and the manifest is right all the same."""

import hashlib
import os
import signal
from collections.abc import Callable
from typing import Any

import orjson

from tests.process.conftest import Server
from tests.waiting import wait_until

N_ITEMS, CHUNK_ITEMS = 20_000, 250


def test_a_killed_runner_leaves_exactly_the_right_parts(
    sqlite_server: Server, make_bucket: Callable[[str], Any]
) -> None:
    server = sqlite_server
    bucket = make_bucket("bulk")
    body = b"".join(b'{"number":%d}\n' % number for number in range(N_ITEMS))
    bucket.put_object(Key="in/numbers.ndjson", Body=body)
    server.environment |= {
        **{name: value for name, value in os.environ.items() if name.startswith("AWS_")},
        "TWOFOLD_CHUNK_ITEMS": str(CHUNK_ITEMS),
        "TWOFOLD_LEASE_SECONDS": "1",
        "TWOFOLD_STORAGE_PREFIXES": "s3://bulk/in, s3://bulk/out",
    }
    server.start("-w", "1")
    status, registered = server.call("POST", "/v1/inputs", {"url": "s3://bulk/in/numbers.ndjson"})
    assert (status, registered["n_items"], registered["n_bytes"]) == (201, N_ITEMS, len(body)), registered

    wanted = {"model": "held", "input_id": registered["id"], "output_url": "s3://bulk/out/one/"}
    status, job = server.call("POST", "/v1/jobs", wanted)
    assert status == 202, job
    wait_until(lambda: server.rows("SELECT 1 FROM outputs"), "the first part")
    server.hold()
    wait_until(lambda: len(server.seen()) % CHUNK_ITEMS == 0 and server.rows(RUNNING), "a chunk in the model")
    (runner,) = server.runners()
    os.kill(runner, signal.SIGKILL)
    server.let_go()

    def manifest_url() -> Any:
        return server.call("GET", f"/v1/jobs/{job['id']}?wait=10")[1]["manifest_url"]

    assert wait_until(manifest_url, "the manifest", 40) == "s3://bulk/out/one/manifest.json"
    manifest = orjson.loads(bucket.Object("out/one/manifest.json").get()["Body"].read())
    assert (manifest["status"], manifest["counts"]["succeeded"]) == ("succeeded", N_ITEMS)
    assert server.rows("SELECT event FROM job_events WHERE event IN ('rescued', 'retried')")
    firsts = [part["first_item"] for part in manifest["parts"]]
    assert firsts == list(range(0, N_ITEMS, CHUNK_ITEMS))
    parts = [bucket.Object(f"out/one/{part['object']}").get()["Body"].read() for part in manifest["parts"]]
    assert [part["sha256"] for part in manifest["parts"]] == [
        hashlib.sha256(each).hexdigest() for each in parts
    ]

    status, plain = server.call("POST", "/v1/jobs", {"model": "held", "input_id": registered["id"]})
    assert server.call("GET", f"/v1/jobs/{plain['id']}?wait=30")[1]["status"] == "succeeded"
    status, outputs = server.call("GET", f"/v1/jobs/{plain['id']}/outputs")
    assert status == 200
    assert [orjson.loads(line) for line in b"".join(parts).splitlines()] == outputs["prediction"]


RUNNING = "SELECT 1 FROM chunks WHERE status = 'running'"
