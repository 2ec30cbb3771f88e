"""The least that a WSGI server can do: a callable, orjson in and out, no framework and no check of the items."""

import gc
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from benchmarks.online.classifier import load_all

PREDICT = {f"/{name}": predict for name, predict in load_all().items()}
gc.collect()
gc.freeze()  # as this project's workers do


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    texts = [item["text"] for item in orjson.loads(body)["data"]]
    labels = PREDICT[environ["PATH_INFO"]](texts)
    answer = orjson.dumps(
        {
            "prediction": [
                {"text": text, "sentiment": label} for text, label in zip(texts, labels, strict=True)
            ]
        }
    )
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))]
    start_response("200 OK", headers)
    return [answer]
