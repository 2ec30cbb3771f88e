"""What is derived of scikit-learn's estimators: items of every kind, and what cannot be served."""

import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor, VotingClassifier
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

from app.models.adapters import ADAPTERS
from app.models.served import ServedModel
from tests.adapters.contract import predict
from tests.models.specimens import declare

DATA = pd.DataFrame(
    {
        "size": [1.0, 2.0, 3.0, 4.0],
        "grade": [1, 2, 1, 2],
        "city": ["Lima", "Lagos", "Lima", "Lagos"],
        "note": ["good day", "bad day", "good", "bad"],
        "free": [1, 2, 3, 4],
    }
)
TARGET = [1.0, 2.0, 3.0, 4.0]
RECORDS: list[dict[str, Any]] = DATA.to_dict(orient="records")


def load(folder: Path, estimator: object, **options: Any) -> ServedModel:
    joblib.dump(estimator, folder / "model.joblib")
    model = ServedModel(declare(ADAPTERS["joblib"], artifact=str(folder / "model.joblib"), options=options))
    model.load()
    return model


def mixed(**encoder: Any) -> Any:
    columns = ColumnTransformer(
        [
            ("size", make_pipeline(StandardScaler()), slice("size", "size")),
            ("kinds", OneHotEncoder(**encoder), ["grade", "city"]),
            ("note", CountVectorizer(), "note"),
            ("free", FunctionTransformer(np.log1p), [4]),
        ]
    )
    return make_pipeline(columns, LinearRegression()).fit(DATA, TARGET)


def test_each_column_has_the_kind_that_its_transformer_takes(tmp_path: Path) -> None:
    estimator = mixed()
    model = load(tmp_path, estimator)

    assert model.reason is None
    assert model.item_json_schema is not None
    properties = model.item_json_schema["properties"]
    assert {name: part.get("type") for name, part in properties.items()} == {
        "size": ["number", "null"],
        "grade": "number",
        "city": "string",
        "note": "string",
        "free": None,
    }
    assert properties["city"]["enum"] == ["Lagos", "Lima"]
    found = [each["prediction"] for each in predict(model, RECORDS)]
    assert found == estimator.predict(DATA).tolist()


def test_categories_that_an_encoder_would_refuse_are_refused_by_the_schema(tmp_path: Path) -> None:
    items = [RECORDS[0] | {"city": "Rome"}, RECORDS[0] | {"grade": 3}, RECORDS[0] | {"city": None}]

    _, refused = load(tmp_path, mixed()).validate(items)

    assert [errors[0].pointer for _, errors in refused] == ["/city", "/grade", "/city"]
    assert load(tmp_path, mixed(handle_unknown="ignore")).validate(items)[1] == []


def test_cells_of_csv_are_converted_by_what_is_derived(tmp_path: Path) -> None:
    estimator = mixed()
    cells = [{name: str(value) for name, value in record.items()} for record in RECORDS]

    loaded, refused = load(tmp_path, estimator, columns={"free": "number"}).validate(cells)

    assert refused == []
    assert loaded == RECORDS


def test_a_search_is_looked_into(tmp_path: Path) -> None:
    search = GridSearchCV(make_pipeline(CountVectorizer(), LogisticRegression()), {}, cv=2)
    search.fit(list(DATA["note"]), ["+", "-", "+", "-"])

    model = load(tmp_path, search)

    assert [each["prediction"] for each in predict(model, [{"text": "a good day"}])] == ["+"]


@pytest.mark.parametrize(
    "around",
    [
        lambda inner: CalibratedClassifierCV(inner, cv=2),
        lambda inner: VotingClassifier([("a", inner), ("b", inner)], voting="soft"),
        lambda inner: GridSearchCV(inner, {}, cv=2),
    ],
    ids=["calibration", "vote", "search"],
)
def test_an_estimator_around_a_pipeline_takes_what_the_pipeline_takes(tmp_path: Path, around: Any) -> None:
    columns = ColumnTransformer(
        [("size", StandardScaler(), ["size"]), ("city", OneHotEncoder(handle_unknown="ignore"), ["city"])]
    )
    data = DATA[["size", "city"]]
    estimator = around(make_pipeline(columns, LogisticRegression())).fit(data, [0, 1, 1, 0])

    found = predict(load(tmp_path, estimator, probabilities=True), data.to_dict(orient="records"))

    assert [each["prediction"] for each in found] == estimator.predict(data).tolist()
    assert [list(each["probabilities"].values()) for each in found] == estimator.predict_proba(data).tolist()


def test_a_union_of_vectorizers_takes_text(tmp_path: Path) -> None:
    union = make_union(CountVectorizer(), TfidfVectorizer())
    estimator = make_pipeline(union, LogisticRegression()).fit(list(DATA["note"]), ["+", "-", "+", "-"])

    assert predict(load(tmp_path, estimator), [{"text": "bad"}])[0]["prediction"] == "-"


def test_a_forest_with_names_takes_numbers(tmp_path: Path) -> None:
    forest = RandomForestRegressor(3, random_state=0).fit(DATA[["size", "free"]], TARGET)

    model = load(tmp_path, forest)

    assert model.item_json_schema is not None
    assert model.item_json_schema["properties"]["free"]["type"] == ["number", "null"]
    assert predict(model, RECORDS)[1]["prediction"] == forest.predict(DATA[["size", "free"]])[1]


