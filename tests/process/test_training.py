"""A training in real processes: killed half-way, it makes one version, which a promotion brings to all of them."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sqlalchemy import URL

from tests.process.conftest import Server
from tests.waiting import wait_until

PUPIL = """
[[model]]
name = "pupil"
version = "0"
class = "tests.models.pupils:Pupil"
"""
LABELED = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}, {"text": "c", "label": "y"}]


def test_a_training_whose_runner_is_killed_half_way_is_retried_and_makes_exactly_one_version(
    server: Server, tmp_path: Path
) -> None:
    server.declare(PUPIL)
    server.environment["TWOFOLD_LEASE_SECONDS"] = "1"
    server.start("-w", "1")
    server.hold()
    job = {"kind": "train", "model": "pupil", "data": LABELED, "options": {"hold": str(tmp_path / "hold")}}
    status, made = server.call("POST", "/v1/jobs", job)
    assert status == 202, made
    wait_until((tmp_path / "begun").exists, "the training to begin", 20)
    (killed,) = server.runners()

    os.kill(killed, signal.SIGKILL)
    server.let_go()

    _, ended = server.call("GET", f"/v1/jobs/{made['id']}?wait=30")
    assert (ended["status"], ended["trained"]["version"]) == ("succeeded", "t1")
    assert ended["trained"]["metrics"]["pid"] != killed
    assert server.rows("SELECT version, n_bytes FROM model_versions") == [{"version": "t1", "n_bytes": 13}]
    assert server.rows("SELECT count(*) AS n FROM artifact_parts") == [{"n": 1}]
    assert "rescued" in [row["event"] for row in server.rows("SELECT event FROM job_events")]


def test_a_promoted_training_answers_in_every_process_of_two_servers(
    serve: Callable[[URL], Server], postgres_url: URL, tmp_path: Path
) -> None:
    servers = [serve(postgres_url), serve(postgres_url)]
    for number, server in enumerate(servers):
        server.lane = ("asgi", "wsgi")[number]
        server.environment["TWOFOLD_RUNNER"] = ("embedded", "off")[number]
        server.environment["TWOFOLD_ARTIFACT_CACHE"] = str(tmp_path / f"cache-{number}")
        server.declare(PUPIL)
        server.launch(server.command("-w", "2"))
    for server in servers:
        server.wait_ready()
    first, second = servers
    _, job = first.call("POST", "/v1/jobs", {"kind": "train", "model": "pupil", "data": LABELED})
    _, job = second.call("GET", f"/v1/jobs/{job['id']}?wait=20")
    assert (job["status"], job["trained"]["version"]) == ("succeeded", "t1")

    status, _ = second.call("POST", "/v1/models/pupil/versions/t1/promote")

    assert status == 202
    for server in servers:
        wait_until(partial(predicts, server), "t1 in every web worker")
    asked = {"model": "pupil", "data": [{"text": "a"}]}
    made = wait_until(lambda: first.make_job(asked), "a web worker that knows it")
    _, ended = first.call("GET", f"/v1/jobs/{made['id']}?wait=20")
    assert (ended["version"], ended["status"]) == ("t1", "succeeded")


def predicts(server: Server) -> bool:
    """Whether a dozen answers in a row are by the trained version: from both web workers, very likely."""
    answers = [server.call("POST", "/v1/models/pupil/predict", {"data": [{"text": "a"}]}) for _ in range(12)]
    right = {"prediction": [{"text": "a", "guess": "y"}], "model": "pupil", "version": "t1"}
    return all(answer == (200, right) for answer in answers)
