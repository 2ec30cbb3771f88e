"""Estimators: what is served of a fitted scikit-learn estimator or pipeline, from whichever file it came."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marshmallow import Schema, fields, validate

from app.models import JsonObject
from app.models.adapters.fields import Field, column, make_schema, scalar_field
from app.models.contract import ContractError
from app.models.extras import needs

with needs("joblib"):
    import numpy as np
    import pandas as pd
    from sklearn.base import is_classifier, is_regressor
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline
    from sklearn.utils import get_tags


@dataclass(frozen=True, slots=True)
class Column:
    """What is known of a column: its kind, whether it may be null, and all that it may be, if there is such a list."""

    kind: str = "any"
    is_nullable: bool = True
    choices: tuple[Any, ...] | None = None

    def field(self) -> Field:
        made = scalar_field(self.kind, is_nullable=self.is_nullable)
        if self.choices is not None:
            made.validators.append(validate.OneOf(self.choices))
        return made


Columns = dict[str, Column]


class Estimator:
    """A model around an estimator, set up by `serve` in the `load` of the class that has read it.

    Items are records of the columns that it was fitted with (`feature_names_in_`), handed over as a DataFrame. Fitted
    without names, it takes `{"features": [numbers]}`; where it begins with a text vectorizer, `{"text": "…"}`; where
    with a DictVectorizer, any record.
    """

    Item: type[Schema] | None = None
    Prediction: type[Schema] | None = None

    def serve(self, estimator: Any, *, probabilities: bool, columns: Mapping[str, str] | None) -> None:
        if not callable(getattr(estimator, "predict", None)):
            raise ContractError(f"artifact holds a {type(estimator).__name__}, which has no predict")
        self._estimator = estimator
        self._classes = _classes(estimator) if probabilities else None
        first = _first_step(estimator)
        tags = _input_tags(first)
        self._columns: Columns = {}
        self._input: Callable[[Sequence[JsonObject]], Any] = list
        names = [str(name) for name in getattr(estimator, "feature_names_in_", ())] or list(columns or ())
        if names:
            if unknown := set(columns or ()) - set(names):
                raise ContractError(f"columns names {sorted(unknown)}, but the model has {names}")
            told = {name: Column(kind, kind == "any") for name, kind in (columns or {}).items()}
            self._columns = _columns(first, names) | told
            self._input = self._frame if hasattr(estimator, "feature_names_in_") else self._rows
            self.Item = make_schema("Item", {name: each.field() for name, each in self._columns.items()})
        elif tags is not None and tags.string and not tags.two_d_array:
            self._input = lambda items: column(items, "text")
            self.Item = make_schema("Item", {"text": fields.String(required=True)})
        elif hasattr(estimator, "n_features_in_"):
            inner = fields.Float(allow_none=tags is not None and tags.allow_nan)
            length = validate.Length(equal=int(estimator.n_features_in_))
            self._input = lambda items: np.array(column(items, "features"), dtype=float)
            self.Item = make_schema("Item", {"features": fields.List(inner, required=True, validate=length)})
        self.Prediction = _prediction_schema(estimator, with_probabilities=probabilities)

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        """`prediction` as the estimator's `predict` says and, if asked for, `probabilities` by class."""
        given = self._input(items)
        predicted = np.asarray(self._estimator.predict(given)).tolist()
        if self._classes is None:
            return [{"prediction": value} for value in predicted]
        likely = np.asarray(self._estimator.predict_proba(given)).tolist()
        return [
            {"prediction": value, "probabilities": dict(zip(self._classes, row, strict=True))}
            for value, row in zip(predicted, likely, strict=True)
        ]

    def _frame(self, items: Sequence[JsonObject]) -> Any:
        series = {name: _series(column(items, name), each.kind) for name, each in self._columns.items()}
        return pd.DataFrame(series)

    def _rows(self, items: Sequence[JsonObject]) -> list[tuple[Any, ...]]:
        """In the order of `columns`, for an estimator that was fitted without names."""
        return list(zip(*(column(items, name) for name in self._columns), strict=True))


def _series(values: list[Any], kind: str) -> Any:
    """A column as it would have been for `fit`: numbers are floats however many nulls are among them."""
    dtype = {"number": "float64", "string": object}.get(kind)
    return pd.Series(values, dtype=dtype)


def _first_step(estimator: Any) -> Any:
    """What gets the items first: inside pipelines, searches, and estimators around others."""
    while (inner := _inside(estimator)) is not None:
        estimator = inner
    return estimator


def _inside(estimator: Any) -> Any:
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if step is not None and step != "passthrough"]
        return steps[0] if steps else None
    for name in ("best_estimator_", "estimator", "regressor"):
        if (inner := getattr(estimator, name, None)) is not None:
            return inner
    members = getattr(estimator, "transformer_list", None) or getattr(estimator, "estimators", None)
    return members[0][1] if members else None  # of a union or a vote, all get the same


