"""How a runner works off trainings: beside the predictions of the same model, and one at a time."""

from pathlib import Path

import pytest

from app.models import JsonObject
from app.models.declarations import Declaration
from app.tables import JobKind
from tests.jobs.conftest import Workshop
from tests.models.specimens import declare
from tests.runner.conftest import Bench, Items, Staged


class StagedPupil(Staged):
    def train(self, items: Items, artifact: Path) -> JsonObject:
        artifact.write_text(str(len(items)))
        return {"n": len(items)}


@pytest.fixture
def pupil(bench: Bench, tmp_path: Path) -> Declaration:
    return declare(StagedPupil, name="sentiment", artifact=str(tmp_path), options={"stage": bench.stage})


def test_trainings_run_one_at_a_time_beside_the_predictions_of_their_model(
    workshop: Workshop, bench: Bench, pupil: Declaration
) -> None:
    trainings = [workshop.enqueue(5, chunk_items=2, kind=JobKind.TRAIN) for _ in range(2)]
    job_id = workshop.enqueue(1)
    runner = bench.make(pupil)

    runner.tick()
    assert len(bench.executor.waiting) == 2, "one training, and the prediction"
    bench.executor.run()
    runner.tick()
    assert workshop.job(job_id)["status"] == "succeeded"
    assert [workshop.job(each)["status"] for each in trainings] == ["succeeded", "running"]
    bench.executor.run()
    runner.tick()

    assert workshop.select_all("SELECT version, n_bytes FROM model_versions ORDER BY version") == [
        {"version": "t1", "n_bytes": 1},
        {"version": "t2", "n_bytes": 1},
    ]
    workshop.check_books()


@pytest.mark.parametrize("kind", JobKind)
def test_what_a_model_cannot_do_here_fails_with_the_reason(
    workshop: Workshop, bench: Bench, pupil: Declaration, kind: JobKind
) -> None:
    job_id = workshop.enqueue(1, kind=kind)
    changes = {"artifact": None} if kind is JobKind.PREDICT else {"artifact": "nowhere"}
    runner = bench.make(declare(StagedPupil, name="sentiment", **changes), max_attempts=1)

    runner.tick()

    job = workshop.job(job_id)
    assert job["status"] == "failed"
    assert ("is untrained" if kind is JobKind.PREDICT else "nowhere does not exist") in job["error"]
