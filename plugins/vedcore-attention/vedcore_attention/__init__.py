"""The command `vedcore attention`."""

from __future__ import annotations

from vedcore import Entry, hookimpl

__all__ = ["register_commands"]

vedcore_api = 1


@hookimpl
def register_commands() -> list[Entry]:
    """The command."""
    return [Entry("attention", "vedcore_attention.command:attention", "Draw where a model looks for each token.")]