def test_records_of_any_shape_go_to_a_dict_vectorizer(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [{"a": 1.0}, {"b": "x"}, {"a": 2.0, "b": "y"}]
    estimator = make_pipeline(DictVectorizer(), LinearRegression()).fit(records, [1.0, 2.0, 3.0])

    model = load(tmp_path, estimator)

    assert model.item_json_schema is None
    assert [each["prediction"] for each in predict(model, records)] == estimator.predict(records).tolist()


def test_columns_name_what_was_fitted_without_names(tmp_path: Path) -> None:
    estimator = LinearRegression().fit([[1.0, 2.0], [2.0, 1.0], [0.0, 5.0]], [1.0, 2.0, 3.0])

    model = load(tmp_path, estimator, columns={"b": "number", "a": "integer"})

    assert predict(model, [{"a": 2, "b": 1.0}])[0]["prediction"] == estimator.predict([[1.0, 2.0]])[0]


def test_nulls_are_missing_values_where_the_model_takes_them(tmp_path: Path) -> None:
    data = DATA[["size", "free"]]
    trees = HistGradientBoostingRegressor(min_samples_leaf=1).fit(data, TARGET)
    line = LinearRegression().fit(data, TARGET)
    item = {"size": None, "free": 2}

    assert (
        predict(load(tmp_path, trees), [item])[0]["prediction"]
        == trees.predict(pd.DataFrame([{"size": np.nan, "free": 2.0}]))[0]
    )
    _, [(_, [error])] = load(tmp_path, line).validate([item])
    assert (error.pointer, error.detail) == ("/size", "Field may not be null.")


def test_a_clusterer_and_several_outputs_are_served(tmp_path: Path) -> None:
    rows = [[0.0], [0.1], [5.0], [5.1]]
    clusters = KMeans(2, n_init=1, random_state=0).fit(rows)
    several = MultiOutputClassifier(LogisticRegression()).fit(rows, [[0, 1], [0, 1], [1, 0], [1, 0]])

    found = [
        each["prediction"] for each in predict(load(tmp_path, clusters), [{"features": row} for row in rows])
    ]
    assert found == clusters.predict(rows).tolist()
    assert predict(load(tmp_path, several), [{"features": [0.0]}])[0]["prediction"] == [0, 1]


@pytest.mark.parametrize(
    ("estimator", "options", "reason"),
    [
        ({"weights": 1}, {}, "artifact holds a dict, which has no predict"),
        (
            LinearRegression().fit([[1.0]], [1.0]),
            {"probabilities": True},
            "LinearRegression has no predict_proba",
        ),
        (
            LinearRegression().fit(DATA[["size"]], TARGET),
            {"columns": {"weight": "number"}},
            "but the model has ['size']",
        ),
        (
            LinearRegression().fit(DATA[["size"]], TARGET),
            {"columns": {"size": "float"}},
            "columns names the kind 'float'",
        ),
    ],
)
def test_what_cannot_be_served_says_why(
    tmp_path: Path, estimator: Any, options: dict[str, Any], reason: str
) -> None:
    assert reason in str(load(tmp_path, estimator, **options).reason)


def test_an_artifact_must_be_declared() -> None:
    model = ServedModel(declare(ADAPTERS["joblib"]))
    model.load()

    assert model.reason == 'the adapter joblib reads a model: add artifact = "…" in models.toml'


def double(values: Any) -> Any:
    return values * 2


def test_skops_loads_types_of_ones_own_only_if_they_are_trusted(tmp_path: Path) -> None:
    import skops.io  # for this test alone: it takes seconds

    estimator = make_pipeline(FunctionTransformer(double), LinearRegression()).fit(DATA[["size"]], TARGET)
    skops.io.dump(estimator, tmp_path / "model.skops")

    def served(*trusted: str) -> ServedModel:
        declared = declare(
            ADAPTERS["skops"], artifact=str(tmp_path / "model.skops"), options={"trusted": list(trusted)}
        )
        model = ServedModel(declared)
        model.load()
        return model

    mine = f"{__name__}.double"
    assert f'add trusted = ["{mine}"] to options' in str(served().reason)
    assert predict(served(mine), [{"size": 1.0}])[0]["prediction"] == estimator.predict(DATA[["size"]][:1])[0]


@pytest.mark.parametrize(
    ("adapter", "library"),
    [("joblib", "sklearn.base"), ("skops", "skops.io"), ("onnx", "onnxruntime"), ("mlflow", "mlflow.pyfunc"),
     ("transformers", "transformers"), ("remote", "circuitbreaker")],
)  # fmt: skip
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, adapter: str, library: str) -> None:
    for name in [name for name in sys.modules if name.startswith("app.models.adapters.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    model = ServedModel(declare(ADAPTERS[adapter], artifact=__file__))

    model.load()

    assert f"it needs the extra {adapter!r}, which is not installed" in str(model.reason)
    assert f"pip install -e '.[{adapter}]'" in str(model.reason)


def test_an_ordinal_encoder_of_strings_takes_strings(tmp_path: Path) -> None:
    estimator = make_pipeline(OrdinalEncoder(), LinearRegression()).fit(DATA[["city"]], TARGET)

    model = load(tmp_path, estimator)

    assert model.item_json_schema is not None
    assert model.item_json_schema["properties"]["city"] == {"type": "string", "enum": ["Lagos", "Lima"]}
