"""`twofold models`: what `models.toml` declares. Nothing is imported or loaded for it."""

from dataclasses import asdict

import click
import orjson

from app.cli.printing import print_json, print_table
from app.config import load_settings
from app.models.declarations import Declaration, read_declarations


@click.group()
def models() -> None:
    """Look at the models."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(as_json: bool) -> None:
    """List the models as declared; whether they load, a start of the service tells."""
    described = [_described(declaration) for declaration in read_declarations(load_settings().models_file)]
    if as_json:
        print_json(described)
        return
    columns = ["name", "version", "default", "class", "artifact", "options", "concurrency"]
    options = [orjson.dumps(model["options"]).decode() if model["options"] else None for model in described]
    rows = [model | {"options": text} for model, text in zip(described, options, strict=True)]
    print_table(columns, [[row[column] for column in columns] for row in rows])


def _described(declaration: Declaration) -> dict[str, object]:
    """A declaration under the keys of `models.toml`."""
    written = asdict(declaration)
    written["class"] = written.pop("class_path")
    return written
