"""Small real models, each trained and saved here, with what its own library predicts of a thousand random items.

Libraries that take seconds to import are imported by the cases that use them: each of pytest's processes collects
all tests, and few of them run these.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnxruntime
import pandas as pd
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from app.models import JsonObject
from tests.adapters.contract import N_ITEMS, Case
from tests.adapters.texts import texts

CITIES = ["Berlin", "Lagos", "Lima"]


def people(seed: int, *, nulls: bool = True) -> list[JsonObject]:
    draw = random.Random(seed)
    return [
        {
            "age": None if nulls and draw.random() < 0.1 else draw.randrange(90),
            "income.net": round(draw.gauss(2000, 700), 2),
            "city": draw.choice(CITIES),
        }
        for _ in range(N_ITEMS)
    ]


def points(seed: int) -> list[JsonObject]:
    draw = random.Random(seed)
    return [{"features": [draw.gauss(0, 1) for _ in range(3)]} for _ in range(N_ITEMS)]


def labels(items: list[JsonObject]) -> list[str]:
    """Something to learn, with noise."""
    draw = random.Random(3)
    return ["high" if person["income.net"] + draw.gauss(0, 300) > 2000 else "low" for person in items]


def fit_people(*, nulls: bool = True) -> Any:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = ColumnTransformer(
        [("numbers", numbers, ["age", "income.net"]), ("city", OneHotEncoder(), ["city"])]
    )
    trained_on = people(1, nulls=nulls)
    return make_pipeline(columns, LogisticRegression()).fit(frame(trained_on), labels(trained_on))


def fit_points(model: Any) -> Any:
    rows = np.array([item["features"] for item in points(1)])
    target = rows @ np.array([1.0, -2.0, 0.5])
    return model.fit(rows, target if isinstance(model, RandomForestRegressor) else target > 0)


def frame(items: list[JsonObject]) -> Any:
    return pd.DataFrame(items).astype({"age": float})


def with_probabilities(estimator: Any, given: Any) -> list[JsonObject]:
    names = [str(each) for each in estimator.classes_]
    return [
        {"prediction": label, "probabilities": dict(zip(names, row, strict=True))}
        for label, row in zip(
            estimator.predict(given).tolist(), estimator.predict_proba(given).tolist(), strict=True
        )
    ]


def joblib_columns(folder: Path) -> Case:
    estimator, items = fit_people(), people(2)
    joblib.dump(estimator, folder / "model.joblib")
    return Case(
        adapter="joblib",
        artifact=folder / "model.joblib",
        options={"probabilities": True},
        items=items,
        expected=with_probabilities(estimator, frame(items)),
        required="income.net",
    )


def joblib_text(folder: Path) -> Case:
    items = texts(2)
    trained_on = [item["text"] for item in texts(1)]
    estimator = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(
        trained_on, [int("good" in text) for text in trained_on]
    )
    joblib.dump(estimator, folder / "model.pkl")
    predicted = estimator.predict([item["text"] for item in items]).tolist()
    return Case(
        adapter="joblib",
        artifact=folder / "model.pkl",
        items=items,
        expected=[{"prediction": value} for value in predicted],
        required="text",
        wrong=3,
    )


def joblib_without_names(folder: Path) -> Case:
    estimator, items = fit_points(RandomForestRegressor(20, random_state=0)), points(2)
    joblib.dump(estimator, folder / "model.joblib")
    predicted = estimator.predict([item["features"] for item in items]).tolist()
    return Case(
        adapter="joblib",
        artifact=folder / "model.joblib",
        items=items,
        expected=[{"prediction": value} for value in predicted],
        required="features",
        wrong=[1.0, 2.0],
    )


def skops_columns(folder: Path) -> Case:
    import skops.io

    items = [{"a": item["features"][0], "b.c": item["features"][1]} for item in points(2)]
    data = pd.DataFrame(items)
    estimator = LinearRegression().fit(data, data["a"] * 3 - data["b.c"])
    skops.io.dump(estimator, folder / "model.skops")
    return Case(
        adapter="skops",
        artifact=folder / "model.skops",
        items=items,
        expected=[{"prediction": value} for value in estimator.predict(data).tolist()],
        required="b.c",
    )


def onnx_columns(folder: Path) -> Case:
    """An input for each column, which skl2onnx gives names without dots; a label and a map of probabilities out."""
    items = people(2, nulls=False)
    estimator = fit_people(nulls=False)
    data = frame(items).astype({"age": np.float32, "income.net": np.float32})
    model = to_onnx(estimator, data[:1], options={"zipmap": True})
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {
        each.name: data[[each.name.replace("_", ".")]].to_numpy(
            dtype={"tensor(float)": np.float32, "tensor(string)": object}[each.type]
        )
        for each in session.get_inputs()
    }
    items = [{"age": item["age"], "income_net": item["income.net"], "city": item["city"]} for item in items]
    label, probabilities = session.run(None, given)
    names = [each.name for each in session.get_outputs()]
    return Case(
        adapter="onnx",
        artifact=folder / "model.onnx",
        options={"threads": 1},
        items=items,
        expected=[
            dict(zip(names, row, strict=True)) for row in zip(label.tolist(), probabilities, strict=True)
        ],
        required="income_net",
        close=1e-6,
    )


def onnx_tensor(folder: Path) -> Case:
    """One input of shape (batch, 3); a label and a row of probabilities out."""
    items = points(2)
    rows = np.array([item["features"] for item in items], dtype=np.float32)
    model = to_onnx(
        fit_points(RandomForestClassifier(10, random_state=0)), rows[:1], options={"zipmap": False}
    )
    (folder / "deep").mkdir()
    (folder / "deep" / "model.onnx").write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    names = [each.name for each in session.get_outputs()]
    columns = [output.tolist() for output in session.run(None, {given.name: rows})]
    return Case(
        adapter="onnx",
        artifact=folder / "deep",
        items=[{given.name: item["features"]} for item in items],
        expected=[dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)],
        required=given.name,
        wrong=[1.0, 2.0],
        close=1e-6,
    )


def mlflow_columns(folder: Path) -> Case:
    from mlflow import pyfunc
    from mlflow import sklearn as mlflow_sklearn
    from mlflow.models import infer_signature

    items = people(2, nulls=False)
    estimator = fit_people(nulls=False)
    data = pd.DataFrame(items)
    mlflow_sklearn.save_model(
        estimator,
        folder / "model",
        signature=infer_signature(data, estimator.predict(data)),
        serialization_format="cloudpickle",
    )
    direct = pyfunc.load_model(str(folder / "model")).predict(data)
    return Case(
        adapter="mlflow",
        artifact=folder / "model",
        items=items,
        expected=[{"prediction": value} for value in direct.tolist()],
        required="age",
        wrong=3.5,
    )


def mlflow_tensor(folder: Path) -> Case:
    from mlflow import pyfunc
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.pyfunc.model import PythonModel

    class Summing(PythonModel):
        """A model of one's own, with a table of two columns out."""

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # hints would be its schema
            factor = (params or {}).get("factor", 1.0)
            return pd.DataFrame({"sum": model_input.sum(axis=1) * factor, "first": model_input[:, 0]})

    items = points(2)
    rows = np.array([item["features"] for item in items])
    table = pd.DataFrame({"sum": rows.sum(axis=1), "first": rows[:, 0]})
    signature: ModelSignature = infer_signature(rows, table, params={"factor": 1.0})
    pyfunc.save_model(str(folder / "model"), python_model=Summing(), signature=signature)
    direct = pyfunc.load_model(str(folder / "model")).predict(rows, params={"factor": 2.0})
    return Case(
        adapter="mlflow",
        artifact=folder / "model",
        options={"params": {"factor": 2.0}},
        items=items,
        expected=direct.to_dict(orient="records"),
        required="features",
        wrong=[1.0, 2.0],
    )


CASES: list[Callable[[Path], Case]] = [
    joblib_columns,
    joblib_text,
    joblib_without_names,
    skops_columns,
    onnx_columns,
    onnx_tensor,
    mlflow_columns,
    mlflow_tensor,
]
