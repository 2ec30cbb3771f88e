"""The adapter `onnx` with graphs of unusual shapes, made here node by node."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, checker, helper, save

from app.models.adapters import ADAPTERS
from app.models.served import ServedModel
from tests.adapters.contract import predict
from tests.models.specimens import declare

FLOAT, INT8, INT64, STRING, BOOL = (
    TensorProto.FLOAT,
    TensorProto.INT8,
    TensorProto.INT64,
    TensorProto.STRING,
    TensorProto.BOOL,
)


def serve(
    folder: Path, nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], **options: Any
) -> ServedModel:
    """A graph of these nodes; inputs and outputs are (type, shape) by name."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, *told) for name, told in inputs.items()],
        [helper.make_tensor_value_info(name, *told) for name, told in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    checker.check_model(model)
    save(model, folder / "model.onnx")
    declared = declare(
        ADAPTERS["onnx"], artifact=str(folder / "model.onnx"), options={"threads": 1} | options
    )
    made = ServedModel(declared)
    made.load()
    return made


def summed(shape: list[Any]) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    axes = helper.make_node("Constant", [], ["axes"], value=helper.make_tensor("a", INT64, [1], [1]))
    total = helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=0)
    return [axes, total], {"x": (FLOAT, shape)}, {"total": (FLOAT, [shape[0]])}


def test_lists_of_free_length_are_run_in_batches_of_equal_shape(tmp_path: Path) -> None:
    model = serve(tmp_path, *summed(["n", "length"]))
    assert model.reason is None
    items = [{"x": [float(place)] * (place % 5 + 1)} for place in range(100)]

    found = [each["total"] for each in predict(model, items)]

    assert found == [float(place * (place % 5 + 1)) for place in range(100)]


def test_a_batch_of_one_is_run_item_by_item(tmp_path: Path) -> None:
    model = serve(tmp_path, *summed([1, 3]))

    assert [each["total"] for each in predict(model, [{"x": [1, 2, 3]}, {"x": [4, 5, 6]}])] == [6.0, 15.0]


def test_a_batch_of_another_fixed_size_is_refused(tmp_path: Path) -> None:
    model = serve(tmp_path, *summed([16, 3]))

    assert model.reason == "input x takes exactly 16 items at once: export it with a free first dimension"


def test_an_input_without_a_batch_is_refused(tmp_path: Path) -> None:
    model = serve(
        tmp_path, [helper.make_node("Identity", ["x"], ["y"])], {"x": (FLOAT, [])}, {"y": (FLOAT, [])}
    )

    assert str(model.reason).startswith("input x has no dimension for the batch")


def test_every_type_is_held_to_its_range(tmp_path: Path) -> None:
    types = {"small": INT8, "big.int": INT64, "real": FLOAT, "word": STRING, "flag": BOOL}
    model = serve(
        tmp_path,
        [helper.make_node("Identity", [name], [f"{name} out"]) for name in types],
        {name: (kind, ["n"]) for name, kind in types.items()},
        {f"{name} out": (kind, ["n"]) for name, kind in types.items()},
    )
    good = {"small": -128, "big.int": 2**63 - 1, "real": 0.5, "word": "ü", "flag": True}

    assert predict(model, [good])[0] == good | {f"{name} out": value for name, value in good.items()}
    wrong = [
        ("small", 128),
        ("small", 1.5),
        ("big.int", 2**63),
        ("real", 1e39),
        ("real", None),
        ("word", 3),
        ("flag", "perhaps"),
        ("small", [1]),
    ]
    _, refused = model.validate([good | {name: value} for name, value in wrong])
    assert [errors[0].pointer for _, errors in refused] == [f"/{name}" for name, _ in wrong]


def test_arrays_of_several_dimensions_come_and_go_as_lists(tmp_path: Path) -> None:
    model = serve(
        tmp_path,
        [helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 1])],
        {"x": (FLOAT, ["n", 2, 3])},
        {"y": (FLOAT, ["n", 3, 2])},
    )
    item = {"x": [[1, 2, 3], [4, 5, 6]]}

    assert predict(model, [item])[0]["y"] == np.array(item["x"]).T.tolist()
    _, [(_, [error])] = model.validate([{"x": [[1, 2, 3], [4, 5]]}])
    assert error.pointer == "/x/1"


def test_an_output_that_is_not_of_the_batch_is_the_models_failure(tmp_path: Path) -> None:
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=1)
    model = serve(tmp_path, [node], {"x": (FLOAT, ["n"])}, {"y": (FLOAT, [1])})

    with pytest.raises(Exception, match="output y has 1 rows for 2 items"):
        predict(model, [{"x": 1.0}, {"x": 2.0}])


def test_a_folder_with_two_models_is_refused(tmp_path: Path) -> None:
    serve(tmp_path, *summed(["n", 3]))
    (tmp_path / "other.onnx").write_bytes(b"")
    model = ServedModel(declare(ADAPTERS["onnx"], artifact=str(tmp_path)))

    model.load()

    assert "holds 2 files *.onnx: name a folder with one" in str(model.reason)


def test_a_provider_that_is_not_installed_fails_the_load(tmp_path: Path) -> None:
    model = serve(tmp_path, *summed(["n", 3]), providers=["NoSuchExecutionProvider"])

    assert model.state == "failed"
