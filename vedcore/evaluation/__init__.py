"""Judgement of a model by the texts that it generates of labelled images.

    from vedcore.evaluation import evaluate

    evaluation = evaluate("mine/best", "lines/")
    evaluation.save("report")

Importing this package imports neither torch nor the packages of the extra ``train``; `evaluate` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vedcore.deprecated_names import getattr_for

if TYPE_CHECKING:
    from vedcore.evaluation.evaluating import evaluate as evaluate
    from vedcore.evaluation.evaluation import Evaluation as Evaluation
    from vedcore.evaluation.findings import RowResult as RowResult

__all__ = ["Evaluation", "RowResult", "evaluate"]

_MODULE_OF = {"evaluate": "evaluating", "Evaluation": "evaluation", "RowResult": "findings"}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        return getattr_for(__name__)(name)
    return getattr(importlib.import_module(f"vedcore.evaluation.{_MODULE_OF[name]}"), name)
