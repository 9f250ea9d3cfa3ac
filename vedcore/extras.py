"""Packages that the extras of vedcore bring, imported only where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

from vedcore.errors import MissingExtraError

__all__ = ["need"]


def need(module: str, extra: str, purpose: str) -> ModuleType:
    """The module of that name.

    Args:
        module: its dotted name.
        extra: the extra of vedcore that installs it.
        purpose: the subject of the message, such as ``"a parquet file"``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        message = f"{purpose} needs {package}, which is not installed"
        raise MissingExtraError(message, hint=f'pip install "vedcore[{extra}]"') from None
