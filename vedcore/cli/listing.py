"""``vedcore list`` shows the registered parts, ``vedcore plugins`` the installed plugins. Neither imports torch."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from vedcore.errors import printable
from vedcore.plugins import ListedPart, list_parts, list_plugins, registry
from vedcore.registry import KINDS, Kind

__all__ = ["list_command", "plugins"]

_KINDS_BY_PLURAL: dict[str, Kind] = {f"{kind}s": kind for kind in KINDS}


@click.command("list")
@click.argument("what", type=click.Choice(list(_KINDS_BY_PLURAL)))
@click.argument("pattern", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def list_command(what: str, pattern: str | None, as_json: bool) -> None:
    """List encoders, decoders, projectors, models, formats or commands.

    PATTERN is a glob over names and variants, such as 'vit*'.
    """
    parts = list_parts(_KINDS_BY_PLURAL[what], pattern)
    if as_json:
        click.echo(json.dumps([_data(part) for part in parts], indent=2))
    else:
        width = max((len(part) for part in parts), default=0)
        for part in parts:
            default = f" [{part.default_variant}]" if part.default_variant else ""
            owner = "" if part.owner.startswith("vedcore==") else f" ({part.owner})"
            click.echo(printable(f"{part:<{width}}  {part.summary}{default}{owner}".rstrip()))
    for failure in registry().failures.values():
        click.echo(f"warning: {failure}", err=True)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def plugins(as_json: bool) -> None:
    """Show the installed plugins, their status, and the parts that they bring."""
    found = list_plugins()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(plugin) for plugin in found], indent=2))
        return
    for plugin in found:
        click.echo(printable(plugin))
        for problem in plugin.problems:
            click.echo(f"    {printable(problem)}")


def _data(part: ListedPart) -> dict[str, Any]:
    return {
        "name": part.name,
        "summary": part.summary,
        "default_variant": part.default_variant,
        "variants": list(part.variants),
        "aliases": list(part.entry.aliases),
        "owner": part.owner,
    }
