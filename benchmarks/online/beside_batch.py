"""Online latencies alone, beside a running batch, and while big streams pass through the same workers.

    make bench ARGS="online_beside_batch --rounds 3"

Each lane is served as it is deployed, with its runner. wrk measures its capacity with 16 connections; half of that
is then offered at a fixed pace (`open_loop`), in turn: alone; while the runner predicts with the pure-Python
sentiment model, which keeps one core busy; while 200 MB of NDJSON are uploaded; while the outputs of a job over
them are downloaded. The last two last as long as the stream does.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.databases import fresh
from benchmarks.online import jobs_client, load, open_loop, report
from benchmarks.online.options import parser, some_of
from benchmarks.online.scratch import PEER_VERSIONS, Scratch
from benchmarks.online.servers import SERVERS, Running, choose, running

N_CONNECTIONS = 16
WARM_UP_SECONDS, CAPACITY_SECONDS = 1, 3
N_BATCH_ITEMS = 500_000
"""More than the runner can predict while one condition is measured; the job is canceled then."""
CONDITIONS = ("alone", "batch", "upload", "download")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One lane under one condition in one round."""

    database: str
    server: str
    condition: str
    round: int
    offered_per_second: float
    seconds: float
    n_answered: int
    n_errors: int
    p50_us: int
    p99_us: int


class Lane:
    """A served lane, with the inputs and the job that the conditions need."""

    def __init__(self, server: Running, scratch: Scratch, model: str, stream_bytes: int) -> None:
        self._server, self._model = server, model
        self._port = server.port
        self._file = sentences(scratch.folder, stream_bytes)
        uploaded = jobs_client.upload(self._port, self._file)
        self._stream_input = uploaded["id"]
        self._job = jobs_client.enqueue(self._port, "nothing", self._stream_input)
        ended = jobs_client.wait(self._port, self._job)
        assert ended["counts"]["succeeded"] == uploaded["n_items"], ended
        batch = sentences(scratch.folder, 90 * N_BATCH_ITEMS)
        self._batch_input = jobs_client.upload(self._port, batch)["id"]
        bodies = [(scratch.folder / "bodies" / f"1_{number}.json").read_bytes() for number in range(16)]
        path = server.server.path.format(model=model)
        self._requests = [open_loop.request_of(path, body) for body in bodies]
        self.capacity = self._measure_capacity(scratch)

    def _measure_capacity(self, scratch: Scratch) -> float:
        for seconds in (WARM_UP_SECONDS, CAPACITY_SECONDS):
            seen = load.send(
                scratch,
                self._server.url(self._model),
                n_items=1,
                n_connections=N_CONNECTIONS,
                seconds=seconds,
            )
        return seen.requests_per_second

    def measure(self, condition: str, seconds: int) -> open_loop.Pace:
        """The pace at half of the capacity, for `seconds` or as long as the stream of the condition takes."""
        if condition in ("upload", "download"):
            what = str(self._file) if condition == "upload" else self._job
            process = jobs_client.stream(condition, self._port, what)
            pace = self._offer(lambda _: process.poll() is not None)
            answer = json.loads(process.communicate()[0])
            assert process.returncode == 0, f"the {condition} failed"
            if condition == "upload":
                jobs_client.call(self._port, "DELETE", f"/v1/inputs/{answer['id']}")
            return pace
        with self._batch() if condition == "batch" else nullcontext():
            return self._offer(lambda elapsed: elapsed >= seconds)

    @contextmanager
    def _batch(self) -> Iterator[None]:
        """A job of the sentiment model that runs all the while."""
        job_id = jobs_client.enqueue(self._port, "sentiment", self._batch_input)
        jobs_client.wait(self._port, job_id, until_running=True)
        yield
        job = jobs_client.call(self._port, "POST", f"/v1/jobs/{job_id}/cancel")
        assert job["counts"]["total"] != job["counts"]["succeeded"], "the batch ended before the load"
        jobs_client.wait(self._port, job_id)

    def _offer(self, is_over: Callable[[float], bool]) -> open_loop.Pace:
        return open_loop.send(
            self._port,
            self._requests,
            per_second=self.capacity / 2,
            n_connections=N_CONNECTIONS,
            is_over=is_over,
        )


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    scratch = Scratch(options.scratch)
    scratch.prepare_online()
    measured: list[Row] = []
    for kind in options.databases:
        for server in choose(options.servers):
            with fresh(kind) as url:
                variables = {
                    "DATABASE_URL": url.render_as_string(hide_password=False),
                    "TWOFOLD_RUNNER": "embedded",
                }
                with running([server], scratch, ["nothing", "tfidf"], variables) as (started,):
                    print(f"{server.name} on {kind}", flush=True)
                    lane = Lane(started, scratch, options.model, options.megabytes * 1_000_000)
                    for number in range(options.rounds):
                        turn = number % len(CONDITIONS)
                        for condition in CONDITIONS[turn:] + CONDITIONS[:turn]:
                            pace = lane.measure(condition, options.seconds)
                            measured.append(
                                Row(
                                    database=kind,
                                    server=server.name,
                                    condition=condition,
                                    round=number,
                                    **asdict(pace),
                                )
                            )
    title = f"Online beside a batch: {options.model}, N=1, {N_CONNECTIONS} connections, half of capacity"
    lines = report.heading(title, "online_beside_batch", arguments, scratch.versions(peers=PEER_VERSIONS))
    folder = options.results or scratch.folder / "results"
    report.publish(folder, "online_beside_batch", [*lines, *_table(measured)], measured)


