"""The composed model, one room a concern: each class adds one to the class before it.

`parts` (what it is made of), `vocabulary`, `training`, `folders`, and `model` (the forward pass, and writing).
"""

from __future__ import annotations

from vedcore.model.model import VisionEncoderDecoder

__all__ = ["VisionEncoderDecoder"]
