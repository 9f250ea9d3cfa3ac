"""The group of commands, and the mapping from errors to messages and exit codes."""

from __future__ import annotations

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import click

import vedcore
from vedcore import builtin
from vedcore.errors import (
    ConfigError,
    MissingExtraError,
    PluginMissingError,
    UnknownComponentError,
    UsageError,
    VedcoreError,
    did_you_mean,
    printable,
)

__all__ = ["group", "main"]

_ON_WINDOWS = os.name == "nt"
_MAX_DETAIL_LINES = 20
"""Detail lines printed below an error."""

_COMMANDS = {entry.name: entry for entry in builtin.register_commands()}


class _Group(click.Group):
    """Imports a command when it is called, and loads plugins only for a command that is not built in."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        if name in _COMMANDS:
            command: click.Command = _COMMANDS[name].load()
            return command
        return _plugin_command(ctx, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in sorted(_COMMANDS.items())])
        from vedcore.plugins.scan import scan  # imports no plugin: a slow one must not delay the help

        others = sorted({str(point.owner) for point in scan() if not point.built_in})
        if others:
            formatter.write_paragraph()
            formatter.write_text(f"Installed plugins: {', '.join(others)}. `vedcore plugins` shows their commands.")


def _plugin_command(ctx: click.Context, name: str) -> click.Command:
    from vedcore.plugins import check_command, list_parts, load_component, registry

    try:
        command, found = load_component("command", name)
    except UnknownComponentError:
        names = list_parts("command")
        hint = did_you_mean(name, names) or f"there are {', '.join(names)}"
        notes = "".join(f" [{note}]" for note in registry().notes[:1])
        ctx.fail(f"No command {printable(name)[:60]!r}; {hint}{notes}")
    check_command(found.entry, command)
    return command  # type: ignore[no-any-return]


def _choose_plugins(ctx: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> None:
    if names:
        from vedcore.plugins import configure

        block = [name.removeprefix("no:") for name in names if name.startswith("no:")]
        configure(allow=[name for name in names if not name.startswith("no:")], block=block)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-p",
    "plugins",
    multiple=True,
    metavar="NAME",
    callback=_choose_plugins,
    is_eager=True,
    expose_value=False,
    help="Load this plugin and no others; no:NAME blocks one. Repeatable.",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show where in the code an error came from.")
@click.version_option(vedcore.__version__, prog_name="vedcore")
def group() -> None:
    """Compose any vision encoder with any text decoder into one image-to-text model."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process, or absent under pythonw on Windows
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open until the process ends
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name need not be valid Unicode
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    formatwarning, warnings.formatwarning = warnings.formatwarning, _warning_line
    try:
        code = group.main(arguments, prog_name="vedcore", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except Exception as error:
        if _is_broken_pipe(error):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discards buffered output at exit
            code = 1
        else:
            if "--debug" in arguments:
                traceback.print_exc()
            code = _report(error)
    finally:
        warnings.formatwarning = formatwarning
    sys.exit(code if isinstance(code, int) else 0)


def _warning_line(message: Warning | str, *_: Any, **__: Any) -> str:
    """A warning as the shell shows it, in place of Python's two lines with the place in the code."""
    return f"warning: {printable(message)}\n"


def _is_broken_pipe(error: Exception) -> bool:
    """True where the reader of our output has exited, such as `head`: EPIPE, or EINVAL without a file on Windows."""
    if isinstance(error, BrokenPipeError):
        return True
    return _ON_WINDOWS and isinstance(error, OSError) and error.errno == errno.EINVAL and error.filename is None


def _report(error: Exception) -> int:
    """Print an error in one line and its details below; return the exit code."""
    if not isinstance(error, VedcoreError):
        message = f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error)
        click.echo(f"error: {printable(message)[:300]}; vedcore --debug COMMAND shows where", err=True)
        return 1
    click.echo(f"error: {error}", err=True)
    for line in error.details.splitlines()[:_MAX_DETAIL_LINES]:
        click.echo(f"  {printable(line)[:300]}", err=True)
    codes: list[tuple[Any, int]] = [(UsageError, 2), (ConfigError, 3), (PluginMissingError, 4), (MissingExtraError, 4)]
    return next((code for kind, code in codes if isinstance(error, kind)), 1)
