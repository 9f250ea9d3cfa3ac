"""The contract of an exporter, which a plugin registers by the hook ``register_exporters``."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from vedcore.export.graphs import Graphs

__all__ = ["ABILITIES", "Array", "Exporter", "Runtime"]

Array = NDArray[Any]
ABILITIES = ("encode", "logits", "steps", "generate", "loss", "gradients", "train")
"""The methods of a `Runtime` that a proof compares with the model."""


class Exporter(abc.ABC):
    """A target of ``vedcore export``.

    `write` adds the target's files to a folder that holds the model in vedcore's own format, ``graph.json`` and
    ``constants.safetensors``. Then the proof opens the folder with ``runtime`` in a process of its own, in which the
    modules of ``blocked`` cannot be imported.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """Modules that have to be installed."""
    install: ClassVar[str] = ""
    """The line that installs them, such as ``pip install vedcore-jax``."""
    operations: ClassVar[frozenset[str] | None] = None
    """The operations that the target has; None for all. A model with another is refused before anything is written."""
    runtime: ClassVar[str]
    """Dotted path of a `Runtime`, ``"package.module:Class"``; its module imports no torch."""
    blocked: ClassVar[tuple[str, ...]] = ("torch",)

    @abc.abstractmethod
    def write(self, folder: Path, graphs: Graphs, **options: Any) -> None:
        """Add the target's files to ``folder``.

        Raises:
            UsageError: an unknown option.
            IncompatibleError: a model that the target cannot hold.
        """


class Runtime(abc.ABC):
    """An export as a proof runs it: NumPy arrays in and out, and nothing of the model's code.

    Shape letters: N images, B rows of text, T text tokens, V vocabulary size.

    Args:
        folder: of the export.
    """

    abilities: ClassVar[frozenset[str]] = frozenset(ABILITIES)
    """The methods that it has, of `ABILITIES`; a proof leaves the others out, and says so."""
    tolerances: ClassVar[Mapping[str, float]] = {
        "encode": 2e-5,
        "logits": 1e-5,
        "steps": 1e-5,
        "loss": 1e-5,
        "gradients": 1e-6,
        "train": 1e-4,
    }
    """Greatest difference, relative to the greatest number."""

    @abc.abstractmethod
    def __init__(self, folder: Path) -> None: ...

    def encode(self, pixel_values: Array) -> Array:
        """Images (N, C, H, W) to encoder states (N, S, E)."""
        raise NotImplementedError

    def logits(self, pixel_values: Array, input_ids: Array, attention_mask: Array | None = None) -> Array:
        """Logits (B, T, V) of whole texts (B, T), in one pass; the mask (B, T) is False for padding."""
        raise NotImplementedError

    def steps(self, pixel_values: Array, input_ids: Array) -> Array:
        """The same logits, token by token with a cache."""
        raise NotImplementedError

    def generate(self, pixel_values: Array, max_new_tokens: int) -> Array:
        """Greedy ids (N, L), the start id first, padded behind the end."""
        raise NotImplementedError

    def loss(self, pixel_values: Array, labels: Array) -> float:
        """The mean loss of labels (B, T), of which -100 does not count."""
        raise NotImplementedError

    def gradients(self, pixel_values: Array, labels: Array) -> dict[str, Array]:
        """Gradients of that loss for all parameters, computed in float64, by the names of the weights."""
        raise NotImplementedError

    def train(self, pixel_values: Array, labels: Array, learning_rate: float, steps: int) -> list[float]:
        """The losses before each of some steps of AdamW, with betas 0.9 and 0.999, epsilon 1e-8 and no decay."""
        raise NotImplementedError
