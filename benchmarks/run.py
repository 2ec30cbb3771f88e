"""Runs a benchmark by name, or all: `make bench`, `make bench ARGS="main_job --items 20000"`."""

import importlib
import platform
import sys
from importlib.metadata import version

BENCHMARKS = {
    "data_formats": "data_formats",
    "pipe": "pipe",
    "memory": "memory",
    "stores": "stores",
    "main_job": "main_job",
    "result_cache": "result_cache",
    "queue_rate": "queue_rate",
    "claim_flat": "claim_flat",
    "swap": "swap",
    "preload": "preload",
    "bulk": "bulk.compare",
    "online": "online.compare",
    "online_beside_batch": "online.beside_batch",
    "online_overhead": "online.overhead",
}
"""Names, and where each has its `main(arguments)`."""


def main(arguments: list[str]) -> None:
    names = [arguments[0]] if arguments else list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        sys.exit(f"there is no benchmark {', '.join(unknown)}: there are {', '.join(BENCHMARKS)}")
    libraries = " ".join(
        f"{name} {version(name)}" for name in ("sqlalchemy", "orjson", "marshmallow", "gunicorn")
    )
    print(f"{platform.platform()}, Python {platform.python_version()}, {libraries}\n")
    for name in names:
        print(f"== {name}", flush=True)
        importlib.import_module(f"benchmarks.{BENCHMARKS[name]}").main(arguments[1:])


if __name__ == "__main__":
    sys.path.insert(0, ".")
    main(sys.argv[1:])
