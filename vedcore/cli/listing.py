"""``vedcore list`` shows the registered parts, ``vedcore plugins`` the installed plugins.

Neither imports torch, unless targets are checked.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from typing import Any

import click

from vedcore.errors import printable
from vedcore.plugins import ListedPart, check_targets, list_parts, list_plugins, registry
from vedcore.registry import KINDS, Kind

__all__ = ["list_command", "plugins"]

_KINDS_BY_PLURAL: dict[str, Kind] = {f"{kind}s": kind for kind in KINDS}


@click.command("list")
@click.argument("what", type=click.Choice(list(_KINDS_BY_PLURAL)))
@click.argument("pattern", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def list_command(what: str, pattern: str | None, as_json: bool) -> None:
    """List encoders, decoders, projectors, models, formats, exporters or commands.

    PATTERN is a glob over names and variants, such as 'vit*'.
    """
    parts = list_parts(_KINDS_BY_PLURAL[what], pattern)
    seconds: defaultdict[str, float] = defaultdict(float)
    for plugin in list_plugins():
        seconds[plugin.owner] += plugin.import_seconds
    if as_json:
        click.echo(json.dumps([{**_data(part), "import_seconds": seconds[part.owner]} for part in parts], indent=2))
    else:
        width = max((len(part) for part in parts), default=0)
        for part in parts:
            default = f" [{part.default_variant}]" if part.default_variant else ""
            owner = (
                "" if part.owner.startswith("vedcore==") else f" ({part.owner}, {seconds[part.owner]:.2f} s to import)"
            )
            click.echo(printable(f"{part:<{width}}  {part.summary}{default}{owner}".rstrip()))
    for failure in registry().failures.values():
        click.echo(f"warning: {failure}", err=True)


@click.command()
@click.option("--check", is_flag=True, help="Import every part too, and check it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def plugins(check: bool, as_json: bool) -> int:
    """Show the installed plugins, their status, the parts that they bring, and how long they take to import.

    With --check, the exit code is 1 where a plugin does not load or a part of it is broken.
    """
    found = check_targets() if check else list_plugins()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(plugin) for plugin in found], indent=2))
    for plugin in found if not as_json else ():
        click.echo(printable(plugin))
        if plugin.status != "blocked":
            click.echo(f"    {plugin.import_seconds:.2f} s to import")
        for problem in plugin.problems:
            click.echo(f"    {printable(problem)}")
    return 1 if check and any(plugin.status == "failed" for plugin in found) else 0


def _data(part: ListedPart) -> dict[str, Any]:
    return {
        "name": part.name,
        "summary": part.summary,
        "default_variant": part.default_variant,
        "variants": list(part.variants),
        "aliases": list(part.entry.aliases),
        "owner": part.owner,
    }
