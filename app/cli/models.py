"""`twofold models`: what is declared and which version is the default, reloads, and checks of the contract."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import click
import orjson

from app.cli.check import Report, check
from app.cli.database import connected
from app.cli.examples import example_items
from app.cli.options import json_option
from app.cli.printing import print_facts, print_json, print_table
from app.config import Settings, load_settings
from app.data import Limits, format_of_content_type, read_items
from app.data.chunks import unpack
from app.data.exact import loads
from app.errors import ConfigurationError, Unavailable
from app.log import configure_logging
from app.models import JsonObject
from app.models.declarations import Declaration, read_declarations
from app.models.served import ServedModel
from app.versions.events import Promotion, promotions, tell_reload
from app.versions.serving import promoted, with_trained
from app.versions.trained import served_versions

N_EXAMPLES = 32
MAX_ITEMS = 1024
MEDIA_TYPES = {
    ".json": "application/json",
    ".ndjson": "application/x-ndjson",
    ".jsonl": "application/x-ndjson",
    ".csv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
}
"""Of files of items, by the end of their names."""


@click.group()
def models() -> None:
    """Look at the models, and reload them."""


@models.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List the models as declared; whether they load, a start of the service tells.

    If the database answers: trained versions that are served too, and which version is the default by a promotion.
    """
    settings = load_settings()
    declared = read_declarations(settings.models_file)
    by_promotion: Mapping[str, Promotion] = {}
    try:
        with connected() as database:
            database.require_current_schema()
            with database.reading() as session:
                by_promotion = promotions(session)
                declared = with_trained(declared, served_versions(session), settings.artifact_cache)
    except Unavailable as error:
        click.echo(f"promotions are not shown: {error.detail}", err=True)
    described = [_described(each, by_promotion) for each in promoted(declared, by_promotion)]
    if as_json:
        print_json(described)
        return
    columns = ["name", "version", "default", "promoted_at", "class", "artifact", "options", "concurrency"]
    options = [orjson.dumps(model["options"]).decode() if model["options"] else None for model in described]
    rows = [model | {"options": text} for model, text in zip(described, options, strict=True)]
    print_table(columns, [[row[column] for column in columns] for row in rows])


def _described(declaration: Declaration, by_promotion: Mapping[str, Promotion]) -> dict[str, object]:
    """A declaration under the keys of `models.toml`, and since when it is the default by a promotion."""
    written = asdict(declaration)
    written["class"] = written.pop("class_path")
    promotion = by_promotion.get(declaration.name)
    is_by_promotion = promotion is not None and promotion.version == declaration.version
    return written | {"promoted_at": promotion.at if promotion is not None and is_by_promotion else None}


@models.command("reload")
def reload_models() -> None:
    """Have every process of every host read models.toml again, and serve what it says, without a restart.

    What is new, declared differently or failed before is loaded beside what is served, and takes over when it is ready.
    Promotions hold: the command says where one decides otherwise than the file.
    """
    settings = load_settings()
    declared = read_declarations(settings.models_file)
    with connected() as database:
        database.require_current_schema()
        with database.writing() as session:
            tell_reload(session)
            by_promotion = promotions(session)
            declared = with_trained(declared, served_versions(session), settings.artifact_cache)
    click.echo("The models are being reloaded.")
    for before, now in zip(declared, promoted(declared, by_promotion), strict=True):
        if now.default and not before.default:
            at = by_promotion[now.name].at
            click.echo(
                f"The default of {now.name} is {now.version} by the promotion of {at:%Y-%m-%d %H:%M:%S} UTC."
            )


