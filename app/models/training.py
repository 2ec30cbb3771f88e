"""Training: what a model class with `train` is asked for, and what it gives."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.errors import Invalid, ModelFailed, Unavailable, named, refused
from app.models import JsonObject, Model, contract, schemas
from app.models.served import ServedModel, failure

GIVEN = ("items", "artifact", "progress")
"""What `train` gets besides its options; the last if it asks for it."""
Report = Callable[[float], None]


def require_trainable(served: ServedModel, options: Mapping[str, Any]) -> None:
    """`Invalid` if the model's class has no `train`, or none that takes these options.

    `Unavailable` while the class is not imported yet, or if the model failed to load.
    """
    model_class = _class_of(served)
    if not served.is_trainable:
        path = served.declaration.class_path
        raise refused(
            Invalid, "/kind", f"{served} cannot be trained: {path} has no train(self, items, artifact)"
        )
    method = model_class.train
    for name in options:
        if name in GIVEN:
            raise refused(Invalid, f"/options/{name}", f"train gets {name} anyway: take it out of options")
    signature = inspect.signature(method)
    try:
        signature.bind(None, [], Path(), **options, **_reporting(method, _nowhere))
    except TypeError as error:
        raise refused(
            Invalid, "/options", f"{served}: train{signature} cannot be called with them: {error}"
        ) from None


def validate(served: ServedModel, items: Sequence[object]) -> tuple[list[JsonObject], schemas.Refusals]:
    """The items that `TrainItem` accepts, or `Item` if the class has no such schema, loaded; and why not the others."""
    model_class = _class_of(served)
    try:
        declared = contract.nested_schema(model_class, "TrainItem")
        declared = declared or contract.nested_schema(model_class, "Item")
        return schemas.load_items(None if declared is None else schemas.item_schema(declared), items)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ModelFailed(f"{served}: its schema raised {named(error)}") from error


def train(
    served: ServedModel,
    items: list[JsonObject],
    artifact: Path,
    options: Mapping[str, Any],
    report: Report | None = None,
) -> JsonObject:
    """Trains a new instance of the class, which writes `artifact`; its metrics.

    A `train` with a parameter `progress` is given a function to call with the share that is done, from 0 to 1, which
    `report` is told. `items` are as `validate` loaded them. `ModelFailed` if it raises, or returns what are no metrics.
    """
    try:
        model = _class_of(served)()
        metrics = model.train(items, artifact, **options, **_reporting(model.train, report or _nowhere))
    except KeyboardInterrupt:
        raise
    # Neither sys.exit() in a model nor a panic of Rust ends a worker: it fails this call like any other exception.
    except BaseException as error:
        raise failure(f"{served} raised {named(error)} in train", error) from error
    if not isinstance(metrics, Mapping):
        raise ModelFailed(f"{served}: train returned a {type(metrics).__name__}, not a dict of metrics")
    return dict(metrics)


def _reporting(method: Callable[..., Any], report: Report) -> dict[str, Report]:
    return {"progress": report} if "progress" in inspect.signature(method).parameters else {}


def _nowhere(_share: float) -> None:
    """Where nobody asks how far it is: in a child process, on a Dask worker."""


def _class_of(served: ServedModel) -> type[Model]:
    if served.state == "failed":
        raise Unavailable(f"{served} failed to load: {served.reason}")
    if served.model_class is None:
        raise served.still_loading()
    return served.model_class
