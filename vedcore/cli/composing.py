"""``vedcore plan`` and ``vedcore compose``: from names or a config file to a table or a folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import click

from vedcore.errors import ConfigError, UsageError, printable

__all__ = ["compose", "plan"]


def _image_size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """``224``, or height and width as ``64x512``."""
    if value is None:
        return None
    parts = value.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise click.BadParameter(f"{value!r} is not a size; write 224, or height and width as 64x512", ctx, param)
    return tuple(int(part) for part in parts * (3 - len(parts)))


def _model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments and options of a model, which both commands share."""
    options = [
        click.argument("encoder", metavar="ENCODER|CONFIG"),
        click.argument("decoder", required=False),
        click.option("--projector", help="auto, identity, linear, mlp, or a plugin's name."),
        click.option(
            "--image-size", callback=_image_size, metavar="SIZE", help="Pixels: 224, or height and width as 64x512."
        ),
        click.option("--tokenizer", help="char, byte, or the path of a tokenizer.json."),
        click.option("--dtype", help="float32, float16 or bfloat16."),
        click.option("--pretrained", is_flag=True, default=None, help="Take the parts' published weights."),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="A setting, such as encoder.hidden_size=32. Repeatable.",
        ),
        click.option("--json", "as_json", is_flag=True, help="One JSON object."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_model_options
def plan(encoder: str, decoder: str | None, overrides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Show the widths, tokens, parameters and bytes of a model. Nothing is built.

    Name an ENCODER and a DECODER, or a CONFIG file (.yaml, .toml or .json).
    """
    import vedcore

    with _flag_named(overrides):
        result = vedcore.plan(encoder, decoder, **_merged(encoder, decoder, options, overrides))
    click.echo(json.dumps(result.model_dump(mode="json"), indent=2) if as_json else str(result))


@click.command()
@_model_options
@click.option("--output", "-o", required=True, type=click.Path(), help="Folder to write.")
@click.option("--seed", type=int, help="Seed of the fresh weights: the same seed gives the same weights.")
def compose(
    encoder: str, decoder: str | None, overrides: tuple[str, ...], as_json: bool, output: str, **options: Any
) -> None:
    """Build a model and write it to a folder that `vedcore.load` and `vedcore generate` read.

    Name an ENCODER and a DECODER, or a CONFIG file (.yaml, .toml or .json).
    """
    import vedcore

    with _flag_named(overrides):
        model = vedcore.compose(encoder, decoder, **_merged(encoder, decoder, options, overrides))
    for part, report in model.load_reports.items():
        for line in f"{part}: {report}".splitlines():
            click.echo(printable(line), err=True)
    model.save_pretrained(output)
    parameters = sum(p.numel() for p in model.parameters())
    if as_json:
        click.echo(json.dumps({"folder": output, "parameters": parameters}))
    else:
        click.echo(output)
        click.echo(f"{parameters:,} parameters", err=True)


@contextlib.contextmanager
def _flag_named(overrides: Iterable[str]) -> Iterator[None]:
    """Turn a config error about a key that ``--set`` changed into a usage error that names the flag."""
    try:
        yield
    except ConfigError as error:
        for text in overrides:
            key, field = (
                f"{text.partition('=')[0]}.",
                f"{error.field}.",
            )  # either may contain the other
            if error.path is None and error.field and (key.startswith(field) or field.startswith(key)):
                raise UsageError(error.message, field=f"--set {text}", hint=error.hint, details=error.details) from None
        raise


def _merged(encoder: str, decoder: str | None, options: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Keyword arguments of `vedcore.plan` and `vedcore.compose`: the options, overridden by ``--set``."""
    from vedcore.composer.request import PART_KINDS
    from vedcore.config_files import apply_overrides, read_config_text

    given = {key: value for key, value in options.items() if value is not None}
    if not overrides:
        return given
    data = {} if decoder is not None else read_config_text(encoder).data
    shared = {key: value for key, value in data.items() if key not in PART_KINDS}  # parts take single fields
    for key, value in apply_overrides(shared, overrides).items():
        if key in PART_KINDS:
            fields = value if isinstance(value, Mapping) else {"name": value}
            given |= {f"{key}_{field}": setting for field, setting in fields.items()}
        elif key not in shared or value != shared[key]:
            given[key] = value
    return given
