"""Where a model looks in an image while it writes: `explain` (the arithmetic), `explanation`, `words`, `drawing`."""

from __future__ import annotations

from vedcore.explaining.explain import explain
from vedcore.explaining.explanation import Explanation

__all__ = ["Explanation", "explain"]
