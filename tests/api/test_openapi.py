"""The published API: complete, well formed by OpenAPI 3.1, and readable without anybody else's server."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from app.models.registry import Registry
from tests.api.conftest import Client, on_both_lanes, services_of
from tests.waiting import wait_until

pytestmark = [on_both_lanes, pytest.mark.parametrize("database", ["sqlite"], indirect=True)]

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
def document(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in METHODS & item.keys():
            yield path, method, item[method]


def every(value: object, key: str) -> Iterator[Any]:
    """All values of this key, anywhere inside."""
    if isinstance(value, dict):
        for name, below in value.items():
            if name == key:
                yield below
            yield from every(below, key)
    elif isinstance(value, list):
        for below in value:
            yield from every(below, key)


def test_the_document_has_the_parts_that_openapi_asks_for(document: dict[str, Any]) -> None:
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert document["info"]["title"] == "Twofold"
    assert document["info"]["version"]
    assert set(document) <= {"openapi", "info", "servers", "paths", "components", "tags", "security"}
    declared = {tag["name"] for tag in document["tags"]}
    for path, _, operation in operations(document):
        assert path.startswith("/")
        assert set(operation["tags"]) <= declared


def test_every_route_is_documented_and_no_other(app: Flask, document: dict[str, Any]) -> None:
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not rule.rule.startswith(("/docs", "/openapi.json"))
    }

    assert {(path, method) for path, method, _ in operations(document)} == routes


def test_every_operation_tells_what_it_does_and_answers(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        assert operation["summary"], (method, path)
        responses = operation["responses"]
        assert any(re.fullmatch(r"2\d\d", status) for status in responses), (method, path)
        for status, response in responses.items():
            assert re.fullmatch(r"[1-5]\d\d|default", status)
            resolved = resolve(document, response)
            assert resolved["description"], (method, path, status)
            for media_type, content in resolved.get("content", {}).items():
                assert re.fullmatch(r"[a-z]+/[a-z.+-]+", media_type)
                assert "schema" in content


def test_problems_are_documented_as_problems(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        for status, response in operation["responses"].items():
            if status.startswith("4"):
                content = resolve(document, response)["content"]
                assert set(content) == {"application/problem+json"}, (method, path, status)


def test_parameters_are_named_placed_and_those_of_the_path_are_all_there(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        given = [*document["paths"][path].get("parameters", []), *operation.get("parameters", [])]
        parameters = [resolve(document, parameter) for parameter in given]
        names = [(parameter["in"], parameter["name"]) for parameter in parameters]
        assert len(names) == len(set(names)), (method, path)
        assert {name for place, name in names if place == "path"} == set(re.findall(r"{(\w+)}", path))
        for parameter in parameters:
            assert parameter["in"] in {"path", "query", "header", "cookie"}
            assert "schema" in parameter
            assert parameter["in"] != "path" or parameter["required"] is True


def test_bodies_are_documented_where_they_are_read(document: dict[str, Any]) -> None:
    bodies = {
        (method, path): set(resolve(document, operation["requestBody"])["content"])
        for path, method, operation in operations(document)
        if "requestBody" in operation
    }

    assert bodies == {
        ("post", "/v1/models/{model}/predict"): {"application/json"},
        ("post", "/v1/models/{model}/versions/{version}/predict"): {"application/json"},
        ("post", "/v1/inputs"): {
            "application/json",
            "application/x-ndjson",
            "text/csv",
            "application/vnd.apache.parquet",
        },
        ("post", "/v1/inputs/presigned"): {"application/json"},
        ("post", "/v1/jobs"): {"application/json"},
        ("put", "/v1/jobs/{job_id}"): {"application/json"},
        ("post", "/v1/schedules"): {"application/json"},
        ("post", "/prediction/online"): {"application/json"},
        ("post", "/upload"): {"application/json"},
    }


def test_references_lead_somewhere_and_operations_have_names_of_their_own(document: dict[str, Any]) -> None:
    for reference in every(document, "$ref"):
        assert resolve(document, {"$ref": reference})
    named = [
        operation["operationId"] for _, _, operation in operations(document) if "operationId" in operation
    ]
    assert len(named) == len(set(named))
    types = {"string", "integer", "number", "boolean", "array", "object", "null"}
    for found in every(document["components"]["schemas"], "type"):
        if isinstance(found, str | list):  # else a property that is called type
            assert set([found] if isinstance(found, str) else found) <= types


def resolve(document: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """What a `$ref` within the document points at, or the value itself."""
    while "$ref" in value:
        found: Any = document
        for step in value["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        value = found
    return value


def test_the_pages_load_nothing_from_elsewhere(client: Client) -> None:
    page = client.get("/docs", follow_redirects=True)

    assert (page.status_code, page.mimetype) == (200, "text/html")
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert loaded
    for address in loaded:
        assert address.startswith("/docs/"), address
        with client.get(address) as asset:
            assert asset.status_code == 200, address
    elsewhere = page.text.replace('"http://localhost/', '"/')  # the address that this client asked
    assert not re.search(r"""["'](?:https?:)?//""", elsewhere)
    assert '"/openapi.json"' in page.text


@pytest.fixture
def registry(app: Flask) -> Registry:
    """Its models are loaded."""
    for served in services_of(app).registry.models():
        assert served.wait_ready(30)
    return services_of(app).registry


def schemas_of(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json["components"]["schemas"]
    return found


@pytest.mark.usefixtures("registry")
def test_it_tells_what_each_model_takes_and_gives(client: Client) -> None:
    schemas = schemas_of(client)
    for model in client.get("/v1/models").json["data"]:
        for part in ("item", "prediction"):
            if model[part] is not None:
                described = schemas[f"{model['name']}.{model['version']}.{part}"]
                assert model[part].items() <= described.items()

    assert {"$ref": "#/components/schemas/moody.2.item"} in schemas["Items"]["properties"]["data"]["items"][
        "anyOf"
    ]
    told = schemas["Predictions"]["properties"]["prediction"]["items"]["anyOf"]
    assert {"$ref": "#/components/schemas/moody.2.prediction"} in told


def test_it_tells_of_the_models_that_are_served_now(client: Client, registry: Registry) -> None:
    before = schemas_of(client)
    registry.replace([registry.get("moody", "2").declaration])
    wait_until(lambda: len(registry.models()) == 1, "the other models to go")

    after = schemas_of(client)

    assert {"moody.1.item", "moody.2.item"} <= before.keys()
    assert "moody.2.item" in after
    assert "moody.1.item" not in after
