"""A short soak on each database; `make soak` runs a long one."""

import os
import time
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.outage.postgres import own_postgres
from tests.soak.soak import soak

KILLS = int(os.environ.get("SOAK_KILLS", "4"))
SECONDS = 30.0 + 5 * KILLS
"""At most; one kill takes one or two."""


@pytest.mark.timeout(SECONDS + 150)
@pytest.mark.parametrize("executor", ["thread", "process"])
def test_nothing_is_lost_or_doubled_on_sqlite(sqlite_url: URL, tmp_path: Path, executor: str) -> None:
    seed = int(os.environ.get("SOAK_SEED", time.time()))
    violence, findings = soak(sqlite_url, tmp_path, seed, executor=executor, kills=KILLS, seconds=SECONDS)

    assert findings.is_well, f"seed {seed}: {violence}; {findings}"
    assert violence.n_kills >= KILLS
    assert findings.n_items > 0


@pytest.mark.timeout(SECONDS + 150)
def test_nothing_is_lost_or_doubled_on_postgres(tmp_path: Path) -> None:
    seed = int(os.environ.get("SOAK_SEED", time.time()))
    with own_postgres(tmp_path / "pg") as postgres:
        violence, findings = soak(
            postgres.url, tmp_path, seed, kills=KILLS, seconds=SECONDS, postgres=postgres
        )

    assert findings.is_well, f"seed {seed}: {violence}; {findings}"
    assert violence.n_kills >= KILLS
    assert findings.n_items > 0
