"""Predictions: items in, answers out. The one way to a model, online and in a job."""

from collections.abc import Sequence

from app.data import exact
from app.errors import FieldError, Invalid, ModelFailed
from app.models import JsonObject
from app.models.served import ServedModel, answers


def predict(served: ServedModel, items: Sequence[object]) -> list[JsonObject]:
    """The answer to each item, in order: its own fields as they came, plus the prediction's.

    `Invalid` points at every item that the model's schema refuses (`/data/3/text`), and then none is predicted.
    """
    loaded, refused = served.validate(items)
    if refused:
        raise Invalid(
            f"{len(refused)} of {len(items)} items do not fit {served}",
            errors=[
                FieldError(f"/data/{index}{error.pointer}", error.detail)
                for index, errors in refused
                for error in errors
            ],
        )
    accepted = [item for item in items if isinstance(item, dict)]
    return answers(accepted, served.predict(accepted, loaded))


def encode(served: ServedModel, answer: JsonObject) -> bytes:
    """JSON text of an answer, or of what holds answers; `ModelFailed` if the model put there what is not JSON."""
    return encode_each(served, [answer])[0]


def encode_each(served: ServedModel, answers: Sequence[JsonObject]) -> list[bytes]:
    """JSON text of each answer; `ModelFailed` if the model put into any what is not JSON."""
    try:
        return exact.dumps_objects(answers)
    except (TypeError, ValueError) as error:
        raise ModelFailed(
            f"{served} predicted what is not JSON: {error}. "
            "Use numbers, strings, booleans, None, lists and dicts; numpy's numbers and arrays are fine"
        ) from error
