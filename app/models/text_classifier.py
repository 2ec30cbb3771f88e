"""A text classifier that is trained by job: it learns which pieces of words speak for which label."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marshmallow import Schema, fields, validate

from app.models.extras import needs

with needs("skops"):
    import skops.io
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import Pipeline, make_pipeline

LEAST_PER_LABEL = 5
FEATURES: dict[str, dict[str, Any]] = {
    "characters": {"analyzer": "char_wb", "ngram_range": (2, 5)},
    "words": {"analyzer": "word", "ngram_range": (1, 2)},
}


class TextClassifier:
    """`{"text": "…"}` → `{"label": "…", "confidence": 0.83}`, by TF-IDF and a logistic regression.

    It needs scikit-learn, which the extra `skops` brings. Its artifact is in skops's format, which runs no code when it
    is loaded. Thread-safe after `load`.
    """

    class Item(Schema):
        text = fields.String(required=True)

    class TrainItem(Item):
        label = fields.String(required=True, validate=validate.Length(min=1))

    class Prediction(Schema):
        label = fields.String(required=True)
        confidence = fields.Float(required=True, metadata={"description": "probability of the label, 0 to 1"})

    def load(self, artifact: Path | None) -> None:
        """Reads a pipeline that `train` wrote."""
        if artifact is None:
            raise ValueError("it has no weights before its first training")
        self._pipeline: Pipeline = skops.io.load(artifact)
        self._labels: list[str] = self._pipeline.classes_.tolist()

    def train(
        self,
        items: list[dict[str, Any]],
        artifact: Path,
        *,
        features: str = "characters",
        test_share: float = 0.25,
        seed: int = 0,
        progress: Callable[[float], None] = lambda _share: None,
    ) -> dict[str, Any]:
        """Learns from a part of the items, and measures on the others, `test_share` of each label, drawn by `seed`.

        What is measured is what is kept: the others are never learned from. `features` are "characters", pieces of two
        to five of them, which tell more where there are few items, or "words", and pairs of words. At least two labels,
        of five items each.
        """
        if features not in FEATURES:
            raise ValueError(f"features is {features!r}: use {' or '.join(map(repr, FEATURES))}")
        texts, labels = [item["text"] for item in items], [item["label"] for item in items]
        _check(labels, test_share)
        learned, held_out, learned_labels, true_labels = train_test_split(
            texts, labels, test_size=test_share, random_state=seed, stratify=labels
        )
        vectorizer = TfidfVectorizer(sublinear_tf=True, **FEATURES[features])
        vectors = vectorizer.fit_transform(learned)
        progress(0.2)
        pipeline = make_pipeline(
            vectorizer, LogisticRegression(C=10.0, max_iter=1000).fit(vectors, learned_labels)
        )
        progress(0.9)
        skops.io.dump(pipeline, artifact)
        names = sorted(set(labels))
        predicted = pipeline.predict(held_out)
        by_label = f1_score(true_labels, predicted, labels=names, average=None, zero_division=0.0)
        return {
            "accuracy": round(float(accuracy_score(true_labels, predicted)), 4),
            "f1": {name: round(float(score), 4) for name, score in zip(names, by_label, strict=True)},
            "n_train": len(learned),
            "n_test": len(held_out),
        }

    def predict(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The most probable label of each text."""
        likely = self._pipeline.predict_proba([item["text"] for item in items])
        return [
            {"label": self._labels[row.argmax()], "confidence": round(float(row.max()), 4)} for row in likely
        ]


def _check(labels: list[str], test_share: float) -> None:
    counts = Counter(labels)
    if len(counts) < 2:
        raise ValueError(f"all items have the label {labels[0]!r}: there is nothing to tell apart")
    rare = sorted(label for label, n_items in counts.items() if n_items < LEAST_PER_LABEL)
    if rare:
        raise ValueError(f"fewer than {LEAST_PER_LABEL} items have the label {', '.join(map(repr, rare))}")
    if not 0 < test_share < 1 or test_share * len(labels) < len(counts):
        raise ValueError(
            f"test_share {test_share} of {len(labels)} items is no item for each of {len(counts)} labels"
        )
