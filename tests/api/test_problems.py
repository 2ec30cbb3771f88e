"""Errors of any origin are problem documents, and every answer carries the id of its request."""

import pytest
from flask import Flask, abort
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.api.services import services
from app.errors import NotFound
from tests.api.conftest import Client, MakeApp, client_of, on_both_lanes, refused


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """The app, and views that go wrong."""
    app = make_app()

    @app.get("/bug")
    def bug() -> str:
        raise LookupError("the secret is 42")

    @app.get("/sql")
    def sql() -> str:
        with services().database.reading() as session:
            session.execute(text("SELECT secret FROM nowhere_to_be_found"))
        return ""

    @app.get("/teapot")
    def teapot() -> str:
        abort(418)

    @app.get("/names/<name>")
    def names(name: str) -> str:
        raise NotFound(f"nothing is called {name} here, nor \udcff")

    return app


@on_both_lanes
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_bug_is_a_500_that_leaks_nothing_but_is_in_the_log(
    capsys: pytest.CaptureFixture[str], app: Flask
) -> None:
    response = client_of(app).get("/bug", headers={"X-Request-ID": "find-me"})

    problem = refused(response, 500, "unexpected error", "request_id")
    assert problem == {
        "type": "urn:twofold:problem:internal-error",
        "title": "Internal error",
        "status": 500,
        "detail": problem["detail"],
        "instance": "/bug",
        "request_id": "find-me",
    }
    for word in ("Traceback", "LookupError", "secret", ".py"):
        assert word not in response.text
    assert "the secret is 42" in capsys.readouterr().err


def test_a_broken_statement_shows_no_sql(client: Client) -> None:
    response = client.get("/sql")

    assert response.status_code >= 500
    refused(response, response.status_code)
    for word in ("SELECT", "nowhere", SQLAlchemyError.__name__, "psycopg", "sqlite"):
        assert word not in response.text


@on_both_lanes
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_errors_of_the_framework_are_problems_too(client: Client) -> None:
    refused(client.get("/nowhere"), 404, "/nowhere", "/openapi.json")
    wrong_method = client.delete("/v1/jobs")
    refused(wrong_method, 405)
    assert wrong_method.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    refused(client.get("/teapot"), 400)


@on_both_lanes
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_any_text_can_be_told(client: Client) -> None:
    response = client.get("/names/%00%ed%a0%80%F0%9F%98%80%22%3Cb%3E")

    problem = refused(response, 404, '\0���😀"<b>', "nor \\udcff")
    assert problem["instance"].startswith("/names/")


@on_both_lanes
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("path", ["/livez", "/v1/jobs", "/nowhere", "/bug", "/openapi.json"])
def test_a_usable_request_id_is_echoed(path: str, client: Client) -> None:
    given = "trace/7!~" * 14

    assert client.get(path, headers={"X-Request-ID": given}).headers.getlist("X-Request-ID") == [given]


@on_both_lanes
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "é", "a\tb"])
def test_else_a_request_id_is_made(given: str | None, client: Client) -> None:
    headers = {} if given is None else {"X-Request-ID": given}

    made = [client.get("/livez", headers=headers).headers["X-Request-ID"] for _ in range(2)]

    assert len(set(made)) == 2
    assert all(len(request_id) == 36 for request_id in made)
