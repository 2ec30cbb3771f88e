"""A training in real processes: killed half-way, it is begun again, and makes one version."""

import os
import signal
from pathlib import Path

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
