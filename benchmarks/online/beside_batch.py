"""Online latencies alone, beside a running batch, and while big streams pass through the same workers.

    make bench ARGS="online_beside_batch"

Each lane is served as it is deployed, with its runner. Requests fall due at a fixed pace (`open_loop`), over 16
connections. A short search finds the highest pace that the lane keeps up with; half of that is then offered
while the runner predicts with the pure-Python sentiment model, which keeps one core busy; while 200 MB of NDJSON
are uploaded; while the outputs of a job over them are downloaded. The last two last as long as the stream does.

A machine's speed can change within seconds. So each of these has a time alone of its own, right before it or, in
every second round, right after it. "× alone" is the median of the rounds' own ratios.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from benchmarks.databases import fresh
from benchmarks.online import jobs_client, open_loop, report
from benchmarks.online.options import parser, some_of
from benchmarks.online.scratch import Scratch
from benchmarks.online.servers import SERVERS, Running, choose, running

N_CONNECTIONS = 16
SEARCH_SECONDS = 1
N_BATCH_ITEMS = 500_000
"""More than the runner can predict while one condition is measured; the job is canceled then."""
ALONE = "alone"
CONDITIONS = ("batch", "upload", "download")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One lane in one round under a condition, or alone beside that."""

    database: str
    server: str
    pair: str
    """The condition that this is, or is compared with."""
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
        self.capacity = open_loop.capacity(self._is_kept)

    def _is_kept(self, per_second: float) -> bool:
        return self._offer(per_second, lambda elapsed: elapsed >= SEARCH_SECONDS).is_kept

    def measure(self, condition: str, seconds: int) -> open_loop.Pace:
        """The pace at half of the capacity, for `seconds` or as long as the stream of the condition takes."""
        if condition in ("upload", "download"):
            what = str(self._file) if condition == "upload" else self._job
            process = jobs_client.stream(condition, self._port, what)
            pace = self._offer(self.capacity / 2, lambda _: process.poll() is not None)
            answer = json.loads(process.communicate()[0])
            assert process.returncode == 0, f"the {condition} failed"
            if condition == "upload":
                jobs_client.call(self._port, "DELETE", f"/v1/inputs/{answer['id']}")
            return pace
        with self._batch() if condition == "batch" else nullcontext():
            return self._offer(self.capacity / 2, lambda elapsed: elapsed >= seconds)

    @contextmanager
    def _batch(self) -> Iterator[None]:
        """A job of the sentiment model that runs all the while."""
        job_id = jobs_client.enqueue(self._port, "sentiment", self._batch_input)
        jobs_client.wait(self._port, job_id, until_running=True)
        yield
        job = jobs_client.call(self._port, "POST", f"/v1/jobs/{job_id}/cancel")
        assert job["counts"]["total"] != job["counts"]["succeeded"], "the batch ended before the load"
        jobs_client.wait(self._port, job_id)

    def _offer(self, per_second: float, is_over: Callable[[float], bool]) -> open_loop.Pace:
        return open_loop.send(
            self._port,
            self._requests,
            per_second=per_second,
            n_connections=N_CONNECTIONS,
            is_over=is_over,
        )


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    scratch = Scratch(options.scratch)
    scratch.prepare()
    measured: list[Row] = []
    for kind, server in product(options.databases, choose(options.servers)):
        with fresh(kind) as url:
            variables = {
                "DATABASE_URL": url.render_as_string(hide_password=False),
                "TWOFOLD_RUNNER": "embedded",
            }
            with running([server], scratch, ["nothing", "tfidf"], variables) as (started,):
                lane = Lane(started, scratch, options.model, options.megabytes * 1_000_000)
                print(f"{server.name} on {kind} keeps up with {lane.capacity:,.0f} requests/s", flush=True)
                for number, pair, condition in _turns(options.rounds):
                    pace = lane.measure(condition, options.seconds)
                    measured.append(
                        Row(
                            database=kind,
                            server=server.name,
                            pair=pair,
                            condition=condition,
                            round=number,
                            **asdict(pace),
                        )
                    )
    title = f"Online beside a batch: {options.model}, N=1, {N_CONNECTIONS} connections, half of capacity"
    lines = report.heading(title, "online_beside_batch", arguments, scratch.versions())
    lines += [f"Medians of {options.rounds} rounds; offered/s is half of what the lane keeps up with.", ""]
    folder = options.results or scratch.folder / "results"
    report.publish(folder, "online_beside_batch", [*lines, *_table(measured)], measured)


def _turns(n_rounds: int) -> Iterator[tuple[int, str, str]]:
    """Numbers of rounds, and in each round all pairs, with the two conditions of each in turning order."""
    for number in range(n_rounds):
        first = number % len(CONDITIONS)
        for pair in CONDITIONS[first:] + CONDITIONS[:first]:
            for condition in (pair, ALONE) if number % 2 else (ALONE, pair):
                yield number, pair, condition


def _table(rows: list[Row]) -> list[str]:
    body = []
    for kind, name in dict.fromkeys((row.database, row.server) for row in rows):
        of_lane = [row for row in rows if (row.database, row.server) == (kind, name)]
        alone = {(row.pair, row.round): row for row in of_lane if row.condition == ALONE}
        for condition in (ALONE, *CONDITIONS):
            own = [row for row in of_lane if row.condition == condition]
            pairs = [(row, alone[row.pair, row.round]) for row in own]
            body.append(
                [
                    kind,
                    name,
                    condition,
                    f"{report.median(row.offered_per_second for row in own):,.0f}",
                    f"{report.median(row.n_answered / row.seconds for row in own):,.0f}",
                    f"{report.median(row.p50_us for row in own) / 1000:.2f}",
                    f"{report.median(row.p99_us for row in own) / 1000:.2f}",
                    f"{report.median(row.p50_us / other.p50_us for row, other in pairs):.2f}",
                    f"{report.median(row.p99_us / other.p99_us for row, other in pairs):.2f}",
                    f"{report.median(row.seconds for row in own):.1f}",
                    str(sum(row.n_errors for row in own)),
                ]
            )
    columns = ["database", "server", "beside", "offered/s", "answered/s", "p50 ms", "p99 ms"]
    return report.table([*columns, "p50 × alone", "p99 × alone", "seconds", "errors"], body)


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
    made = parser("online_beside_batch", rounds=5, seconds=3)
    made.add_argument("--servers", type=some_of(lanes), default=lanes, help="a,b")
    made.add_argument("--model", choices=("nothing", "tfidf"), default="tfidf", help="that is asked online")
    made.add_argument("--databases", type=some_of(["sqlite", "postgres"]), default=["sqlite"], help="a,b")
    made.add_argument("--megabytes", type=int, default=200, help="of the streams")
    return made.parse_args(arguments)
