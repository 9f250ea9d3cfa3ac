"""``vedcore new-plugin`` writes a distribution from templates; ``vedcore package`` makes a wheel of a model."""

from __future__ import annotations

import json

import click

from vedcore.distributions.plugin import KINDS
from vedcore.errors import printable
from vedcore.registry import Kind

__all__ = ["new_plugin", "package"]


@click.command("new-plugin")
@click.argument("name")
@click.option("--kind", required=True, type=click.Choice(list(KINDS)), help="Kind of its part.")
@click.option("--output", "-o", type=click.Path(), help="Folder to create.  [default: NAME]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def new_plugin(name: str, kind: Kind, output: str | None, as_json: bool) -> None:
    """Write the distribution NAME with a small part that works: its package, tests, README and CI file.

    The part is called NAME without vedcore-: vedcore-mine has the part mine.
    """
    from vedcore.distributions.names import parse_name
    from vedcore.distributions.plugin import new_plugin as write

    folder = write(name, kind, output)
    if as_json:
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        names = {"distribution": name, "kind": kind, "name": parse_name(name).component}
        click.echo(json.dumps({"folder": str(folder), **names, "files": files}, indent=2))
    else:
        click.echo(printable(folder))
        click.echo(f"next: pip install -e '{printable(folder)}[test]' && pytest {printable(folder)}", err=True)


@click.command()
@click.argument("folder", type=click.Path())
@click.argument("name")
@click.option("--version", default="0.1.0", show_default=True, help="Version of the wheel.")
@click.option("--output", "-o", type=click.Path(), default=".", help="Folder for the wheel.  [default: this one]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def package(folder: str, name: str, version: str, output: str, as_json: bool) -> None:
    """Make the wheel NAME of the model in FOLDER, and print its path.

    The model is called NAME without vedcore-: once vedcore-mine is installed, vedcore.load("mine") opens it. All files
    of FOLDER are compared with their hashes first. Licence and description are those of the model card.
    """
    from vedcore.distributions.model import package_model

    made = package_model(folder, name, version=version, output=output)
    if as_json:
        found = {"wheel": str(made.wheel), "name": made.name, "bytes": made.wheel.stat().st_size}
        click.echo(json.dumps({**found, "requirements": made.requirements, "left_out": made.left_out}, indent=2))
        return
    click.echo(printable(made.wheel))
    for file in made.left_out:
        click.echo(f"left out: {printable(file)}", err=True)
