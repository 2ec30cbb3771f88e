"""The adapter `remote`: four protocols against real servers, and what becomes of a server that fails."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sklearn.linear_model import LogisticRegression

from app.errors import ModelFailed
from app.models.adapters import ADAPTERS
from app.models.served import ServedModel
from tests.adapters.cases import fit_points, joblib_columns, mlflow_columns, points
from tests.adapters.contract import AdapterContract, Case
from tests.adapters.servers import ModelServer, mlflow_server, twofold_server
from tests.models.specimens import declare
from tests.waiting import wait_until

ROWS = points(2)
COLUMNS = {"a": "number", "b": "number", "c": "number"}


@contextmanager
def v2(folder: Path) -> Iterator[Case]:
    estimator = fit_points(LogisticRegression())
    rows = [item["features"] for item in ROWS]
    labels, likely = estimator.predict(rows).tolist(), estimator.predict_proba(rows).tolist()
    with closing(ModelServer(estimator)) as server:
        yield Case(
            adapter="remote",
            options={"url": server.url, "protocol": "v2", "model": "points"},
            items=[{"x": row} for row in rows],
            expected=[{"label": a, "probabilities": b} for a, b in zip(labels, likely, strict=True)],
            required="x",
            wrong=[1.0],
        )


@contextmanager
def v1(folder: Path) -> Iterator[Case]:
    estimator = fit_points(LogisticRegression())
    rows = [item["features"] for item in ROWS]
    options = {"protocol": "v1", "model": "points", "model_version": "2", "columns": COLUMNS, "rows": True}
    with closing(ModelServer(estimator)) as server:
        yield Case(
            adapter="remote",
            options={"url": server.url, **options},
            items=[dict(zip(COLUMNS, row, strict=True)) for row in rows],
            expected=[{"prediction": value} for value in estimator.predict(rows).tolist()],
            required="b",
        )


@contextmanager
def mlflow(folder: Path) -> Iterator[Case]:
    direct = mlflow_columns(folder)
    assert direct.artifact is not None
    with mlflow_server(direct.artifact) as url:
        yield Case(
            adapter="remote",
            options={
                "url": url,
                "protocol": "mlflow",
                "columns": {"age": "integer", "income.net": "number", "city": "string"},
            },
            items=direct.items,
            expected=direct.expected,
            required="income.net",
        )


@contextmanager
def another_twofold(folder: Path) -> Iterator[Case]:
    direct = joblib_columns(folder)
    models = f"""
