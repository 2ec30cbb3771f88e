"""Answers on stdout: tables for people, JSON for machines."""

import io
from collections.abc import Mapping, Sequence
from datetime import datetime

import click
import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from app.columns import written

PLAIN_WIDTH = 100_000
"""Where there is no terminal there is no margin: a line of a table is never broken."""


def print_json(value: object) -> None:
    """Prints `value` as JSON; times as RFC 3339 with Z."""
    click.echo(orjson.dumps(value, option=orjson.OPT_UTC_Z | orjson.OPT_INDENT_2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows under their columns' names; a column of whole numbers is aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        is_number = bool(rows) and all(type(row[place]) is int for row in rows)
        is_short = all(" " not in _cell(row[place]) for row in rows)
        table.add_column(name, justify="right" if is_number else "left", no_wrap=is_short, overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    _print(table)


def print_facts(facts: Mapping[str, object]) -> None:
    """Prints a name and its value per line; without those that have none."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None:
            table.add_row(name, _cell(value))
    _print(table)


def _print(table: Table) -> None:
    """For a terminal as rich draws it; else as plain aligned text, which grep and awk can read."""
    # Markup, emoji and highlighting are off: messages of users' models are text, whatever brackets they hold.
    console = Console(markup=False, emoji=False, highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    table.box = None
    plain = Console(
        markup=False,
        emoji=False,
        highlight=False,
        file=io.StringIO(),
        width=PLAIN_WIDTH,
        force_terminal=False,
        color_system=None,
    )
    with plain.capture() as capture:
        plain.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


def _cell(value: object) -> str:
    """The value as one line, without what could steer a terminal."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else ""
        case datetime():
            return written(value)
        case _:
            words = " ".join(str(value).split())
            return "".join(
                letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in words
            )
