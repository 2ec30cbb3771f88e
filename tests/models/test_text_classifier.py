"""The text classifier learns the sample that comes with it, measures on what it did not see, and says what it lacks."""

import csv
from pathlib import Path
from typing import Any

import pytest

from app.models.text_classifier import TextClassifier
from tests.models.specimens import served

SAMPLE = Path(__file__).parent.parent.parent / "examples" / "support-messages.csv"
LABELS = ["account", "billing", "delivery", "technical"]


@pytest.fixture(scope="module")
def sample() -> list[dict[str, Any]]:
    with SAMPLE.open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_learns_measures_on_what_it_did_not_see_and_predicts(
    sample: list[dict[str, Any]], tmp_path: Path
) -> None:
    metrics = TextClassifier().train(sample, tmp_path / "artifact")

    assert (metrics["n_train"], metrics["n_test"]) == (105, 35)
    assert sorted(metrics["f1"]) == LABELS
    assert metrics["accuracy"] > 0.6  # a guess has a quarter
    assert TextClassifier().train(sample, tmp_path / "again") == metrics
    assert TextClassifier().train(sample, tmp_path / "words", features="words") != metrics
    model = served(TextClassifier, artifact=str(tmp_path / "artifact"))
    assert model.wait_ready(), model.reason
    (parcel, charge) = model.predict([{"text": "Where is my parcel?"}, {"text": "I was charged twice"}])
    assert (parcel["label"], charge["label"]) == ("delivery", "billing")
    assert 0.25 < parcel["confidence"] <= 1


def test_without_an_artifact_it_is_untrained() -> None:
    assert served(TextClassifier).state == "untrained"


@pytest.mark.parametrize(
    ("labels", "options", "said"),
    [
        ("aaaaaaaa", {}, "all items have the label 'a'"),
        ("aaaaaabbbb", {}, "fewer than 5 items have the label 'b'"),
        ("aaaaabbbbb", {"test_share": 0.1}, "is no item for each of 2 labels"),
        ("aaaaabbbbb", {"features": "letters"}, "use 'characters' or 'words'"),
    ],
)
def test_what_it_cannot_learn_from_is_told_in_words(
    labels: str, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    items = [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]
    with pytest.raises(ValueError, match=said):
        TextClassifier().train(items, tmp_path / "artifact", **options)


def test_the_sample_is_balanced_and_has_no_text_twice(sample: list[dict[str, Any]]) -> None:
    assert sorted({item["label"] for item in sample}) == LABELS
    assert {sum(item["label"] == label for item in sample) for label in LABELS} == {35}
    assert len({item["text"] for item in sample}) == 140
