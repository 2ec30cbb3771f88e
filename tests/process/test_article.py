"""The transcript of the article that this project started from, by the real curl."""

import subprocess
from typing import Any

import orjson
import pytest

from tests.process.conftest import ROOT, Server
from tests.waiting import wait_until

ARTICLE_TOML = """
[[model]]
name = "article"
version = "1"
class = "app.models.article:Article"
options = { load_seconds = 0.2, predict_seconds = 2.0 }
"""
CONTENT_TYPES = [["-H", "Content-Type: application/json"], [], ["-H", "Content-Type:"]]
"""JSON as in the article; what curl sends by itself, which is a form's; and none at all."""
TEXTS = ["I love you", "I hate you", "The sky is blue"]
BODY = orjson.dumps({"data": [{"text": text} for text in TEXTS]}).decode()


class Curl:
    """curl, with a way to say of what type the body is."""

    def __init__(self, server: Server, options: list[str]) -> None:
        self.address = f"http://127.0.0.1:{server.port}"
        self.options = options

    def get(self, path: str) -> tuple[int, Any]:
        return self._run(self.address + path)

    def post(self, path: str, body: str) -> tuple[int, Any]:
        return self._run("-X", "POST", self.address + path, *self.options, "-d", body)

    def _run(self, *arguments: str) -> tuple[int, Any]:
        """The status, and the body as JSON."""
        command = ["curl", "-sS", "--max-time", "30", "-w", "\n%{http_code}", *arguments]
        answer = subprocess.run(command, capture_output=True, check=True, timeout=40)
        body, _, status = answer.stdout.rpartition(b"\n")
        return int(status), orjson.loads(body)


@pytest.mark.parametrize(
    ("models", "feelings", "content_types"),
    [
        (None, ["positive", "negative", "neutral"], CONTENT_TYPES),
        (ARTICLE_TOML, None, CONTENT_TYPES[:1]),
    ],
    ids=["default", "article"],
)
def test_the_transcript(
    sqlite_server: Server, models: str | None, feelings: list[str] | None, content_types: list[list[str]]
) -> None:
    path = ROOT / "models.toml" if models is None else sqlite_server.declare(models)
    sqlite_server.environment["TWOFOLD_MODELS_FILE"] = str(path)
    sqlite_server.start("-w", "1")

    for options in content_types:
        follow_the_transcript(Curl(sqlite_server, options), models is not None, feelings)
    assert sqlite_server.stop() == 0


def follow_the_transcript(curl: Curl, is_slow: bool, feelings: list[str] | None) -> None:
    check_prediction(curl.post("/prediction/online", BODY), feelings)

    status, uploaded = curl.post("/upload", BODY)
    assert (status, list(uploaded)) == (200, ["filename"])
    query = f"?filename={uploaded['filename']}"

    assert curl.get("/download" + query)[0] == 404
    assert curl.get("/prediction/batch" + query) == (200, {})
    if is_slow:  # predict takes longer than the next call
        assert curl.get("/download" + query)[0] == 404
    downloaded = wait_until(
        lambda: answer if (answer := curl.get("/download" + query))[0] != 404 else None, "the result"
    )
    check_prediction(downloaded, feelings)
    assert curl.get("/prediction/batch" + query)[0] == 404
    assert curl.get("/download" + query) == downloaded, "and again"

    for call in ("/prediction/batch", "/download"):
        assert curl.get(call + "?filename=unknown")[0] == 404
        assert curl.get(call + "?filename=01890a5d-ac96-774b-bcce-b302099a8057")[0] == 404


def check_prediction(answered: tuple[int, Any], feelings: list[str] | None) -> None:
    """One prediction for each text, in order: the feelings named, or any that the article's model knows."""
    status, answer = answered
    assert (status, list(answer)) == (200, ["prediction"])
    assert [list(item) for item in answer["prediction"]] == [["text", "sentiment"]] * len(TEXTS)
    assert [item["text"] for item in answer["prediction"]] == TEXTS
    found = [item["sentiment"] for item in answer["prediction"]]
    assert found == feelings if feelings else set(found) <= {"happy", "sad", "angry"}
