"""Protocols: how items are put into a request to another model server, and predictions taken out of its answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any, Protocol
from urllib.parse import quote

from marshmallow import Schema

from app.models import JsonObject
from app.models.adapters.fields import column, make_schema
from app.models.adapters.tensors import Tensor, batch_lengths, in_equal_shapes, shape_of, values_of
from app.models.contract import ContractError

Ask = Callable[[object], Any]
"""Sends a body and gives the parsed answer."""


@dataclass(frozen=True, slots=True)
class Call:
    """What `options` say about the other server."""

    base: str
    model: str | None
    model_version: str | None
    columns: list[str]
    rows: bool
    request_key: str
    response_key: str

    def instances(self, items: Sequence[JsonObject]) -> list[Any]:
        """The items as they are sent: whole, or the declared columns, as objects or as lists."""
        if not self.columns:
            return list(items)
        values = zip(*(column(items, name) for name in self.columns), strict=True)
        if self.rows:
            return list(map(list, values))
        return [dict(zip(self.columns, row, strict=True)) for row in values]


class ServingProtocol(Protocol):
    url: str

    def __init__(self, call: Call, kinds: Mapping[str, str]) -> None: ...

    def predict(self, items: Sequence[JsonObject], ask: Ask) -> list[JsonObject]: ...


class PlainProtocol:
    """One list of instances in, one list of predictions out: JSON as told, and what v1 and MLflow build on."""

    def __init__(self, call: Call, kinds: Mapping[str, str]) -> None:
        self._call = call
        self.url = self._address(call)

    def _address(self, call: Call) -> str:
        return call.base

    def predict(self, items: Sequence[JsonObject], ask: Ask) -> list[JsonObject]:
        answer = ask(self._body(items))
        return as_predictions(self._predictions(answer))

    def _body(self, items: Sequence[JsonObject]) -> object:
        instances = self._call.instances(items)
        return {self._call.request_key: instances} if self._call.request_key else instances

    def _predictions(self, answer: Any) -> Any:
        key = self._call.response_key
        return member(answer, key) if key else answer


class V1Protocol(PlainProtocol):
    """KServe's and TensorFlow Serving's `:predict`."""

    def _address(self, call: Call) -> str:
        version = f"/versions/{quote(call.model_version)}" if call.model_version else ""
        return f"{call.base}/v1/models/{quote(model_name(call))}{version}:predict"

    def _body(self, items: Sequence[JsonObject]) -> object:
        return {"instances": self._call.instances(items)}

    def _predictions(self, answer: Any) -> Any:
        return member(answer, "predictions")


class MlflowProtocol(PlainProtocol):
    """MLflow's scoring server: records become its DataFrame."""

    def _address(self, call: Call) -> str:
        return f"{call.base}/invocations"

    def _body(self, items: Sequence[JsonObject]) -> object:
        if self._call.rows:
            return {"dataframe_split": {"columns": self._call.columns, "data": self._call.instances(items)}}
        return {"dataframe_records": self._call.instances(items)}

    def _predictions(self, answer: Any) -> Any:
        return member(answer, "predictions")


V2_KINDS = {"FP64": "float", "FP32": "float32", "FP16": "float16", "BOOL": "boolean", "BYTES": "string"} | {
    f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)
}
V2_OF_COLUMNS = {"number": "FP64", "integer": "INT64", "boolean": "BOOL", "string": "BYTES"}


class V2Protocol:
    """The Open Inference Protocol, version 2: an item has a field for each input tensor, by the model's metadata."""

    def __init__(self, call: Call, kinds: Mapping[str, str]) -> None:
        version = f"/versions/{quote(call.model_version)}" if call.model_version else ""
        self.model_url = f"{call.base}/v2/models/{quote(model_name(call))}{version}"
        self.url = f"{self.model_url}/infer"
        for name, kind in kinds.items():
            if kind not in V2_OF_COLUMNS:
                raise ContractError(
                    f'column {name} is of kind "{kind}", which protocol v2 has not: name its type'
                )
        self._inputs = [(Tensor(name, "", (1,)), V2_OF_COLUMNS[kind]) for name, kind in kinds.items()]

    def learn(self, metadata: Any) -> tuple[type[Schema], type[Schema] | None]:
        """The schemas of items and predictions, by what the server tells at `model_url`."""
        inputs = member(metadata, "inputs")
        if not inputs:
            raise ContractError(
                f'{self.model_url} tells no inputs: name them with columns = {{ name = "kind" }}'
            )
        self._inputs = [(v2_tensor("input", each), each["datatype"]) for each in inputs]
        outputs = [v2_tensor("output", each) for each in metadata.get("outputs") or []]
        item = make_schema("Item", {tensor.name: tensor.field() for tensor, _ in self._inputs})
        given = make_schema("Prediction", {each.name: each.field() for each in outputs}) if outputs else None
        return item, given

    def predict(self, items: Sequence[JsonObject], ask: Ask) -> list[JsonObject]:
        def infer(alike: Sequence[JsonObject]) -> list[JsonObject]:
            outputs = member(ask({"inputs": [self._input(alike, *each) for each in self._inputs]}), "outputs")
            columns = [v2_rows(output, len(alike)) for output in outputs]
            names = [output["name"] for output in outputs]
            return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

        return in_equal_shapes(items, [tensor for tensor, _ in self._inputs], infer)

    def _input(self, items: Sequence[JsonObject], tensor: Tensor, datatype: str) -> JsonObject:
        values = values_of(items, tensor)
        shape = [len(items), *shape_of(values[0])]
        data: list[Any] = values
        for _ in shape[1:]:
            data = list(chain.from_iterable(data))
        return {"name": tensor.name, "datatype": datatype, "shape": shape, "data": data}


PROTOCOLS: dict[str, type[ServingProtocol]] = {
    "v2": V2Protocol,
    "v1": V1Protocol,
    "mlflow": MlflowProtocol,
    "json": PlainProtocol,
}


def model_name(call: Call) -> str:
    if not call.model:
        raise ContractError('options name no model of the other server: add model = "…"')
    return call.model


def member(answer: Any, name: str) -> Any:
    """A member of an answer's object; `ValueError` says that the server does not keep its protocol."""
    if not isinstance(answer, dict) or name not in answer:
        raise ValueError(f"the other server's answer has no {name!r}")
    return answer[name]


def as_predictions(rows: Any) -> list[JsonObject]:
    if not isinstance(rows, list):
        raise ValueError("the other server's predictions are no list")
    return [row if isinstance(row, dict) else {"prediction": row} for row in rows]


def v2_tensor(place: str, described: Mapping[str, Any]) -> Tensor:
    name, kind = described["name"], V2_KINDS.get(described["datatype"])
    if kind is None:
        raise ContractError(f"{place} {name} has the datatype {described['datatype']}, which JSON has not")
    return Tensor(name, kind, batch_lengths(f"{place} {name}", described["shape"]))


def v2_rows(output: Mapping[str, Any], n_items: int) -> list[Any]:
    """An output's part for each item: its `data` is flat, or nested as its shape says."""
    shape = output["shape"]
    rows: list[Any] = output["data"]
    if not shape or shape[0] != n_items:
        raise ValueError(f"output {output['name']} has the shape {shape} for {n_items} items")
    if not (rows and isinstance(rows[0], list)):
        for length in reversed(shape[1:]):
            rows = [rows[start : start + length] for start in range(0, len(rows), length)]
    if len(rows) != n_items or prod(shape_of(rows)) != prod(shape):
        raise ValueError(f"output {output['name']} does not fill its shape {shape}")
    return [row[0] for row in rows] if list(shape[1:]) == [1] else rows
