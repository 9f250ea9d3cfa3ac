"""Labelled images: rows from any source, their split, and batches of them.

Importing this package imports no torch; `batches` does.
"""

from __future__ import annotations

from vedcore.data.opening import open_data
from vedcore.data.rows import Data, Problem, Row
from vedcore.data.settings import DataConfig
from vedcore.data.splitting import split

__all__ = ["Data", "DataConfig", "Problem", "Row", "open_data", "split"]
