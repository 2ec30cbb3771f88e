"""The least that an ASGI server can do: a callable that predicts on the event loop, one request at a time."""

import gc
from typing import Any

import orjson

from benchmarks.online.classifier import load_all

PREDICT = {f"/{name}": predict for name, predict in load_all().items()}
gc.collect()
gc.freeze()  # as this project's workers do


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (event := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{event['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body, is_more = b"", True
    while is_more:
        event = await receive()
        body += event.get("body", b"")
        is_more = event.get("more_body", False)
    texts = [item["text"] for item in orjson.loads(body)["data"]]
    labels = PREDICT[scope["path"]](texts)
    answer = orjson.dumps(
        {
            "prediction": [
                {"text": text, "sentiment": label} for text, label in zip(texts, labels, strict=True)
            ]
        }
    )
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
