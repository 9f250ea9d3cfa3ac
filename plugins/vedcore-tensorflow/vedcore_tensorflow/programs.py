"""The graphs of a model as functions of TensorFlow's tensors. Nothing here imports torch.

Shape letters: N images, B rows of text (a multiple of N), C channels, H x W pixels, S encoder tokens, E their width, T
new tokens, P tokens in the cache, V vocabulary size, G heads of keys and values, K head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from safetensors import deserialize

from vedcore import CheckpointError
from vedcore.export import CONSTANTS, Graphs, Node, interpret, refuse_missing
from vedcore.model_files import WEIGHTS
from vedcore_tensorflow.operations import OPERATIONS

__all__ = ["Cache", "Programs", "attended", "read_arrays"]

Tensors = Mapping[str, Any]
TYPES = {f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)}
TYPES |= {f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)}
TYPES |= {"U8": np.dtype("uint8"), "BOOL": np.dtype("bool"), "BF16": np.dtype(tf.bfloat16.as_numpy_dtype)}
"""Of safetensors, by name; NumPy itself has no bfloat16."""


def read_arrays(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The weights and constants of an export, by name.

    Raises:
        CheckpointError: a file that is not there, or damaged.
    """
    arrays = dict[str, np.ndarray[Any, Any]]()
    for name in (WEIGHTS, CONSTANTS):
        try:
            for key, found in deserialize((folder / name).read_bytes()):  # type: ignore[no-untyped-call]
                arrays[key] = np.frombuffer(found["data"], TYPES[found["dtype"]]).reshape(found["shape"])
        except Exception as error:  # of safetensors' own kinds
            hint = "export the model anew: vedcore export MODEL FOLDER --to graph"
            raise CheckpointError(str(error), path=folder / name, hint=hint) from None
    return arrays


class Cache(NamedTuple):
    """Keys and values of the tokens so far, (B, G, P, K), and of the images, (N, G, S, K), by their names in graphs."""

    past: dict[str, Any]
    cross: dict[str, Any]


class Programs:
    """A model's graphs over its tensors.

    Args:
        graphs: of the export.
        tensors: weights and constants by name, as tensors or variables.
        real: a type to compute in instead of the model's, for tests of gradients.

    Raises:
        IncompatibleError: an operation that is not here.
    """

    def __init__(self, graphs: Graphs, tensors: Tensors, real: Any = None) -> None:
        refuse_missing(graphs, OPERATIONS, "vedcore-tensorflow")
        self.graphs = graphs
        self.tensors = tensors
        self.real = real

    def run(self, name: str, training: bool = False, **inputs: Any) -> dict[str, Any]:
        """The outputs of a graph, by name; that of training where there is one."""
        trained = f"{name}.train"
        graph = self.graphs[trained if training and trained in self.graphs.graphs else name]
        return interpret(graph, OPERATIONS, self._dtype, self.tensors, inputs, _with_shape)

    def encode(self, pixel_values: Any, training: bool = False) -> Any:
        """Images (N, C, H, W) to encoder states (N, S, E)."""
        dtype = self._dtype(self.graphs["encode"].inputs[0].dtype)
        pixel_values = tf.cast(pixel_values, dtype)
        return self.run("encode", training, pixel_values=pixel_values)["encoder_hidden_states"]

    def start(self, states: Any, rows: Any, training: bool = False) -> Cache:
        """An empty cache for encoder states (N, S, E) and some rows of text."""
        cross = self.run("cross", training, encoder_hidden_states=states)
        past = {}
        for port in self.graphs["step"].inputs:
            if port.name.startswith("past_"):
                assert port.shape is not None  # a tensor
                past[port.name] = tf.zeros([rows, port.shape[1], 0, port.shape[3]], self._dtype(port.dtype))
        return Cache(past, cross)

    def step(self, ids: Any, positions: Any, mask: Any, cache: Cache, training: bool = False) -> tuple[Any, Cache]:
        """Ids (B, T), their positions (B, T) and mask (B, 1, T, P + T) to logits (B, T, V) and the longer cache."""
        inputs = {"input_ids": ids, "positions": positions, "mask": mask, **cache.past, **cache.cross}
        out = self.run("step", training, **inputs)
        past = {name: tf.concat([each, out["new" + name.removeprefix("past")]], 2) for name, each in cache.past.items()}
        return out["logits"], Cache(past, cache.cross)

    def positions(self, ids: Any, mask: Any) -> Any:
        """Positions (B, T) of ids (B, T) whose mask is True where a token counts; -1 for padding."""
        return self.run("positions", input_ids=ids, attention_mask=mask)["positions"]

    def written_positions(self, tokens: Any, after: Any) -> Any:
        """Positions (B, 1) of tokens that were written, of which ``after`` (B, 1) others came before.

        Where a decoder gives the padding id no position, a written one has none, and those behind it count it.
        """
        graph = self.graphs["positions"]
        ids = {"node": graph.inputs[0].node}
        if not any(ids in node.args for node in graph.nodes if node.op != "sym_size.int"):
            return after
        own = self.positions(tokens, tf.ones_like(tokens, tf.bool))
        return tf.where(own < 0, own, after)

    def logits(self, states: Any, ids: Any, mask: Any = None, training: bool = False) -> Any:
        """Encoder states (N, S, E) and whole texts (B, T) to logits (B, T, V)."""
        mask = tf.ones_like(ids, tf.bool) if mask is None else tf.cast(mask, tf.bool)
        cache = self.start(states, tf.shape(ids)[0], training)
        inputs = {"input_ids": ids, "positions": self.positions(ids, mask), "mask": attended(mask)}
        return self.run("step", training, **inputs, **cache.past, **cache.cross)["logits"]

    def shifted(self, labels: Any) -> Any:
        """Labels (B, T) to the decoder's input (B, T)."""
        return self.run("shift", labels=labels)["input_ids"]

    def loss(self, logits: Any, labels: Any) -> Any:
        """The mean loss of labels (B, T), of which -100 does not count."""
        return self.run("loss", logits=logits, labels=labels)["loss"]

    def _dtype(self, name: str) -> Any:
        dtype = getattr(tf, name)
        return self.real if self.real is not None and dtype.is_floating else dtype


def attended(mask: Any) -> Any:
    """(B, T), True where a token counts, to (B, 1, T, T), True where one attends: to itself, and those before."""
    key = tf.range(tf.shape(mask)[1])
    query = tf.expand_dims(key, 1)
    mask = tf.expand_dims(tf.expand_dims(mask, 1), 1)  # a slice with new axes is not of TensorFlow Lite
    return ((key <= query) & mask) | tf.equal(key, query)


def _with_shape(node: Node, value: Any) -> Any:
    """A result with the sizes that are known since the graph was recorded, and that TensorFlow may not see."""
    if node.shape is not None and tf.is_tensor(value) and not value.shape.is_fully_defined():
        value.set_shape([each if isinstance(each, int) else None for each in node.shape])
    return value
