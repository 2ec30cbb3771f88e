"""Measurements as tables: medians of figures, and medians of the ratios of figures taken close in time."""

import json
import math
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OURS = ("fast-lane", "wsgi-lane")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One server under one load in one slice: its turn among the servers, in one round."""

    server: str
    model: str
    n_items: int
    n_connections: int
    round: int
    turn: int
    requests_per_second: float
    p50_us: int
    p99_us: int
    n_errors: int


@dataclass(frozen=True)
class Target:
    """What a lane is to reach: a figure over a peer's, at least or at most so much."""

    lane: str
    model: str
    n_items: int
    n_connections: int
    figure: str  # of a Row
    peer: str
    at_least: float | None = None
    at_most: float | None = None


SPEED, TAIL = "requests_per_second", "p99_us"
TARGETS = (
    Target("fast-lane", "nothing", 1, 64, SPEED, "mosec", at_least=1.5),
    Target("fast-lane", "nothing", 1, 64, SPEED, "fastapi", at_least=2.5),
    Target("fast-lane", "nothing", 100, 64, SPEED, "mosec", at_least=1.3),
    Target("fast-lane", "tfidf", 1, 64, SPEED, "mosec-batching", at_least=1.1),
    Target("fast-lane", "tfidf", 100, 64, SPEED, "mosec-batching", at_least=1.1),
    Target("fast-lane", "tfidf", 1, 64, TAIL, "mosec-batching", at_most=1.0),
    Target("fast-lane", "tfidf", 1, 16, TAIL, "mosec-batching", at_most=1.0),
    Target("wsgi-lane", "nothing", 1, 64, SPEED, "bare-wsgi", at_least=0.65),
    Target("wsgi-lane", "nothing", 100, 64, SPEED, "bare-wsgi", at_least=0.8),
    Target("wsgi-lane", "nothing", 100, 64, SPEED, "fastapi", at_least=1.2),
    Target("wsgi-lane", "tfidf", 1, 64, SPEED, "fastapi", at_least=2.0),
    Target("wsgi-lane", "tfidf", 100, 64, SPEED, "fastapi", at_least=1.5),
    Target("wsgi-lane", "tfidf", 1, 64, TAIL, "fastapi", at_most=1.0),
)
"""At 64 connections where nothing else is said; `tfidf` is the scikit-learn model."""


def heading(title: str, name: str, arguments: Sequence[str], versions: Mapping[str, str]) -> list[str]:
    """Title, the command that made it, the machine and what else it did, and versions."""
    command = " ".join([name, *arguments])
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    load = f"load average {os.getloadavg()[1]:.1f} over the last five minutes"
    machine = f"{platform.platform()}, {os.cpu_count()} cores ({_processor()}), {load}"
    return [f"# {title}", "", f'`make bench ARGS="{command}"` on {machine}.', "", f"{listed}.", ""]


def tables(rows: Sequence[Row], servers: Sequence[str], slice_seconds: float) -> list[str]:
    """One table of all cases and servers, and one of the targets that could be judged."""
    by_case: dict[tuple[str, int, int], list[Row]] = {}
    for row in rows:
        by_case.setdefault((row.model, row.n_items, row.n_connections), []).append(row)
    n_rounds, n_turns = (len({getattr(row, name) for row in rows}) for name in ("round", "turn"))
    peers = [name for name in servers if name not in OURS]
    body = []
    for (model, n_items, n_connections), of_case in by_case.items():
        for name in servers:
            own = [row for row in of_case if row.server == name]
            ratios = [ratio(of_case, name, peer, SPEED) for peer in peers]
            body.append(
                [
                    model,
                    str(n_items),
                    str(n_connections),
                    f"**{name}**" if name in OURS else name,
                    f"{median(row.requests_per_second for row in own):,.0f}",
                    f"{median(row.p50_us for row in own) / 1000:.2f}",
                    f"{median(row.p99_us for row in own) / 1000:.2f}",
                    *(f"{value:.2f}" for value in ratios),
                    str(sum(row.n_errors for row in own)),
                ]
            )
    columns = ["model", "N", "conns", "server", "requests/s", "p50 ms", "p99 ms"]
    columns += [f"× {peer}" for peer in peers] + ["errors"]
    of_what = f"Medians of {n_rounds} rounds of {n_turns} slices of {slice_seconds:g} s each"
    lines = [f"{of_what}; × is requests/s over that server's in the same turn.", ""]
    return lines + table(columns, body) + _judged(by_case)


def _judged(by_case: Mapping[tuple[str, int, int], Sequence[Row]]) -> list[str]:
    body = []
    for target in TARGETS:
        of_case = by_case.get((target.model, target.n_items, target.n_connections), ())
        if not {target.lane, target.peer} <= {row.server for row in of_case}:
            continue
        found = ratio(of_case, target.lane, target.peer, target.figure)
        if target.at_least is not None:
            asked, is_met = f"≥ {target.at_least}", found >= target.at_least
        else:
            assert target.at_most is not None
            asked, is_met = f"≤ {target.at_most}", found <= target.at_most
        case = f"{target.model}, N={target.n_items}, {target.n_connections} connections"
        figure = "requests/s" if target.figure == SPEED else "p99"
        verdict = "yes" if is_met else "**no**"
        body.append([target.lane, case, f"{figure} over {target.peer}", asked, f"{found:.2f}", verdict])
    return ["", *table(["lane", "case", "ratio", "target", "found", "met"], body)] if body else []


def ratio(rows: Sequence[Row], name: str, peer: str, figure: str) -> float:
    """The median over all turns of one server's figure over the other's in the same turn."""
    own, others = (
        {(row.round, row.turn): float(getattr(row, figure)) for row in rows if row.server == server}
        for server in (name, peer)
    )
    return median(own[turn] / others[turn] if others[turn] else math.inf for turn in own)


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def table(columns: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """A markdown table; what looks like a number stands at the right."""

    def is_number(cell: str) -> bool:
        return cell[:1].isdigit()

    rules = ["---:" if body and is_number(body[0][place]) else "---" for place in range(len(columns))]
    return [f"| {' | '.join(cells)} |" for cells in (columns, rules, *body)]


def publish(folder: Path, name: str, lines: Sequence[str], rows: Sequence[Any]) -> None:
    """Prints a report, and writes it and the measurements (dataclasses) that it is made of."""
    text = "\n".join(lines) + "\n"
    print(f"\n{text}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text)
    (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(asdict(row))}\n" for row in rows))
    print(f"Written: {folder / name}.md and .jsonl")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")
