"""The contract between the service and a model, and nothing else: a model of yours imports none of this.

class Shout:                                        # twofold imports it by "module:Shout"
    class Item(marshmallow.Schema):                 # optional: what one item must look like
        text = fields.String(required=True)

    class Prediction(marshmallow.Schema):           # optional: the fields that predict adds to it
        loud = fields.String(required=True)

    def load(self, artifact, **options): ...        # optional: once per process

    def predict(self, items):
        return [{"loud": item["text"].upper()} for item in items]
"""

from pathlib import Path
from typing import Any, Protocol

JsonObject = dict[str, Any]
"""An item or a prediction: a JSON object, keys are strings."""


class Model(Protocol):
    """What a model class is asked for. Only `predict` is required; the class is made without arguments.

    Two nested marshmallow schemas are optional, both classes, not instances; `load` may set them on the instance, if
    only the weights tell what they are:

    - `Item` says what one item must look like. An item that breaks it never reaches `predict`: its client
      learns which field and why. Fields that `Item` does not declare pass through untouched, unless
      `class Meta: unknown = RAISE` (refuse them) or `EXCLUDE` (keep them from `predict`). Without `Item`
      every JSON object is an item.
    - `Prediction` declares the fields that `predict` adds. It is published, and it lets the order of
      predictions be checked (below); values are not validated against it.
    """

    def load(self, artifact: Path | None, **options: Any) -> None:
        """Reads the weights; called once per process, before the first `predict`, in a thread of its own.

        `artifact` is the local path of what `models.toml` declares, or None; what lay elsewhere has been fetched. If
        reading it runs code that it brings, as a pickle does, say so with `artifact_runs_code = True`, and none comes
        from elsewhere without a pinned digest. `options` are the declared ones, so name those you take:
        `def load(self, artifact, *, threshold=0.5)`. What it raises leaves this model
        "failed", with the reason in `/readyz` and the log; the other models are served all the same. After a
        `ConnectionError`, a `TimeoutError` or an exception with `transient = True` another instance is loaded, a minute
        later at most. A class that has nothing to read may leave `load` out.
        """

    def predict(self, items: list[JsonObject]) -> list[JsonObject]:
        """One prediction for each item: the same length, the same order, JSON values (numpy's are fine).

        `items` has at least one item, each loaded by `Item` and yours to change. A prediction holds the new
        fields alone; the service answers with the item's own fields plus these, and where both have a name
        the prediction's value wins.

        At most `concurrency` threads call it at once (`models.toml`; 1 unless declared), so a model that is
        not thread-safe needs no lock. An exception fails this call: online it is a 500 that names the
        exception's type and message; in a job the service finds the guilty items and predicts the rest.

        Length and types are checked on every call. Order is checked where it can be: a prediction that
        repeats a field of its item which `Prediction` does not declare, such as an id, must repeat its value.
        """
        ...

    def train(self, items: list[JsonObject], artifact: Path, **options: Any) -> JsonObject:
        """Optional: makes new weights of labelled items, writes them at `artifact`, and returns metrics.

        Called by a job of kind `train`, on an instance of its own that was not loaded, with all items of the job's
        input: loaded by the nested schema `TrainItem` if there is one, else by `Item`. One item that it refuses ends
        the training. `artifact` is a path where nothing is yet: write a file there, or make it a folder; `load` of the
        new version gets the same. `options` are the job's, so name those you take, as for `load`. A parameter named
        `progress` is given a function, to call with the share that is done, 0 to 1. Metrics are a dict of JSON values,
        to compare versions by.

        A version that is declared without an artifact has nothing to load: it is "untrained", and never predicts.
        """
        ...