def _table(rows: list[Row]) -> list[str]:
    body = []
    for kind, name in dict.fromkeys((row.database, row.server) for row in rows):
        for condition in CONDITIONS:
            own = [r for r in rows if (r.database, r.server, r.condition) == (kind, name, condition)]
            alone = {r.round: r for r in rows if (r.database, r.server, r.condition) == (kind, name, "alone")}
            body.append(
                [
                    kind,
                    name,
                    condition,
                    f"{report.median(row.offered_per_second for row in own):,.0f}",
                    f"{report.median(row.n_answered / row.seconds for row in own):,.0f}",
                    f"{report.median(row.p50_us for row in own) / 1000:.2f}",
                    f"{report.median(row.p99_us for row in own) / 1000:.2f}",
                    f"{report.median(row.p99_us / alone[row.round].p99_us for row in own):.2f}",
                    f"{report.median(row.seconds for row in own):.1f}",
                    str(sum(row.n_errors for row in own)),
                ]
            )
    columns = ["database", "server", "beside", "offered/s", "answered/s", "p50 ms", "p99 ms"]
    return report.table([*columns, "p99 × alone", "seconds", "errors"], body)


def sentences(folder: Path, n_bytes: int) -> Path:
    """A file of so many bytes, or a little more, of items as the request bodies have them."""
    path = folder / f"sentences_{n_bytes}.ndjson"
    if not path.exists():
        texts = json.loads((folder / "bodies" / "100_0.json").read_text())["data"]
        lines = b"".join(json.dumps(item).encode() + b"\n" for item in texts)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            while file.tell() < n_bytes:
                file.write(lines)
        partial.rename(path)
    return path


def _options(arguments: list[str]) -> argparse.Namespace:
    lanes = [name for name, server in SERVERS.items() if server.is_ours]
    made = parser("online_beside_batch", rounds=3, seconds=10)
    made.add_argument("--servers", type=some_of(lanes), default=lanes, help="a,b")
    made.add_argument("--model", choices=("nothing", "tfidf"), default="tfidf", help="that is asked online")
    made.add_argument("--databases", type=some_of(["sqlite", "postgres"]), default=["sqlite"], help="a,b")
    made.add_argument("--megabytes", type=int, default=200, help="of the streams")
    return made.parse_args(arguments)
