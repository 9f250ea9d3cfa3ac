"""Labelled images: rows from any source, their split, and batches of them; an examination of them.

Importing this package imports no torch; `Loader`, `Loaded`, `keep_states` and `examine` do.
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
    from vedcore.data.doctor import Examination as Examination
    from vedcore.data.doctor import Finding as Finding
    from vedcore.data.doctor import examine as examine
    from vedcore.data.keeping import keep_states as keep_states
    from vedcore.data.loader import Loader as Loader

__all__ = [
    "Data",
    "DataConfig",
    "Examination",
    "Finding",
    "Loaded",
    "Loader",
    "Problem",
    "Row",
    "examine",
    "keep_states",
    "open_data",
    "split",
]

_WITH_TORCH = {
    "Examination": "doctor",
    "Finding": "doctor",
    "Loaded": "decoding",
    "Loader": "loader",
    "examine": "doctor",
    "keep_states": "keeping",
}


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        return getattr_for(__name__)(name)
    return getattr(importlib.import_module(f"vedcore.data.{_WITH_TORCH[name]}"), name)
