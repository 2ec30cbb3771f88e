"""A million items through TF-IDF and a logistic regression: this project the whole way, and other ways.

    make bench ARGS="bulk"
    make bench ARGS="bulk --items 100000 --rounds 1 --ways bare,csv,sqlite-1"

`bare` is the model alone on items in memory, a chunk of 1,000 in each call; `bare-4000` in calls of 4,000, as a runner
makes of four chunks of a quick model. `csv` reads a CSV file, predicts and writes one, as the article does.
`ray-1` and `ray-2` are Ray Data from CSV to CSV with so many actors. `sqlite-1` to `postgres-2` are this project with
one and two runners and threads, `sqlite-process-1` to `postgres-process-2` with one child process in each runner,
`sqlite-cores-1` and `postgres-cores-1` with one runner that has a child process for each core, as
`TWOFOLD_EXECUTOR=process` has by itself,
`sqlite-dask-2` with one runner and a Dask cluster of two workers. All run in turn in each round,
and every label must be the same whichever way it came. A ratio is the median of the rounds' own ratios. The run is the
job's own time, from its first claim to its end. Cores change their speed within a minute: a way's run is held against
the round's `bare`, and against the model alone just before it and just after it, on a quarter of the items.
"""

import argparse
import json
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bulk import CHUNK_ITEMS, service
from benchmarks.databases import fresh
from benchmarks.online import report
from benchmarks.online.options import parser, some_of
from benchmarks.online.scratch import HERE, ROOT, Scratch

BULK = Path(__file__).parent
OTHERS = ("bare", "bare-4000", "csv", "ray-1", "ray-2")
OURS = (
    *(
        f"{kind}-{number}"
        for kind in ("sqlite", "sqlite-process", "postgres", "postgres-process")
        for number in (1, 2)
    ),
    "sqlite-cores-1",
    "postgres-cores-1",
    "sqlite-dask-2",
)
VARIABLES = {
    "process": {"TWOFOLD_EXECUTOR": "process", "TWOFOLD_RUNNER_THREADS": "1"},
    "cores": {"TWOFOLD_EXECUTOR": "process"},
}
ENVIRONMENTS = {"bare": "service", "csv": "ray", "ray": "ray"}
NEIGHBOUR_SHARE = 4
"""Of so many items, one is for the model alone before and after a way."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way in one round, in seconds. Other ways have a run alone. `bare` is what the model alone took beside it."""

    way: str
    round: int
    n_items: int
    bare: float
    upload: float
    run: float
    download: float

    @property
    def whole(self) -> float:
        return self.upload + self.run + self.download


def main(arguments: list[str]) -> None:
    options = _options(arguments)
    scratch = Scratch(options.scratch)
    scratch.prepare()
    scratch.make_environment("ray", (BULK / "ray.txt", HERE / "models.txt"))
    folder = scratch.folder / f"bulk_{options.items}"
    if not (folder / "items.csv").exists():
        folder.mkdir(exist_ok=True)
        _other_way(scratch, "service", "make", folder, str(options.items))
    measured: list[Row] = []
    digests: dict[str, str] = {}
    for number in range(options.rounds):
        before = _bare(scratch, folder, options.items)
        for way in options.ways:
            found = _measure(scratch, way, folder)
            after = _bare(scratch, folder, options.items)
            assert found["n_items"] == options.items, (way, found)
            if found["digest"] is not None:
                digests[way] = found["digest"]
                assert len(set(digests.values())) == 1, f"{way} has other labels than {', '.join(digests)}"
            row = Row(
                way=way,
                round=number,
                n_items=options.items,
                bare=(before + after) / 2,
                upload=found.get("upload", 0.0),
                run=found["run"] if "run" in found else found["seconds"],
                download=found.get("download", 0.0),
            )
            measured.append(row)
            before = after
            print(
                f"round {number + 1}: {way:18s} {row.run:8.2f} s run, {row.run / row.bare:.2f} times bare, "
                f"{row.whole:8.2f} s in all",
                flush=True,
            )
    title = f"{options.items:,} items through TF-IDF and logistic regression"
    lines = report.heading(title, "bulk", arguments, scratch.versions(ray=("ray", "pandas", "pyarrow")))
    report.publish(
        options.results or scratch.folder / "results", "bulk", [*lines, *_table(measured)], measured
    )


