"""The adapter `mlflow`: a model folder as MLflow writes it, by its pyfunc flavour and its signature."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marshmallow import Schema, fields, validate

from app.models import JsonObject
from app.models.adapters.fields import Field, Whole, artifact_of, column, make_schema
from app.models.adapters.tensors import Tensor, batch_lengths, values_of
from app.models.contract import ContractError
from app.models.extras import needs

with needs("mlflow"):
    import numpy as np
    import pandas as pd
    from mlflow.pyfunc import load_model
    from mlflow.types import DataType

DTYPES = {"boolean": "bool", "integer": "int32", "long": "int64", "float": "float32", "double": "float64"}
KINDS = {"float64": "float", "bool": "boolean", "str": "string", "object": "string"}


class Mlflow:
    """Any MLflow model. Its signature says what an item must have; without one, every record is handed over.

    Columns become a DataFrame of the signature's types, tensors become arrays: one without a name is the item's field
    `features`. What it predicts without a name is the field `prediction`.
    """

    artifact_runs_code = True
    Item: type[Schema] | None = None
    Prediction: type[Schema] | None = None

    def load(self, artifact: Path | None, *, params: Mapping[str, Any] | None = None) -> None:
        """`params` are inference parameters of the signature, the same for each call."""
        self._model = load_model(str(artifact_of("mlflow", artifact)))
        self._params = dict(params or {})
        self._columns: dict[str, str] = {}
        self._tensors: list[Tensor] = []
        signature = self._model.metadata.signature
        if signature is None:
            return
        if signature.inputs is not None:
            self._take_inputs(signature.inputs)
        if signature.outputs is not None:
            self.Prediction = _prediction_schema(signature.outputs)

    def _take_inputs(self, inputs: Any) -> None:
        if inputs.is_tensor_spec():
            self._tensors = [_tensor(spec) for spec in inputs.inputs]
            self.Item = make_schema("Item", {tensor.name: tensor.field() for tensor in self._tensors})
        elif inputs.has_input_names():
            self._columns = {spec.name: str(getattr(spec.type, "name", "any")) for spec in inputs.inputs}
            self.Item = make_schema("Item", {spec.name: _column_field(spec) for spec in inputs.inputs})
        else:
            raise ContractError(
                "its signature has columns without names: give them names when the model is logged"
            )

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        """What the model's `predict` gives for each item."""
        given = self._input(items)
        predicted = (
            self._model.predict(given, params=self._params) if self._params else self._model.predict(given)
        )
        return _rows(predicted)

    def _input(self, items: Sequence[JsonObject]) -> Any:
        if self._tensors:
            arrays = {
                tensor.name: np.array(values_of(items, tensor), dtype=tensor.dtype)
                for tensor in self._tensors
            }
            return arrays if len(arrays) > 1 or "features" not in arrays else arrays["features"]
        if not self._columns:
            return pd.DataFrame(list(items))
        series = {name: _series(column(items, name), kind) for name, kind in self._columns.items()}
        return pd.DataFrame({name: values for name, values in series.items() if values is not None})


def _series(values: list[Any], kind: str) -> Any:
    """A column of the signature's type; None if no item has it, which MLflow takes for an optional column left out."""
    if all(value is None for value in values):
        return None
    if kind == "datetime":
        return pd.Series(pd.to_datetime(values))
    has_nulls = any(value is None for value in values)
    dtype = DTYPES.get(kind, "object")
    return pd.Series(values, dtype="object" if has_nulls and not dtype.startswith("float") else dtype)


def _column_field(spec: Any) -> Field:
    made = _scalar(spec.type)
    made.required = bool(spec.required)
    made.allow_none = not spec.required
    return made


def _scalar(kind: Any) -> Field:
    match kind:
        case DataType.boolean:
            return fields.Boolean()
        case DataType.integer | DataType.long:
            bits = 31 if kind == DataType.integer else 63
            return Whole(validate=validate.Range(-(2**bits), 2**bits - 1))
        case DataType.float | DataType.double:
            return fields.Float()
        case DataType.string:
            return fields.String()
        case DataType.datetime:
            return fields.DateTime()
        case DataType.binary:
            raise ContractError("its signature has a column of bytes, which JSON has not")
    return fields.Raw()  # arrays, objects and maps: MLflow checks them


def _tensor(spec: Any) -> Tensor:
    name = spec.name or "features"
    dtype = spec.type.name.rstrip("0123456789") if spec.type.name.startswith("str") else spec.type.name
    return Tensor(name, KINDS.get(dtype, dtype), batch_lengths(f"input {name}", spec.shape))


def _prediction_schema(outputs: Any) -> type[Schema] | None:
    if outputs.is_tensor_spec():
        tensors = [(spec.name or "prediction", _tensor(spec)) for spec in outputs.inputs]
        return make_schema("Prediction", {name: tensor.field() for name, tensor in tensors})
    named = {spec.name or "prediction": _scalar(spec.type) for spec in outputs.inputs}
    return make_schema("Prediction", named)


def _rows(predicted: Any) -> list[JsonObject]:
    """The predictions of a batch, item by item, of whatever pyfunc may give."""
    if isinstance(predicted, pd.DataFrame):
        rows: list[JsonObject] = predicted.rename(columns=str).to_dict(orient="records")
        return rows
    if isinstance(predicted, Mapping):
        values = [np.asarray(column).tolist() for column in predicted.values()]
        return [dict(zip(map(str, predicted), row, strict=True)) for row in zip(*values, strict=True)]
    if isinstance(predicted, np.ndarray | pd.Series):
        predicted = predicted.tolist()
    return [row if isinstance(row, dict) else {"prediction": row} for row in predicted]
