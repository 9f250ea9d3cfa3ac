"""An export in JAX as a proof runs it: NumPy arrays in and out. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from vedcore import GenerationConfig
from vedcore.export import Array, Runtime
from vedcore_jax.blob import BLOB
from vedcore_jax.model import JaxModel

__all__ = ["JaxRuntime"]


class JaxRuntime(Runtime):
    """The model, and the blob of greedy search beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder, _plain(JaxModel(folder))

    def encode(self, pixel_values: Array) -> Array:
        return _as_array(jax.jit(self.model.programs.encode)(self._tensors(self.model), pixel_values))

    def logits(self, pixel_values: Array, input_ids: Array, attention_mask: Array | None = None) -> Array:
        def whole(tensors: Any, pixels: Any, ids: Any, mask: Any) -> Any:
            programs = self.model.programs
            return programs.whole(tensors, programs.encode(tensors, pixels), ids, mask)["logits"]

        arguments = (jnp.asarray(pixel_values), jnp.asarray(input_ids), attention_mask)
        return _as_array(jax.jit(whole)(self._tensors(self.model), *arguments))

    def steps(self, pixel_values: Array, input_ids: Array) -> Array:
        programs, tensors = self.model.programs, self._tensors(self.model)
        rows, tokens = input_ids.shape
        states = programs.encode(tensors, jnp.asarray(pixel_values))
        cache = programs.cache(tensors, states, rows, tokens)
        step = jax.jit(lambda tensors, ids, cache: programs.step(tensors, ids, cache, prompt=True))
        found = []
        for i in range(tokens):
            out, cache = step(tensors, jnp.asarray(input_ids[:, i : i + 1]), cache)
            found.append(out["logits"])
        return _as_array(jnp.concatenate(found, 1))

    def generate(self, pixel_values: Array, max_new_tokens: int) -> Array:
        """Ids of `JaxModel.generate`, which the blob has to give too, as far as its texts go.

        Raises:
            ValueError: it gives others.
        """
        pixels = jnp.asarray(pixel_values)
        ids = np.asarray(self.model.generate(pixels, max_new_tokens=max_new_tokens).sequences)
        if (path := self.folder / BLOB).exists():
            blob: Any = jax.export.deserialize(bytearray(path.read_bytes()))
            others = np.asarray(blob.call(self._tensors(self.model), pixels))
            both = min(ids.shape[1], others.shape[1])
            if not (ids[:, :both] == others[:, :both]).all():
                raise ValueError(f"{BLOB} gives other ids")
        return ids

    def loss(self, pixel_values: Array, labels: Array) -> float:
        out = self.model(jnp.asarray(pixel_values), labels=jnp.asarray(labels))
        assert out.loss is not None
        return float(out.loss)

    def gradients(self, pixel_values: Array, labels: Array) -> dict[str, Array]:
        with jax.enable_x64(True):
            model = self._double()
            slope = jax.jit(jax.grad(self._loss(model, pixel_values, labels)))(model.params)
            read = {port.name for name in ("encode", "cross", "step") for port in model.graphs[name].tensors}
            return {name: np.asarray(each) for name, each in slope.items() if name in read}

    def train(self, pixel_values: Array, labels: Array, learning_rate: float, steps: int) -> list[float]:
        with jax.enable_x64(True):
            model = self._double()
            descend = jax.jit(jax.value_and_grad(self._loss(model, pixel_values, labels)))
            params, losses = model.params, list[float]()
            first = second = jax.tree.map(jnp.zeros_like, params)
            for step in range(1, steps + 1):
                loss, slope = descend(params)
                losses.append(float(loss))
                first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slope)
                second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, slope)

                def moved(p: Any, m: Any, v: Any, step: int = step) -> Any:
                    return p - learning_rate * (m / (1 - 0.9**step)) / (jnp.sqrt(v / (1 - 0.999**step)) + 1e-8)

                params = jax.tree.map(moved, params, first, second)
            return losses

    def _double(self) -> JaxModel:
        """The model with float64 alone."""
        model = JaxModel(self.folder, jnp.float64)
        model.params = {name: each.astype(jnp.float64) for name, each in model.params.items()}
        return model

    @staticmethod
    def _loss(model: JaxModel, pixel_values: Array, labels: Array) -> Any:
        pixels, wanted = jnp.asarray(pixel_values, jnp.float64), jnp.asarray(labels)
        return lambda params: model.apply(params, pixels, labels=wanted).loss

    @staticmethod
    def _tensors(model: JaxModel) -> dict[str, Any]:
        return model.params | model.others


def _plain(model: JaxModel) -> JaxModel:
    """The model without the options of its folder: a proof is of greedy search alone."""
    model.writer.stored = GenerationConfig()
    return model


def _as_array(found: Any) -> Array:
    """In float32 at least: NumPy's files have no bfloat16."""
    return np.asarray(found.astype(jnp.promote_types(found.dtype, jnp.float32)))
