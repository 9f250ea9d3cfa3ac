"""Options of generation on the command line, for the commands that generate texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any

import click

from vedcore.errors import UsageError, did_you_mean, printable
from vedcore.files import open_regular

__all__ = ["generation_options", "generation_settings"]


def _check_device(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        import torch

        try:
            torch.empty(1, device=value).cpu()
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # unknown, or this torch lacks it
            reason = str(error).splitlines()[0][:100]
            raise click.BadParameter(f"{value!r} is not a device of this machine: {reason}", ctx, param) from None
    return value


def _read_lexicon(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """The lines of a file that are not empty; a file without any is an error."""
    if value is None:
        return None
    with open_regular(value, UsageError, "give a text file, one word a line") as file:
        try:
            lines = file.read().decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise click.BadParameter(f"{printable(value)} is not UTF-8 at byte {error.start}", ctx, param) from None
    if not (words := tuple(line for line in lines if line)):
        raise click.BadParameter(f"{printable(value)} holds no words", ctx, param)
    return words


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--max-new-tokens", type=click.IntRange(1), help="Most tokens of a text."),
    click.option("--num-beams", type=click.IntRange(1), help="Beams of the search; 1 is greedy."),
    click.option(
        "--do-sample", is_flag=True, default=None, help="Draw the tokens; see temperature, top_k, top_p, seed."
    ),
    click.option("--draft", type=click.Choice(["int8"]), help="Guess tokens with int8 weights: faster, the same text."),
    click.option("--prompt", help="Start of every text; may contain special tokens by name."),
    click.option("--pattern", metavar="REGEX", help="Regular expression that the whole text must match."),
    click.option("--allowed-chars", metavar="CHARS", help="The only characters that a text may have."),
    click.option("--lexicon", metavar="FILE", callback=_read_lexicon, help="Texts to choose from, one a line."),
    click.option(
        "--stop", "stop_strings", multiple=True, metavar="TEXT", help="String at which a text ends. Repeatable."
    ),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any option, such as temperature=0.7. Repeatable.",
    ),
    click.option("--device", callback=_check_device, help="cpu, cuda, cuda:1, ..."),
)


def generation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of generation, ``--set`` as ``overrides`` among them, and ``--device``."""
    return reduce(lambda made, option: option(made), reversed(_OPTIONS), command)


def generation_settings(options: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The options of ``generate_text`` that are given, checked by name before a model is loaded.

    Args:
        options: of the command line; those that are None are left out.
        overrides: of ``--set``.

    Raises:
        UsageError: an unknown name; arguments of the call, such as images, are not options.
    """
    from vedcore.config_files import apply_overrides
    from vedcore.generation.options.config import GenerationConfig

    given = {key: value for key, value in options.items() if value not in (None, ())}
    settings: dict[str, Any] = apply_overrides(given, overrides)
    valid = ["prompt", *GenerationConfig.model_fields]
    for name in settings:
        if name not in valid:
            known = f"options: {', '.join(valid)}"
            raise UsageError("unknown option", field=name, hint=did_you_mean(name, valid) or known, details=known)
    return settings
