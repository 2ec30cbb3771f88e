"""The two models of the online benchmarks as bare functions from texts to labels, and the bodies to send them.

"nothing" answers at once. "tfidf" is TF-IDF and a logistic regression by scikit-learn, trained once on made-up
sentences. Every server calls these same functions, so that what differs is the server.

    python -m benchmarks.online.classifier FOLDER

writes into FOLDER the trained `tfidf.joblib`, `bodies/N_K.json`, which is request K of N items, and for each
model the labels that it must be answered with, `expected/MODEL_N_K.json`.
"""

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import joblib
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from benchmarks.online.bodies import ITEMS_PER_REQUEST, N_BODIES

Predict = Callable[[list[str]], list[str]]

FOLDER_VARIABLE = "BENCH_FOLDER"
N_WORDS, N_SENTENCES = 3000, 4000


def load_all() -> dict[str, Predict]:
    """Both models by name, from the folder that the environment names."""
    return {"nothing": nothing, "tfidf": load(Path(os.environ[FOLDER_VARIABLE], "tfidf.joblib"))}


def nothing(texts: list[str]) -> list[str]:
    return ["positive"] * len(texts)


def load(path: Path) -> Predict:
    pipeline: Pipeline = joblib.load(path)

    def tfidf(texts: list[str]) -> list[str]:
        labels: list[str] = pipeline.predict(texts).tolist()
        return labels

    tfidf(["warm up"])
    return tfidf


def sentence(randomness: random.Random) -> str:
    """8 to 16 made-up words; those with an even number tend to be in positive sentences."""
    leaning = randomness.choice((0, 1))
    numbers = [2 * randomness.randrange(N_WORDS // 2) for _ in range(randomness.randint(8, 16))]
    return " ".join(
        f"word{number + (leaning if randomness.random() < 0.8 else 1 - leaning)}" for number in numbers
    )


def train(path: Path) -> None:
    randomness = random.Random(1)
    sentences = [sentence(randomness) for _ in range(N_SENTENCES)]
    labels = [label(text) for text in sentences]
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=200))
    joblib.dump(pipeline.fit(sentences, labels), path)


def label(text: str) -> str:
    odd = [int(word.removeprefix("word")) % 2 for word in text.split()]
    return "negative" if 2 * sum(odd) > len(odd) else "positive"


def write_bodies(folder: Path) -> None:
    models = {"nothing": nothing, "tfidf": load(folder / "tfidf.joblib")}
    for name in ("bodies", "expected"):
        (folder / name).mkdir(exist_ok=True)
    for n_items in ITEMS_PER_REQUEST:
        randomness = random.Random(n_items)
        for number in range(N_BODIES):
            texts = [sentence(randomness) for _ in range(n_items)]
            body = json.dumps({"data": [{"text": text} for text in texts]}, separators=(",", ":"))
            (folder / "bodies" / f"{n_items}_{number}.json").write_text(body)
            for model, predict in models.items():
                (folder / "expected" / f"{model}_{n_items}_{number}.json").write_text(
                    json.dumps(predict(texts))
                )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    train(folder / "tfidf.joblib")
    write_bodies(folder)