def _measure(scratch: Scratch, way: str, folder: Path) -> dict[str, Any]:
    if way in OTHERS:
        name, _, number = way.partition("-")
        return _other_way(scratch, ENVIRONMENTS[name], name, folder, *filter(None, [number]))
    kind, *executor, number = way.split("-")
    with fresh(kind) as url, ExitStack() as stack:
        variables = VARIABLES.get("".join(executor), {})
        n_runners = int(number)
        if executor == ["dask"]:
            variables = {"TWOFOLD_EXECUTOR": stack.enter_context(service.dask_cluster(scratch, n_runners))}
            n_runners = 1
        return service.whole_way(scratch, url, folder / "items.ndjson", n_runners, variables)


def _bare(scratch: Scratch, folder: Path, n_items: int) -> float:
    """Seconds that the model alone takes at the moment, were it for so many items."""
    n_some = max(1, n_items // NEIGHBOUR_SHARE)
    found = _other_way(scratch, ENVIRONMENTS["bare"], "bare", folder, str(CHUNK_ITEMS), str(n_some))
    seconds: float = found["seconds"] * n_items / found["n_items"]
    return seconds


def _other_way(scratch: Scratch, environment: str, *command: "str | Path") -> dict[str, Any]:
    python = scratch.bin(environment, "python")
    run = subprocess.run(
        [python, "-m", "benchmarks.bulk.ways", *map(str, command)],
        env=scratch.environment() | {"RAY_USAGE_STATS_ENABLED": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise SystemExit(f"{command} failed:\n{run.stderr[-3000:]}")
    told: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return told


def _table(rows: list[Row]) -> list[str]:
    body = []
    ways = list(dict.fromkeys(row.way for row in rows))
    for way in ways:
        own = {row.round: row for row in rows if row.way == way}
        ratios = [f"{report.median(row.run / row.bare for row in own.values()):.2f}"]
        for other, figure in (("bare", "run"), ("csv", "whole"), ("ray-1", "whole")):
            base = {row.round: row for row in rows if row.way == other}
            pairs = [getattr(own[n], figure) / getattr(base[n], figure) for n in own if n in base]
            ratios.append(f"{report.median(pairs):.2f}" if pairs else "–")
        single = {row.round: row for row in rows if row.way == f"{way[:-1]}1"}
        gains = [single[n].run / own[n].run for n in own if way.endswith("-2") and n in single]
        seconds = [report.median(getattr(row, name) for row in own.values()) for name in FIGURES]
        n_items = rows[0].n_items
        body.append(
            [
                f"**{way}**" if way in OURS else way,
                *(f"{value:.2f}" for value in seconds),
                f"{n_items / seconds[1]:,.0f}",
                *ratios,
                f"{report.median(gains):.2f}" if gains else "–",
            ]
        )
    columns = ["way", "upload s", "run s", "download s", "whole s", "run items/s"]
    columns += ["run ÷ bare beside it", "run ÷ bare", "whole ÷ csv", "whole ÷ ray-1", "speed of 2 ÷ of 1"]
    return [f"Medians of {len({row.round for row in rows})} rounds.", "", *report.table(columns, body)]


FIGURES = ("upload", "run", "download", "whole")


def _options(arguments: list[str]) -> argparse.Namespace:
    made = parser("bulk", rounds=5)
    ways = [*OTHERS, *OURS]
    made.add_argument("--items", type=int, default=1_000_000)
    made.add_argument("--ways", type=some_of(ways), default=ways, help="a,b,c")
    return made.parse_args(arguments)
