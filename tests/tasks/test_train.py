"""The train task: an artifact and metrics, or one reason why there are none."""

import os
import tarfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from app.data import pack
from app.errors import Invalid, ModelFailed
from app.models import JsonObject, packing
from app.models.artifacts import ArtifactError, digest
from app.models.packing import unpack
from app.models.training import require_trainable
from app.tasks.predict import Stopwatch, TransientFailure
from app.tasks.train import TrainingAnswer, train_chunk
from tests.models.pupils import Boastful, Folders, Items, Pupil, Silent
from tests.models.specimens import served

LABELED = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}, {"text": "c", "label": "y"}]


def run(
    model: type = Pupil, items: Sequence[object] = LABELED, max_bytes: int = 1000, **options: Any
) -> TrainingAnswer:
    payload = pack(orjson.dumps(item) for item in items)
    return train_chunk(served(model), payload, options, max_bytes)


def test_a_training_gives_the_file_that_was_written_and_the_metrics(tmp_path: Path) -> None:
    answer = run()

    unpack(answer.artifact.form, answer.artifact.parts, tmp_path / "artifact")
    assert (tmp_path / "artifact").read_bytes() == b'{"guess":"y"}'
    assert answer.artifact.sha256 == digest(tmp_path / "artifact")
    assert (answer.metrics["accuracy"], answer.metrics["n_train"]) == (2 / 3, 3)


def test_a_folder_is_packed_the_same_each_time_and_comes_out_as_it_was(tmp_path: Path) -> None:
    first, second = run(Folders).artifact, run(Folders).artifact

    assert first == second
    with tarfile.open(fileobj=BytesIO(b"".join(first.parts))) as archive:
        assert archive.getnames() == ["deep/guess", "empty"]
    unpack(first.form, first.parts, tmp_path / "artifact")
    assert first.sha256 == digest(tmp_path / "artifact")
    model = served(Folders, artifact=str(tmp_path / "artifact"), sha256=first.sha256)
    assert model.predict([{"text": "a"}]) == [{"guess": "x"}]


def test_one_wrong_item_refuses_the_whole_training_and_names_the_first_of_them() -> None:
    with pytest.raises(Invalid) as refused:
        run(items=[LABELED[0], {"text": "no label"}, "no object", *[{"label": 1}] * 4])
    assert "6 of 7 items do not fit" in refused.value.detail
    assert "item 1 /label: Missing data" in refused.value.detail
    assert "item 2 item: An item is a JSON object" in refused.value.detail
    assert "item 5 " in refused.value.detail
    assert refused.value.detail.endswith("; …")


@pytest.mark.parametrize(
    ("act", "error", "said"),
    [
        ("raise", ModelFailed, "raised ValueError: one label is not enough in train"),
        ("exit", ModelFailed, "raised SystemExit: 3 in train"),
        ("disconnect", TransientFailure, "the feature store hung up"),
        ("exhaust", MemoryError, "raised MemoryError in train"),
    ],
)
def test_what_train_raises_is_told_apart(act: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        run(act=act)


def test_an_artifact_that_is_too_big_empty_or_elsewhere_is_refused_precisely() -> None:
    with pytest.raises(
        ArtifactError, match=r"has 13 bytes, more than the 12 that TWOFOLD_MAX_ARTIFACT_BYTES"
    ):
        run(max_bytes=12)
    with pytest.raises(ArtifactError, match=r"no folder at 'artifact'.*but artifact\.npz beside it"):
        run(Silent)


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("nowhere")], ids=["a pipe", "a link to nothing"]
)
@pytest.mark.parametrize("name", ["artifact/strange", "artifact"])
def test_what_is_no_file_is_named_and_not_waited_for(
    tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    artifact = tmp_path / "artifact"
    if artifact.name != name:
        artifact.mkdir()
        (artifact / "weights").write_bytes(b"x")
    make(tmp_path / name)

    with pytest.raises(ArtifactError, match=f"^train wrote {name}, which is no file"):
        packing.pack(artifact, 1000)


def test_metrics_must_be_a_dict_of_json() -> None:
    with pytest.raises(ModelFailed, match="returned a NoneType, not a dict of metrics"):
        run(Boastful, metrics="none")
    with pytest.raises(ModelFailed, match="metrics that are not JSON"):
        run(Boastful, metrics="strange")
    assert run(Boastful, metrics="nan").metrics == {"loss": None}


class Careful(Pupil):
    """Says how far it is, and what is no share of anything."""

    def train(
        self, items: Items, artifact: Path, *, progress: Callable[[float], None], **_: Any
    ) -> JsonObject:
        for share in (0.25, -1, 7, float("nan"), 0.75):
            progress(share)
        artifact.touch()
        return {}


def test_a_training_may_say_how_far_it_is() -> None:
    stopwatch = Stopwatch()

    train_chunk(served(Careful), pack(map(orjson.dumps, LABELED)), {}, 1000, stopwatch)

    assert stopwatch.progress == 0.75


def test_progress_goes_nowhere_where_nobody_asks() -> None:
    assert run(Careful).metrics == {}


def test_progress_is_no_option() -> None:
    with pytest.raises(Invalid, match="/options/progress: train gets progress anyway"):
        require_trainable(served(Careful), {"progress": 1})


@pytest.mark.parametrize("said", [2, -1, float("nan"), 10**400, "much", None, [0.7]])
def test_what_is_no_share_is_not_taken_for_progress(said: object) -> None:
    stopwatch = Stopwatch()
    stopwatch.report(np.float32(0.5))

    stopwatch.report(said)

    assert stopwatch.progress == 0.5