[[model]]
name = "people"
version = "1"
adapter = "joblib"
artifact = "{direct.artifact}"
options = {{ probabilities = true }}
"""
    with twofold_server(folder, models) as url:
        yield Case(
            adapter="remote",
            options={"url": f"{url}/v1/models/people/predict", "protocol": "json"},
            items=direct.items,
            expected=direct.expected,
            required=None,
        )


SERVERS: list[Callable[[Path], AbstractContextManager[Case]]] = [v2, v1, mlflow, another_twofold]


@pytest.fixture(scope="module", params=SERVERS, ids=lambda serve: serve.__name__)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with request.param(tmp_path_factory.mktemp(request.param.__name__)) as made:
        yield made


class TestRemote(AdapterContract):
    pass


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with closing(ModelServer(fit_points(LogisticRegression()))) as server:
        yield server


def remote(server: ModelServer, **options: Any) -> ServedModel:
    defaults = {"url": server.url, "protocol": "v1", "model": "points", "model_version": "2"}
    model = ServedModel(
        declare(ADAPTERS["remote"], options=defaults | {"columns": COLUMNS, "rows": True} | options)
    )
    model.load()
    return model


ITEM = {"a": 0.5, "b": -1.0, "c": 2.0}


def ask(model: ServedModel) -> Any:
    """One prediction, or the exception that the adapter raised."""
    try:
        return model.predict([ITEM])
    except ModelFailed as error:
        return error.__cause__


def test_failures_in_passing_are_tried_again(server: ModelServer) -> None:
    model = remote(server)
    server.failures = [503, 0]

    assert ask(model) == [{"prediction": True}]
    assert len(server.requests) == 3


def test_what_goes_on_failing_is_transient_so_that_a_job_tries_again_later(server: ModelServer) -> None:
    model = remote(server, retries=1)
    server.failures = [503, 503]

    error = ask(model)

    assert getattr(error, "transient", False)
    assert (
        str(error)
        == f'{server.url}/v1/models/points/versions/2:predict answered 503: {{"error":"out of order"}}'
    )


def test_an_error_of_the_other_model_is_final_and_tells_what_it_said(server: ModelServer) -> None:
    model = remote(server)
    server.failures = [400]

    error = ask(model)

    assert not getattr(error, "transient", False)
    assert "answered 400" in str(error)
    assert "out of order" in str(error)
    assert len(server.requests) == 1


def test_a_server_that_is_gone_is_not_asked_for_a_while(server: ModelServer) -> None:
    model = remote(server, retries=0, failures=2, pause_seconds=3600)
    server.close()

    first, second, third = ask(model), ask(model), ask(model)

    assert "cannot be reached" in str(first)
    assert "cannot be reached" in str(second)
    assert re.search(r"failed 2 times in a row: not asked again for 3[56]\d\d s", str(third))
    assert third.transient


def test_after_the_pause_it_is_asked_again(server: ModelServer) -> None:
    model = remote(server, retries=0, failures=1, pause_seconds=0.01)
    server.failures = [503]
    assert "answered 503" in str(ask(model))

    while isinstance(answer := ask(model), Exception):
        assert "not asked again" in str(answer)

    assert answer == [{"prediction": True}]
    assert len(server.requests) == 2


def test_errors_of_items_do_not_open_the_circuit(server: ModelServer) -> None:
    model = remote(server, failures=1)
    server.failures = [400]
    assert "answered 400" in str(ask(model))

    assert ask(model) == [{"prediction": True}]


def test_an_answer_that_does_not_come_in_time_is_transient(server: ModelServer) -> None:
    model = remote(server, retries=0, timeout_seconds=0.05)
    server.gate.clear()

    error = ask(model)

    assert error.transient
    assert "Read timed out" in str(error)


def test_calls_do_not_wait_for_each_other(server: ModelServer) -> None:
    model = ServedModel(
        declare(
            ADAPTERS["remote"],
            concurrency=4,
            options={"url": server.url, "protocol": "v1", "model": "points", "model_version": "2"}
            | {"columns": COLUMNS, "rows": True, "connections": 4},
        )
    )
    model.load()
    server.gate.clear()
    threads = [threading.Thread(target=ask, args=[model]) for _ in range(4)]
    for thread in threads:
        thread.start()

    wait_until(lambda: len(server.requests) == 4, "all four calls are in the server at once")

    server.gate.set()
    for thread in threads:
        thread.join()


def test_the_token_comes_from_the_environment(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHERS_TOKEN", "s3cret")

    ask(remote(server, token_env="OTHERS_TOKEN"))

    assert server.requests[0][1]["Authorization"] == "Bearer s3cret"
    monkeypatch.delenv("OTHERS_TOKEN")
    assert "OTHERS_TOKEN, which is not in the environment" in str(
        remote(server, token_env="OTHERS_TOKEN").reason
    )


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"predictions": [True, False]}, "predict returned 2 predictions for 1 items"),
        ({"prediction": [True]}, "the other server's answer has no 'predictions'"),
        ({"predictions": "yes"}, "the other server's predictions are no list"),
        ([1], "the other server's answer has no 'predictions'"),
    ],
)
def test_an_answer_that_breaks_the_protocol_is_told(server: ModelServer, answer: Any, told: str) -> None:
    model = remote(server)
    server.answer = answer

    assert told in str(ask(model))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"protocol": "v3"}, "protocol is 'v3': write one of 'v2', 'v1', 'mlflow', 'json'"),
        ({"url": "ftp://x"}, "url 'ftp://x' is no http:// or https:// address"),
        ({"model": None}, "options name no model of the other server"),
        ({"columns": None}, "rows needs columns"),
        ({"columns": {"a": "float"}}, "columns names the kind 'float'"),
        (
            {"protocol": "v2", "columns": {"a": "any"}, "rows": False},
            'of kind "any", which protocol v2 has not',
        ),
    ],
)
def test_wrong_options_are_told(server: ModelServer, options: dict[str, Any], reason: str) -> None:
    model = remote(server, **options)

    assert model.state == "failed"
    assert reason in str(model.reason)


def test_a_v2_server_that_is_away_at_the_load_is_waited_for(server: ModelServer) -> None:
    server.close()

    model = remote(server, protocol="v2", model_version=None, columns=None, rows=False, retries=0)

    assert model.state == "loading"
    assert "/v2/models/points cannot be reached" in str(model.reason)


def test_v2_with_columns_needs_no_metadata(server: ModelServer) -> None:
    model = remote(server, protocol="v2", model_version=None, rows=False)
    server.answer = {"outputs": [{"name": "y", "datatype": "FP64", "shape": [1], "data": [3.5]}]}

    assert ask(model) == [{"y": 3.5}]
    [(path, _, body)] = server.requests
    assert path == "/v2/models/points/infer"
    assert body["inputs"][0] == {"name": "a", "datatype": "FP64", "shape": [1, 1], "data": [0.5]}
