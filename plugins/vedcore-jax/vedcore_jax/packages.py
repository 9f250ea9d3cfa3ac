"""JAX and Flax, imported only where they are used."""

from __future__ import annotations

import importlib

from vedcore import MissingExtraError

__all__ = ["need"]


def need(*packages: str) -> None:
    """Check that packages are installed.

    Raises:
        MissingExtraError: one is not.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            message = f"vedcore-jax needs {package}, which is not installed"
            raise MissingExtraError(message, hint=f"pip install {package}") from None
