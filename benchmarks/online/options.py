"""Options that the online and the bulk benchmarks share."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path


def parser(name: str, *, rounds: int, seconds: int | None = None) -> argparse.ArgumentParser:
    """A parser with what every one of them understands; the defaults of some are its own."""
    made = argparse.ArgumentParser(prog=name)
    made.add_argument("--rounds", type=int, default=rounds)
    if seconds is not None:
        made.add_argument("--seconds", type=int, default=seconds, help="of each measurement")
    made.add_argument("--scratch", type=Path, help="folder for environments, model and logs; used again")
    made.add_argument("--results", type=Path, help="folder for the table and the JSON lines")
    return made


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """An argument type: some of the known names, with commas between them."""
    names = list(known)

    def split(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in names]:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}: there are {', '.join(names)}")
        return chosen

    return split


def numbers(text: str) -> list[int]:
    """An argument type: whole numbers, with commas between them."""
    return [int(number) for number in text.split(",")]
