"""A served model: one declared version, loaded in this process, behind its contract."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import structlog
from marshmallow import Schema

from app.errors import Conflict, FieldError, ModelAway, ModelFailed, Unavailable, named
from app.models import JsonObject, Model, contract, schemas
from app.models.artifacts import DEFAULT_CACHE, local_artifact
from app.models.declarations import Declaration

log = structlog.get_logger(__name__)

State = Literal["loading", "ready", "failed", "untrained"]

RETRY_AFTER_SECONDS = 5


Bring = Callable[[Declaration], None]
"""Has an artifact brought to the place that its declaration names, if that is where it has to be brought to."""


class ServedModel:
    """One model version in this process. Made "loading"; `load` ends it "ready", "failed" or "untrained", for good, but
    for what failed in passing: that is "loading" still, with a `reason`, and may be loaded again.

    Every method may be called from any thread.
    """

    def __init__(self, declaration: Declaration, artifact_cache: Path = DEFAULT_CACHE) -> None:
        self.declaration = declaration
        self._artifact_cache = artifact_cache
        self.state: State = "loading"
        self.reason: str | None = None
        """Why it failed, in passing or for good: the exception's type and message."""
        self.item_json_schema: dict[str, Any] | None = None
        """JSON Schema of one item; None until the class is imported, and if it declares no `Item`."""
        self.prediction_json_schema: dict[str, Any] | None = None
        """JSON Schema of what `predict` adds; None until the class is imported, and if it declares none."""
        self.model_class: type[Model] | None = None  # until it is imported
        self._model: Model | None = None
        self._item: Schema | None = None
        self._prediction: Schema | None = None
        self._prediction_fields: frozenset[str] | None = None
        self._settled = threading.Event()
        # A lock where one slot is enough: it runs in C, and is taken for every online request.
        n_slots = declaration.concurrency
        self._slots = threading.Lock() if n_slots == 1 else threading.BoundedSemaphore(n_slots)

    def __str__(self) -> str:
        return f"model {self.declaration.name} {self.declaration.version}"

    def load(self, bring: Bring = lambda _: None) -> None:
        """Imports the class, gets the artifact, calls `load` and warms it up; called while it is "loading".

        `bring` is called before; what it raises is told like what a load does.
        Raises nothing but `KeyboardInterrupt`: see `state`, `reason`. In passing are a store that does not answer, a
        `ConnectionError`, a `TimeoutError`, and an exception with a true attribute `transient`.
        """
        try:
            self._load(bring)
        except contract.ContractError as error:
            self._fail(str(error), error)
        except KeyboardInterrupt:
            raise
        # The task boundary of a load: user code may raise anything, and sys.exit() ends only this model.
        except BaseException as error:  # noqa: BLE001 — recorded in reason and in the log
            self._fail(named(error), error)
        else:
            self.reason = None
            self.state = "untrained" if self._model is None else "ready"
            log.info("model_untrained" if self._model is None else "model_loaded", **self._labels())
        finally:
            self._settled.set()

    def _load(self, bring: Bring) -> None:
        model_class = contract.import_class(self.declaration.class_path)
        self._take_schemas(model_class)
        self.model_class = model_class
        if self.is_trainable and self.declaration.artifact is None:
            return  # there is nothing to load: its first training makes that
        bring(self.declaration)
        runs_code = getattr(model_class, "artifact_runs_code", False)
        artifact = local_artifact(self.declaration, self._artifact_cache, runs_code=runs_code)
        model = model_class()
        contract.load(model, artifact, self.declaration.options)
        self._take_schemas(model)
        self._warm_up(model)
        self._model = model

    def _take_schemas(self, model: Model | type[Model]) -> None:
        """Those of the class, so that they are published while it loads; then those that `load` has set."""
        item, declared = (contract.nested_schema(model, name) for name in ("Item", "Prediction"))
        self._item = None if item is None else schemas.item_schema(item)
        self.item_json_schema = schemas.json_schema(self._item)
        prediction = None if declared is None else declared()
        self._prediction = None if declared is None else schemas.item_schema(declared)
        self._prediction_fields = None if prediction is None else _names_of_fields(prediction)
        self.prediction_json_schema = schemas.json_schema(prediction)

    def _warm_up(self, model: Model) -> None:
        """Predicts the declared items, so that what a model does only once is done before the first request."""
        items = self.declaration.warmup
        try:
            loaded, refused = schemas.load_items(self._item, items)
            for place, errors in sorted(refused.items()):
                raise contract.ContractError(f"item {place}{errors[0].pointer}: {errors[0].detail}")
            if items:
                self._predict_in_batches(model, items, loaded)
        except contract.ContractError as error:
            raise contract.ContractError(f"warmup: {error}") from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise contract.ContractError(f"warmup: it raised {named(error)}") from error

    def _fail(self, reason: str, error: BaseException) -> None:
        self.reason = reason
        if any(map(_is_passing, (error, error.__cause__))):  # what the warmup raised is the cause
            log.warning("model_not_loaded_yet", **self._labels(), reason=reason)
            return
        self.state = "failed"
        log.error("model_failed_to_load", **self._labels(), reason=reason, exc_info=error)

    @property
    def untrained(self) -> str:
        """What is told to who wants predictions of a model that is untrained."""
        return (
            f"{self} is untrained: make a job with kind = train, and promote the version that comes of it "
            "(docs/models.md)"
        )

    def _labels(self) -> dict[str, str]:
        return {"model": self.declaration.name, "version": self.declaration.version}

    @property
    def is_trainable(self) -> bool:
        """Whether its class has `train`; False until the class is imported."""
        return callable(getattr(self.model_class, "train", None))

    def wait_ready(self, timeout_seconds: float | None = None) -> bool:
        """Waits for its first load; True if it is ready, False if it failed, is untrained, or the time is over."""
        self._settled.wait(timeout_seconds)
        return self.state == "ready"

    def validate(
        self, items: Sequence[object], *, spend: bool = False
    ) -> tuple[list[JsonObject], list[tuple[int, tuple[FieldError, ...]]]]:
        """The valid items, loaded by the model's own schema, in order; and each refused position with why.

        Pointers are relative to the item: `/text`, `/tags/2`, or `""` for the item itself. Refused positions
        ascend, so the loaded items are those of all other positions. Without an `Item` schema every JSON
        object passes. What is loaded shares nothing mutable with `items`: the model may change it, and the
        caller can still echo `items` as the client sent them. With `spend` it may share all: the caller has no more
        use for `items`.

        Raises `Unavailable` while the model is not ready, `Conflict` if it is untrained, `ModelFailed` if its schema
        raises anything other than a `ValidationError`.
        """
        self._ready_model()
        try:
            loaded, refused = schemas.load_items(self._item, items, spend=spend)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise ModelFailed(f"{self}: its Item schema raised {named(error)}") from error
        return loaded, sorted(refused.items())

    def predict(
        self,
        items: Sequence[JsonObject],
        loaded: list[JsonObject] | None = None,
        *,
        within: AbstractContextManager[object] | None = None,
    ) -> list[JsonObject]:
        """One prediction for each of `items`, as their client sent them and `validate` accepted them; `[]` for none.

        `loaded` is what `validate` made of them, if the caller has it still: the model may change what is in it.
        The model gets `max_batch_size` of them at a time. Waits for one of the `concurrency` slots, however long the
        calls before it take; `within` is entered once it has the slot, and left with it, so that it can tell how long
        the model itself takes.

        Raises what `validate` raises of a model that is not ready; `ModelFailed` if it raises or breaks the contract,
        of these `ModelAway` for an `OSError`, which all errors of connections and timeouts are, or an exception with a
        true attribute `transient`.
        """
        model = self._ready_model()
        if not items:
            return []
        try:
            given = self._load_items(items) if loaded is None else loaded
            with self._slots, within or nullcontext():
                return self._predict_in_batches(model, items, given)
        except contract.ContractError as error:
            raise ModelFailed(f"{self} broke its contract: {error}") from error
        except KeyboardInterrupt:
            raise
        # Neither sys.exit() in a model nor a panic of Rust ends a worker: it fails this call like any other exception.
        # Ctrl-C alone goes through, here and wherever else user code is called: it ends `twofold models check`.
        except BaseException as error:
            raise failure(f"{self} raised {named(error)}", error) from error

    def _predict_in_batches(
        self, model: Model, items: Sequence[JsonObject], loaded: list[JsonObject]
    ) -> list[JsonObject]:
        size = self.declaration.max_batch_size
        if len(items) <= size:
            return contract.checked(model.predict(loaded), items, self._prediction_fields, self._load_item)
        predictions = []
        for start in range(0, len(items), size):
            batch = slice(start, start + size)
            predictions += contract.checked(
                model.predict(loaded[batch]), items[batch], self._prediction_fields, self._load_item
            )
        return predictions

    @property
    def decisive_fields(self) -> frozenset[str] | None:
        """The fields of an item that its prediction can depend on; None if all of them. For a model that is ready."""
        return schemas.decisive_fields(self._item)

    def prediction_errors(self, predictions: Sequence[JsonObject]) -> list[tuple[int, str]]:
        """Which predictions, as JSON, do not fit the `Prediction` schema, and why: for a check, not for every call."""
        _, refused = schemas.load_items(self._prediction, predictions)
        return [
            (place, "; ".join(f"{error.pointer or 'it'}: {error.detail}" for error in errors))
            for place, errors in sorted(refused.items())
        ]

    def _load_items(self, items: Sequence[object]) -> list[JsonObject]:
        return schemas.load_items(self._item, items)[0]

    def _load_item(self, item: object) -> object:
        return self._load_items([item])[0]

    def _ready_model(self) -> Model:
        if self.state == "failed":
            raise Unavailable(f"{self} failed to load: {self.reason}")
        if self.state == "untrained":
            raise Conflict(self.untrained)
        if self._model is None or self.state != "ready":
            raise self.still_loading()
        return self._model

    def still_loading(self) -> Unavailable:
        """What is told to who needs it before it is loaded."""
        reason = self.reason
        why = "try again soon" if reason is None else f"the last attempt failed: {reason}"
        return Unavailable(
            f"{self} is still loading: {why}", headers={"Retry-After": str(RETRY_AFTER_SECONDS)}
        )


def _names_of_fields(schema: Schema) -> frozenset[str]:
    """What the fields are called, in the class and in JSON."""
    return frozenset(
        known for name, field in schema.fields.items() for known in (name, field.data_key or name)
    )


def _is_passing(error: BaseException | None) -> bool:
    """Whether the same load may succeed later. Most other kinds of `OSError` are about files that are not there."""
    return isinstance(error, ConnectionError | TimeoutError) or getattr(error, "transient", False)


def failure(told: str, error: BaseException) -> ModelFailed:
    """What to raise for what a model raised: `ModelAway` if that is in passing."""
    if isinstance(error, OSError) or getattr(error, "transient", False):
        return ModelAway(told, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
    return ModelFailed(told)