def _columns(first: Any, names: Sequence[str]) -> Columns:
    """What is known of each column; of those that go to several transformers, by the first that tells anything."""
    if not isinstance(first, ColumnTransformer):
        return _columns_of(first, names)
    known: Columns = {}
    for _, transformer, chosen in getattr(first, "transformers_", ()):  # inside some, an unfitted copy stands
        if isinstance(transformer, str):
            continue  # "drop" and "passthrough" tell nothing
        wanted = [chosen] if isinstance(chosen, str) else np.array(names)[_places(names, chosen)].tolist()
        for name, column_ in _columns(_first_step(transformer), wanted).items():
            if known.get(name, Column()).kind == "any":
                known[name] = column_
    return {name: known.get(name, Column()) for name in names}


def _places(names: Sequence[str], chosen: Any) -> Any:
    """What a ColumnTransformer was told to take, as something that picks from an array."""
    chosen = list(chosen) if not isinstance(chosen, slice | int) else chosen
    if isinstance(chosen, list) and chosen and isinstance(chosen[0], str):
        return [names.index(name) for name in chosen]
    if isinstance(chosen, slice) and any(isinstance(end, str) for end in (chosen.start, chosen.stop)):
        start = None if chosen.start is None else names.index(chosen.start)
        stop = None if chosen.stop is None else names.index(chosen.stop) + 1
        return slice(start, stop)  # labels are sliced to the last one, included
    return [chosen] if isinstance(chosen, int) else chosen


def _columns_of(step: Any, names: Sequence[str]) -> Columns:
    """What is known of columns that all go to one step, by its tags and, of an encoder, by its categories."""
    categories = getattr(step, "categories_", None)
    if categories is not None and len(categories) == len(names):
        is_closed = getattr(step, "handle_unknown", None) == "error"
        made = [_column_of_categories(np.asarray(known), is_closed) for known in categories]
        return dict(zip(names, made, strict=True))
    tags = _input_tags(step)
    if tags is None:
        return dict.fromkeys(names, Column())
    if tags.string:
        return dict.fromkeys(names, Column("string", is_nullable=False))
    has_categories = tags.categorical or getattr(step, "is_categorical_", None) is not None
    if has_categories or isinstance(step, Pipeline):
        return dict.fromkeys(names, Column())
    return dict.fromkeys(names, Column("number", bool(tags.allow_nan)))


def _column_of_categories(known: Any, is_closed: bool) -> Column:
    """Of an encoder's column: where unknown categories are errors, no others are accepted."""
    values = [value for value in known.tolist() if value is not None and value == value]  # NaN is not itself
    is_nullable = not is_closed or len(values) < len(known)
    choices = tuple(values) if is_closed else None
    if known.dtype.kind in "iuf":
        return Column("number", is_nullable, choices)
    if all(isinstance(value, str) for value in values):
        return Column("string", is_nullable, choices)
    return Column(is_nullable=is_nullable, choices=choices)


def _input_tags(step: Any) -> Any:
    """What scikit-learn knows of a step's input; None if the step says nothing, or checks nothing."""
    try:
        tags = get_tags(step)
    except (AttributeError, TypeError):
        return None  # of a library that does not inherit BaseEstimator
    return None if tags.no_validation else tags.input_tags


def _classes(estimator: Any) -> list[str]:
    if not callable(getattr(estimator, "predict_proba", None)):
        raise ContractError(
            f"{type(estimator).__name__} has no predict_proba: take probabilities out of options in models.toml"
        )
    classes = estimator.classes_
    if isinstance(classes, list):
        raise ContractError(
            "it has several outputs, each with classes of its own: take probabilities out of options"
        )
    return [str(each) for each in classes.tolist()]


def _prediction_schema(estimator: Any, *, with_probabilities: bool) -> type[Schema]:
    inner: Field = fields.Raw()
    classes = getattr(estimator, "classes_", None)
    if is_regressor(estimator):
        inner = fields.Float()
    elif is_classifier(estimator) and classes is not None and not isinstance(classes, list):
        inner = _field_of_classes(np.asarray(classes).tolist())
    declared: dict[str, Field] = {"prediction": inner}
    if with_probabilities:
        declared["probabilities"] = fields.Dict(keys=fields.String(), values=fields.Float())
    return make_schema("Prediction", declared)


def _field_of_classes(classes: Sequence[object]) -> Field:
    for kind, field in ((bool, fields.Boolean), (int, fields.Integer), (str, fields.String)):
        if all(type(each) is kind for each in classes):
            return field()
    return fields.Raw()
