"""kill -9 around every statement and every commit of a job's life: nothing is lost, and nothing done twice."""

import json
import os
import subprocess
import sys

import pytest
from sqlalchemy import URL

from tests.crash.stories import STORIES

LEAST_POINTS = 30


@pytest.mark.timeout(300)  # a minute or less on an idle machine
@pytest.mark.parametrize("story", STORIES)
def test_a_story_ends_well_wherever_its_process_was_killed(database_url: URL, story: str) -> None:
    """To look at one point: KILL_POINT=17 pytest tests/crash -k plain"""
    only = [os.environ["KILL_POINT"]] if "KILL_POINT" in os.environ else []
    command = [sys.executable, "-m", "tests.crash.enumeration", database_url.render_as_string(False), story]
    ended = subprocess.run([*command, *only], capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stderr
    outcome = json.loads(ended.stdout)

    sys.stdout.write(f"{story}: {outcome['n_points']} kill points\n")
    assert not outcome["failures"], "\n".join(outcome["failures"])
    assert only or outcome["n_points"] >= LEAST_POINTS
