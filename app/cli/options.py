"""Options that several commands take, in the same words."""

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
limit_option = click.option(
    "--limit", type=click.IntRange(1, 2**31), default=20, show_default=True, help="So many at most."
)