@models.command("check")
@click.argument("target")
@click.option(
    "--items",
    "items_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Items for it; its name ends with {', '.join(MEDIA_TYPES)}. The first {MAX_ITEMS} are taken.",
)
@click.option("--artifact", help="Of a class: its artifact.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Of a class: an option of load, as in TOML.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, max=3600),
    default=5.0,
    show_default=True,
    help="How long to measure, about.",
)
@json_option
@click.pass_context
def check_model(
    context: click.Context,
    target: str,
    items_file: Path | None,
    artifact: str | None,
    options: tuple[str, ...],
    seconds: float,
    as_json: bool,
) -> None:
    """Load a model, run items through it, and say what breaks the contract and what batch size suits it.

    TARGET is a class, such as mymodel:Model, or a name that models.toml declares: sentiment, or sentiment@1.
    Without --items, items are made up from its Item schema. The exit status is 1 if anything is wrong.
    """
    settings = load_settings()
    configure_logging(settings)
    given = [] if items_file is None else _items(settings, items_file)
    served = ServedModel(_target(settings, target, artifact, options), settings.artifact_cache)
    served.load()
    if served.state != "ready":
        why = served.untrained if served.state == "untrained" else f"{served} does not load: {served.reason}"
        raise click.ClickException(why)
    items = given or example_items(served.item_json_schema, N_EXAMPLES)
    if not items:
        raise click.UsageError(f"{served} has no Item schema to make items from: give some with --items FILE")
    report = check(served, items, seconds=seconds)
    if as_json:
        print_json(asdict(report) | {"max_batch_size": report.max_batch_size})
    else:
        _print(served, report, made_up=items_file is None)
    context.exit(1 if report.violations else 0)


def _target(settings: Settings, target: str, artifact: str | None, options: tuple[str, ...]) -> Declaration:
    """The declaration of a class, or of a name in `models.toml`."""
    if ":" in target:
        return Declaration(
            name=target,
            version="as it is",
            class_path=target,
            artifact=artifact,
            options={key: value for option in options for key, value in _option(option).items()},
            default=True,
            concurrency=1,
        )
    if artifact is not None or options:
        raise click.UsageError("--artifact and --option belong to a class; models.toml has those of a name")
    name, _, version = target.partition("@")
    declared = [each for each in read_declarations(settings.models_file) if each.name == name]
    for each in declared:
        if each.version == version if version else each.default:
            return each
    raise ConfigurationError(
        f"{settings.models_file} declares no {target}: give a name that 'twofold models list' shows, or module:Class"
    )


def _option(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    try:
        if equals:
            return {key.strip(): tomllib.loads(f"value = {value}")["value"]}
    except tomllib.TOMLDecodeError:
        return {key.strip(): value}  # a word without quotes, which a shell would have taken off
    raise click.UsageError(f"--option {text}: write KEY=VALUE")


def _items(settings: Settings, path: Path) -> list[JsonObject]:
    if (media_type := MEDIA_TYPES.get(path.suffix.lower())) is None:
        raise click.UsageError(
            f"--items {path}: a name that ends with {', '.join(MEDIA_TYPES)} tells its format"
        )
    format = format_of_content_type(media_type)
    limits = Limits(MAX_ITEMS, settings.chunk_bytes, settings.max_item_bytes, settings.max_upload_bytes)
    with path.open("rb") as file:
        chunks = read_items(iter(lambda: file.read(settings.chunk_bytes), b""), format, limits)
        return list(islice((loads(item) for chunk in chunks for item in unpack(chunk.payload)), MAX_ITEMS))


def _print(served: ServedModel, report: Report, *, made_up: bool) -> None:
    made = "made up from its Item schema" if made_up else "from the file"
    print_facts({"model": str(served), "items": f"{report.n_items} {made}"})
    for violation in report.violations:
        click.echo(f"WRONG: {violation}")
    for remark in report.remarks:
        click.echo(f"note: {remark}")
    if not report.violations:
        click.echo("It keeps the contract: length, types, order, JSON.")
    if report.timings:
        click.echo()
        print_table(
            ["batch size", "ms per batch", "µs per item", "items per second"],
            [
                [
                    each.size,
                    f"{each.seconds * 1000:.3f}",
                    f"{each.seconds_per_item * 1_000_000:.1f}",
                    round(1 / each.seconds_per_item),
                ]
                for each in report.timings
            ],
        )
        click.echo(f"\n{_advice(report)}")


def _advice(report: Report) -> str:
    size = report.max_batch_size
    if size is None:
        return "Batches gain little here: leave max_batch_size out."
    [seconds] = [each.seconds for each in report.timings if each.size == size]
    return (
        f"max_batch_size = {size} suits it: one call takes {seconds * 1000:.1f} ms, "
        "and no other size takes a twentieth less per item."
    )
