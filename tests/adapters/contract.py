"""The contract suite of adapters: what every one of them must do with a real model of its kind."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from app.models import JsonObject
from app.models.adapters import ADAPTERS
from app.models.served import ServedModel
from app.predictions import accept, encode
from tests.answered import answers
from tests.models.specimens import declare

N_ITEMS = 1000


@dataclass(kw_only=True)
class Case:
    """A model, how it is declared, a thousand random items, and what its own library predicts of them."""

    adapter: str
    artifact: Path | None = None
    options: JsonObject = field(default_factory=dict)
    items: Sequence[JsonObject]
    expected: Sequence[JsonObject]
    required: str | None
    """A field that an item must have; None if every record is an item."""
    wrong: Any = "not a number"
    """What that field must not be."""
    close: float = 0.0
    """By how much numbers may differ: batches of other sizes add floats in another order."""

    def declared(self, **changes: Any) -> Any:
        artifact = None if self.artifact is None else str(self.artifact)
        return declare(ADAPTERS[self.adapter], **({"artifact": artifact, "options": self.options} | changes))

    def served(self, **changes: Any) -> ServedModel:
        model = ServedModel(self.declared(**changes))
        model.load()
        return model


def predict(model: ServedModel, items: Sequence[JsonObject]) -> list[JsonObject]:
    return answers(items, model.predict(items, accept(model, items)))


def same(found: Any, expected: Any, close: float) -> bool:
    """Whether two JSON values are the same, but for `close` between floats."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[name], expected[name], close) for name in expected)
        )
    if isinstance(expected, list):
        return (
            isinstance(found, list)
            and len(found) == len(expected)
            and all(same(a, b, close) for a, b in zip(found, expected, strict=True))
        )
    if isinstance(expected, float) and close:
        return isinstance(found, float) and abs(found - expected) <= close
    return type(found) is type(expected) and found == expected


class AdapterContract:
    """Inherited by a test class with a fixture `case`."""

    def test_it_predicts_what_its_library_predicts(self, case: Case) -> None:
        model = case.served()
        assert model.state == "ready", model.reason

        answered = predict(model, case.items)

        assert len(case.items) == len(case.expected) == N_ITEMS
        wanted = [item | prediction for item, prediction in zip(case.items, case.expected, strict=True)]
        assert orjson.loads(encode(model, {"prediction": answered}))  # JSON all through
        assert [place for place in range(N_ITEMS) if not same(answered[place], wanted[place], 0.0)] == []

    def test_neither_the_batch_nor_the_order_changes_a_prediction(self, case: Case) -> None:
        model = case.served()
        places = random.Random(7).sample(range(N_ITEMS), 50)

        together = predict(model, [case.items[place] for place in places])
        alone = [predict(model, [case.items[place]])[0] for place in places[:10]]

        for answered in (together, alone):
            for place, found in zip(places, answered, strict=False):
                assert same(found, case.items[place] | case.expected[place], case.close or 1e-9)

    def test_its_schemas_are_published_and_true(self, case: Case) -> None:
        model = case.served()

        if case.required is not None:
            assert model.item_json_schema is not None
            assert case.required in model.item_json_schema["properties"]
            assert set(model.item_json_schema["properties"]) <= set().union(*case.items)
            orjson.dumps(model.item_json_schema)
        if model.prediction_json_schema is not None:
            assert set(model.prediction_json_schema["properties"]) == set(case.expected[0])

    def test_an_item_that_does_not_fit_is_pointed_at(self, case: Case) -> None:
        if case.required is None:
            return
        good = case.items[0]
        missing = {name: value for name, value in good.items() if name != case.required}

        loaded, refused = case.served().validate([good, missing, good | {case.required: case.wrong}])

        assert len(loaded) == 1
        assert [place for place, _ in refused] == [1, 2]
        for _, errors in refused:
            assert errors[0].pointer.startswith(f"/{case.required}")

    def test_unknown_fields_pass_through(self, case: Case) -> None:
        if case.required is None:
            return
        [answered] = predict(case.served(), [case.items[0] | {"id": "mine"}])

        assert answered["id"] == "mine"
        assert same(answered | case.expected[0], answered, case.close or 1e-9)

    def test_an_artifact_that_is_none_of_its_kind_fails_with_a_reason(
        self, case: Case, tmp_path: Path
    ) -> None:
        corrupt = tmp_path / "corrupt"
        corrupt.write_bytes(b"neither a model nor anything else")

        model = case.served(artifact=str(corrupt))

        assert model.state == "failed"
        assert model.reason

    def test_an_option_that_it_does_not_have_is_named(self, case: Case) -> None:
        model = case.served(options=case.options | {"colour": "red"})

        assert "got an unexpected keyword argument 'colour'" in str(model.reason)
