"""Training of a model on labelled images: one call from a folder to a model that one can trust.

    from vedcore.training import train

    result = train("printed-line", "lines/", "mine", max_steps=200)
    model = vedcore.load(result.best)

Importing this package imports neither accelerate nor matplotlib; `train` does.
"""

from __future__ import annotations

from vedcore.training.config import LoraSettings, TrainingConfig
from vedcore.training.training import TrainingResult, train

__all__ = ["LoraSettings", "TrainingConfig", "TrainingResult", "train"]
