"""``vedcore inspect`` reports the contents of a folder; ``vedcore convert`` writes a model in another format."""

from __future__ import annotations

import dataclasses
import json
import os

import click

from vedcore.errors import UsageError, printable

__all__ = ["convert", "inspect"]


@click.command()
@click.argument("folder")
@click.option("--revision", help="Branch, tag or commit of a repository of the hub.")
@click.option("--verify", is_flag=True, help="Read all files and compare sha256, not only sizes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def inspect(folder: str, revision: str | None, verify: bool, as_json: bool) -> int:
    """Show the contents of FOLDER, which holds a model, an encoder or a decoder. Nothing is built.

    FOLDER may also be an installed model, or a repository of the hub. The model's plugins need not be installed. The
    exit code is 1 where a file is damaged or missing.
    """
    from vedcore.checkpoints.formats import resolve_folder
    from vedcore.checkpoints.inspection import inspect_folder

    found = inspect_folder(resolve_folder(folder, revision), verify=verify)
    click.echo(json.dumps(dataclasses.asdict(found), indent=2) if as_json else str(found))
    return 1 if found.problems else 0


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT", type=click.Path())
@click.option("--format", required=True, help="native, transformers, flax, or a plugin's.")
@click.option("--dtype", help="Store numbers as float32, float16, bfloat16 or float64; the model's own if not given.")
@click.option("--max-shard-size", metavar="SIZE", help="Largest file of weights, such as 500MB. [default: 5GB]")
@click.option("--revision", help="Branch, tag or commit of a repository of the hub.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def convert(
    source: str,
    target: str,
    format: str,
    dtype: str | None,
    max_shard_size: str | None,
    revision: str | None,
    as_json: bool,
) -> None:
    """Load the model IN, strictly, and write it to the folder OUT in another format.

    IN is a folder, an installed model or a repository of the hub. OUT is created, or a model in it is replaced as a
    whole. OUT cannot be IN.
    """
    import vedcore
    from vedcore.checkpoints.formats import resolve_folder
    from vedcore.components import torch_dtype
    from vedcore.composer.plan import format_bytes
    from vedcore.plugins import load_component

    load_component("format", format)  # a misspelt name is an error before anything is loaded
    torch_dtype(dtype)
    folder = resolve_folder(source, revision)
    if os.path.exists(target) and os.path.exists(folder) and os.path.samefile(folder, target):
        raise UsageError(f"{target!r} is the folder that is read", field="OUT", hint="name another folder")
    options = {"weights_dtype": dtype, "max_shard_size": max_shard_size}
    model = vedcore.load(folder)
    model.save_pretrained(target, format=format, **{name: v for name, v in options.items() if v is not None})
    sizes = {
        file.name: file.stat().st_size for file in sorted(os.scandir(target), key=lambda f: f.name) if file.is_file()
    }
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if as_json:
        click.echo(json.dumps({"folder": target, "format": format, "parameters": parameters, "files": sizes}, indent=2))
    else:
        click.echo(printable(target))
        for name, size in sizes.items():
            click.echo(printable(f"wrote {name}, {format_bytes(size)}"), err=True)
        click.echo(f"{parameters:,} parameters, as {format}", err=True)
