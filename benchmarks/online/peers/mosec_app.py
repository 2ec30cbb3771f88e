"""mosec: its Rust front end, and two processes for each model. BENCH_BATCHING=1: up to 64 requests a batch, 5 ms."""

import os
from typing import Any

import orjson
from mosec import Runtime, Server, Worker

from benchmarks.online.classifier import load_all

N_WORKERS = 2
BATCHING: dict[str, int] = (
    {"max_batch_size": 64, "max_wait_time": 5} if os.environ["BENCH_BATCHING"] == "1" else {}
)
Request = tuple[list[str], list[str]]


class Single(Worker):
    name = ""

    def __init__(self) -> None:
        super().__init__()
        self.predict = load_all()[self.name]

    def deserialize(self, body: bytes) -> list[str]:
        return [item["text"] for item in orjson.loads(body)["data"]]

    def forward(self, texts: Any) -> Any:
        return texts, self.predict(texts)

    def serialize(self, answer: Request) -> bytes:
        return orjson.dumps(
            {"prediction": [{"text": text, "sentiment": label} for text, label in zip(*answer, strict=True)]}
        )


class Batched(Single):
    def forward(self, requests: Any) -> Any:
        labels = iter(self.predict([text for texts in requests for text in texts]))
        return [(texts, [next(labels) for _ in texts]) for texts in requests]


class Nothing(Batched if BATCHING else Single):  # type: ignore[misc]  # chosen when it is started
    name = "nothing"


class TfIdf(Batched if BATCHING else Single):  # type: ignore[misc]  # chosen when it is started
    name = "tfidf"


if __name__ == "__main__":
    server = Server()
    server.register_runtime(
        {f"/{worker.name}": [Runtime(worker, num=N_WORKERS, **BATCHING)] for worker in (Nothing, TfIdf)}
    )
    server.run()
