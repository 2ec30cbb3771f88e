"""The adapter `onnx`: a model in ONNX, by onnxruntime; its graph tells what it takes and gives."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marshmallow import Schema, fields

from app.models import JsonObject
from app.models.adapters.fields import Field, artifact_of, make_schema
from app.models.adapters.tensors import Tensor, batch_lengths, in_equal_shapes, values_of
from app.models.contract import ContractError
from app.models.extras import needs

with needs("onnx"):
    import numpy as np
    import onnxruntime

KINDS = {
    "float": "float32",
    "double": "float",
    "bool": "boolean",
    "string": "string",
    "float16": "float16",
} | {f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


class Onnx:
    """An ONNX file, or a folder with one and its weights beside it. An item has one field for each input.

    An input of shape (batch,) or (batch, 1) is a plain value, of shape (batch, 4) a list of four, and so on. Items
    whose lists differ in length where the graph lets them are run in batches of equal shape.
    """

    Item: type[Schema]
    Prediction: type[Schema]

    def load(
        self,
        artifact: Path | None,
        *,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int | None = None,
    ) -> None:
        """`providers` as onnxruntime names them; `threads` inside one run, of itself this process's share."""
        options = onnxruntime.SessionOptions()
        # onnxruntime has threads of its own, which do not heed the variable that others read.
        options.intra_op_num_threads = (
            int(os.environ.get("OMP_NUM_THREADS", 0)) if threads is None else threads
        )
        path = _file(artifact_of("onnx", artifact))
        self._session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        inputs = self._session.get_inputs()
        self._inputs = [_tensor(f"input {each.name}", each) for each in inputs]
        self._one_by_one = any(each.shape[0] == 1 for each in inputs)
        for each in inputs:
            if isinstance(each.shape[0], int) and each.shape[0] != 1:
                raise ContractError(
                    f"input {each.name} takes exactly {each.shape[0]} items at once: "
                    "export it with a free first dimension"
                )
        self._names = [each.name for each in self._session.get_outputs()]
        self.Item = make_schema("Item", {tensor.name: tensor.field() for tensor in self._inputs})
        self.Prediction = make_schema(
            "Prediction", {each.name: _output_field(each) for each in self._session.get_outputs()}
        )

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        """One field for each output: a value, a list, or an object of a map."""
        if self._one_by_one:
            return [prediction for item in items for prediction in self._run([item])]
        return in_equal_shapes(items, self._inputs, self._run)

    def _run(self, items: Sequence[JsonObject]) -> list[JsonObject]:
        given = {
            tensor.name: np.array(values_of(items, tensor), dtype=tensor.dtype) for tensor in self._inputs
        }
        outputs = self._session.run(self._names, given)
        columns = [_rows(name, output, len(items)) for name, output in zip(self._names, outputs, strict=True)]
        return [dict(zip(self._names, row, strict=True)) for row in zip(*columns, strict=True)]


def _file(artifact: Path) -> Path:
    if not artifact.is_dir():
        return artifact
    found = sorted(artifact.glob("*.onnx"))
    if len(found) != 1:
        raise ContractError(f"artifact {artifact} holds {len(found)} files *.onnx: name a folder with one")
    return found[0]


def _tensor(place: str, described: Any) -> Tensor:
    kind = KINDS.get(described.type.removeprefix("tensor(").removesuffix(")"))
    if kind is None or not described.type.startswith("tensor("):
        raise ContractError(f"{place} has the type {described.type}, which no item of JSON can have")
    return Tensor(described.name, kind, batch_lengths(place, described.shape))


def _output_field(described: Any) -> Field:
    """What is published of an output; of a type that is no tensor, or of unknown shape, not much."""
    if described.type.startswith("seq(map("):
        return fields.Dict(keys=fields.String())
    if not described.type.startswith("tensor(") or not described.shape:
        return fields.Raw()
    return _tensor(f"output {described.name}", described).field()


def _rows(name: str, output: Any, n_items: int) -> list[Any]:
    """An output's part for each item."""
    if len(output) != n_items:
        raise ValueError(f"output {name} has {len(output)} rows for {n_items} items")
    if isinstance(output, list):
        return [
            {str(key): value for key, value in row.items()} if isinstance(row, dict) else row
            for row in output
        ]
    rows: list[Any] = (output.reshape(n_items) if output.shape == (n_items, 1) else output).tolist()
    return rows
