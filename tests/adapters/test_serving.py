"""Adapters and artifacts over HTTP: derived schemas are published, and what does not load leaves the rest serving."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.adapters.cases import joblib_columns
from tests.adapters.contract import Case
from tests.adapters.servers import twofold_server
from tests.waiting import wait_until

MODELS = """
[[model]]
name = "people"
version = "1"
adapter = "joblib"
artifact = "{path}"
options = {{ probabilities = true }}

[[model]]
name = "missing"
version = "1"
adapter = "joblib"
artifact = "{path}.absent"

[[model]]
name = "changed"
version = "1"
adapter = "joblib"
artifact = "{path}"
sha256 = "{zeros}"

[[model]]
name = "unpinned"
version = "1"
adapter = "joblib"
artifact = "https://localhost:9/model.joblib"

[[model]]
name = "away"
version = "1"
adapter = "joblib"
artifact = "https://localhost:9/model.joblib"
sha256 = "{zeros}"

[[model]]
name = "corrupt"
version = "1"
adapter = "onnx"
artifact = "{corrupt}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def case(folder: Path) -> Case:
    return joblib_columns(folder)


@pytest.fixture(scope="module")
def url(folder: Path, case: Case) -> Iterator[str]:
    (folder / "corrupt.onnx").write_bytes(b"no graph")
    models = MODELS.format(path=case.artifact, corrupt=folder / "corrupt.onnx", zeros="0" * 64)
    with twofold_server(folder, models) as url:
        yield url


def get(url: str) -> Any:
    return urllib3.request("GET", url).json()


def settled(url: str) -> Any:
    """All models, once each is ready, or has a reason why it is not."""
    models = get(f"{url}/v1/models")["data"]
    return models if all(each["state"] == "ready" or each["reason"] for each in models) else None


def predict(url: str, *items: Any) -> Any:
    return urllib3.request("POST", f"{url}/v1/models/people/predict", json={"data": items})


def test_each_failure_has_its_reason_and_the_rest_is_served(url: str, case: Case) -> None:
    answered = predict(url, *case.items).json()
    models = wait_until(lambda: settled(url), "every model is ready or failed", 60)
    reasons = {each["name"]: each["reason"] for each in models}

    assert answered["prediction"] == [a | b for a, b in zip(case.items, case.expected, strict=True)]
    told = {
        "people": "None",
        "missing": f"artifact {case.artifact}.absent does not exist: correct artifact in models.toml",
        "changed": f"but models.toml pins {'0' * 64}",
        "unpinned": "is of a format that runs code when it is loaded",
        "away": "artifact https://localhost:9/model.joblib cannot be fetched: ClientConnectorError",
        "corrupt": "INVALID_PROTOBUF",
    }
    assert reasons.keys() == told.keys()
    for name, reason in told.items():
        assert reason in str(reasons[name])


def test_the_schema_of_the_model_is_published(url: str, case: Case) -> None:
    predict(url, case.items[0])

    shown = get(f"{url}/v1/models/people")

    assert shown["item"]["properties"] == {
        "age": {"type": ["number", "null"]},
        "income.net": {"type": ["number", "null"]},
        "city": {"type": "string", "enum": ["Berlin", "Lagos", "Lima"]},
    }
    assert list(shown["prediction"]["properties"]) == ["prediction", "probabilities"]


def test_an_item_that_does_not_fit_is_pointed_at_by_its_own_name(url: str) -> None:
    refused = predict(url, {"age": 3, "income.net": "much", "city": "Rome"})

    assert refused.status == 422
    assert {each["pointer"] for each in refused.json()["errors"]} == {"/data/0/income.net", "/data/0/city"}
