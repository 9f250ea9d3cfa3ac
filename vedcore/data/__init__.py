"""Labelled images: rows from any source, their split, and batches of them.

Importing this package imports no torch; `Loader`, `Loaded` and `keep_states` do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vedcore.data.opening import open_data
from vedcore.data.rows import Data, Problem, Row
from vedcore.data.settings import DataConfig
from vedcore.data.splitting import split
from vedcore.deprecated_names import getattr_for

if TYPE_CHECKING:
    from vedcore.data.decoding import Loaded as Loaded
    from vedcore.data.keeping import keep_states as keep_states
    from vedcore.data.loader import Loader as Loader

__all__ = ["Data", "DataConfig", "Loaded", "Loader", "Problem", "Row", "keep_states", "open_data", "split"]

_WITH_TORCH = {"Loaded": "decoding", "Loader": "loader", "keep_states": "keeping"}


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        return getattr_for(__name__)(name)
    return getattr(importlib.import_module(f"vedcore.data.{_WITH_TORCH[name]}"), name)
