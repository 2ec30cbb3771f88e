"""Items against the model's own schema: what is loaded, where the pointers point, what is published."""

from typing import Any

import pytest

from app.errors import FieldError, ModelFailed
from tests.answered import answers
from tests.models import specimens
from tests.models.specimens import served


def test_refused_items_have_positions_and_the_others_are_loaded_in_order() -> None:
    items, refused = served(specimens.Upper).validate(
        [{"text": "a"}, {}, {"text": 3}, {"text": "d"}, 5, None, ["x"]]
    )

    assert items == [{"text": "a"}, {"text": "d"}]
    assert refused == [
        (1, (FieldError("/text", "Missing data for required field."),)),
        (2, (FieldError("/text", "Not a valid string."),)),
        (4, (FieldError("", "An item is a JSON object, not a number."),)),
        (5, (FieldError("", "An item is a JSON object, not null."),)),
        (6, (FieldError("", "An item is a JSON object, not an array."),)),
    ]


@pytest.mark.parametrize(
    ("item", "pointer"),
    [
        ({"a/b": 1}, "/a~1b"),
        ({"tags": ["a", "b", 3]}, "/tags/2"),
        ({"tags": "a"}, "/tags"),
        ({"point": {"x": "far"}}, "/point/x"),
        ({"point": {}}, "/point/x"),
        ({"point": 3}, "/point"),
        ({"path": [{"x": 1}, {"x": 1, "value": "many"}]}, "/path/1/value"),
        ({"many": [{"x": 1}, {"x": 1, "value": "many"}]}, "/many/1/value"),
        ({"scores": {"value": 1, "k~": "high"}}, "/scores/k~0"),
        ({"scores": 1}, "/scores"),
        ({"places": {"home": {"x": 1, "value": "v"}}}, "/places/home/value"),
    ],
)
def test_pointers_reach_into_nested_values(item: dict[str, Any], pointer: str) -> None:
    items, refused = served(specimens.Nested).validate([{}, item])

    assert items == [{}]
    [(position, [error])] = refused
    assert (position, error.pointer) == (1, pointer)


def test_pointers_reach_into_dicts_of_dicts_without_index_errors() -> None:
    raw: list[object] = [{}, {"scores": {"a": {"b": "high"}}}]

    _, refused = served(specimens.OddlyNested).validate(raw)

    assert refused == [(1, (FieldError("/scores/a/b", "Not a valid integer."),))]


def test_every_stage_of_a_schema_refuses_its_own_items_only() -> None:
    stages = ["ok", "post_load", "schema", "ok", "field", "post_load"]

    items, refused = served(specimens.Hooked).validate([{"stage": stage} for stage in stages])

    assert items == [{"stage": "ok"}, {"stage": "ok"}]
    assert [(position, errors[0].pointer) for position, errors in refused] == [
        (1, "/stage"),
        (2, ""),
        (4, "/stage"),
        (5, "/stage"),
    ]


def test_a_schema_that_refuses_the_batch_alone_refuses_each_item() -> None:
    items, refused = served(specimens.Jealous).validate([{}, {}])

    reason = (FieldError("", "one at a time"),)
    assert (items, refused) == ([], [(0, reason), (1, reason)])


def test_a_schema_that_raises_is_the_models_failure() -> None:
    with pytest.raises(ModelFailed, match=r"model specimen 1: its Item schema raised KeyError: 'bug'"):
        served(specimens.Hooked).validate([{"stage": "bug"}])


def test_unknown_fields_pass_unless_the_meta_says_otherwise() -> None:
    raw = [{"text": "a", "id": 1}]

    assert served(specimens.Upper).validate(raw)[0] == raw
    assert served(specimens.Excluding).validate(raw)[0] == [{"text": "a"}]
    assert served(specimens.Strict).validate(raw) == (
        [],
        [(0, (FieldError("/id", "Unknown field."),))],
    )


def test_without_a_schema_every_object_passes() -> None:
    raw: list[object] = [{"anything": [1]}, {}]

    assert served(specimens.Schemaless).validate(raw) == (raw, [])


def test_a_model_may_change_its_items_without_the_caller_seeing_it() -> None:
    raw = [{"id": 1, "tags": ["a"]}]
    model = served(specimens.Mutating)
    items, _ = model.validate(raw)

    predictions = model.predict(items)

    assert raw == [{"id": 1, "tags": ["a"]}]
    assert answers(raw, predictions) == [{"id": 1, "tags": ["a"], "label": "x"}]
    assert items[0]["id"] == 1


def test_schemas_are_published_as_json_schema() -> None:
    model = served(specimens.Upper)

    assert model.item_json_schema == {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": True,
    }
    assert model.prediction_json_schema is not None
    assert model.prediction_json_schema["required"] == ["upper"]
    assert served(specimens.Schemaless).item_json_schema is None
    assert served(specimens.Schemaless).prediction_json_schema is None


def test_nested_schemas_are_inlined_in_json_schema() -> None:
    published = served(specimens.Nested).item_json_schema

    assert published is not None
    assert published["properties"]["path"]["items"]["properties"]["x"] == {"type": "number"}
    assert "$ref" not in str(published)
