"""The graphs of an export as functions of its tensors, which `jax.jit` and `jax.grad` take.

Shape letters: N images, B rows of text (a multiple of N), C room of a cache, S encoder tokens, E width of the encoder
states, T new tokens, V vocabulary size, G heads of keys and values, K head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array, lax

from vedcore.export import Graph, Graphs, Node, interpret, refuse_missing
from vedcore_jax.caching import UPDATE, in_place, names
from vedcore_jax.operations import OPERATIONS, operations

__all__ = ["Cache", "Programs", "Tensors"]

Tensors = Mapping[str, Array]
_PARTS = {"encode": 0, "cross": 1, "step": 2}


@struct.dataclass
class Cache:
    """Keys and values of the text so far, and those of the images."""

    past: dict[str, Array]
    """``past_keys.i`` and ``past_values.i`` (B, G, C, K)."""
    cross: dict[str, Array]
    """``cross_keys.i`` and ``cross_values.i`` (N, G, S, K): once an image, whatever the rows of text."""
    mask: Array
    """(B, C) True where a token may be attended to."""
    taken: Array
    """(B,) positions taken."""
    length: Array
    """() tokens so far."""


class Programs:
    """The graphs of a model.

    Args:
        graphs: as `vedcore.export.read_graphs` gives them.
        dtype: to compute with, in place of the type that the model was recorded in.

    Raises:
        IncompatibleError: an operation that JAX does not have here.
    """

    def __init__(self, graphs: Graphs, dtype: Any = None) -> None:
        refuse_missing(graphs, [*OPERATIONS, *operations()], "vedcore-jax")
        self.graphs = graphs
        self.recorded = jnp.dtype(graphs["encode"].inputs[0].dtype)
        self.dtype = self.recorded if dtype is None else jnp.dtype(dtype)
        self._exact = {graph.name: _exact(graph) for graph in graphs.graphs.values()}
        self._in_place = in_place(graphs["step"])

    @property
    def writes_in_place(self) -> bool:
        """Whether a step writes new keys into the cache without a copy of it."""
        return self._in_place is not None

    def run(
        self,
        graph: Graph,
        tensors: Tensors,
        inputs: Mapping[str, Any],
        key: Array | None = None,
        dtype: Any = None,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Array]:
        """The outputs of a graph by name.

        Args:
            graph: one of the model's.
            tensors: those that it reads, at least; floats are cast where they are used.
            inputs: by name.
            key: for what it drops at random; None drops nothing.
            dtype: to compute with, in place of the model's.
            extra: operations beside the usual ones.
        """
        dtype, exact = jnp.dtype(dtype or self.dtype), self._exact[graph.name]
        fine = jnp.promote_types(dtype, self.recorded)  # of what no weight has a part in, such as tables of sines

        def type_of(name: str) -> Any:
            found = jax.dtypes.canonicalize_dtype(jnp.dtype(name))
            return fine if found == self.recorded else found

        def cast(value: Any) -> Any:
            return value.astype(dtype) if jnp.issubdtype(value.dtype, jnp.floating) else value

        def made(node: Node, value: Any) -> Any:
            if node.dtype is None or not isinstance(value, jax.Array):
                return value
            wanted = type_of(node.dtype)
            wanted = dtype if wanted == fine and node.name not in exact else wanted
            return value if value.dtype == wanted else value.astype(wanted)

        return interpret(
            graph,
            operations(key) | dict(extra or {}),
            type_of,
            {port.name: cast(tensors[port.name]) for port in graph.tensors},
            {name: cast(jnp.asarray(each)) for name, each in inputs.items()},
            made,
        )

    def part(self, name: str, tensors: Tensors, inputs: Mapping[str, Any], key: Array | None) -> dict[str, Array]:
        """``encode``, ``cross`` or ``step``, as in training where there is a key."""
        graph = self.graphs[name if key is None else f"{name}.train"]
        return self.run(graph, tensors, inputs, None if key is None else jax.random.fold_in(key, _PARTS[name]))

    def encode(self, tensors: Tensors, pixel_values: Any, key: Array | None = None) -> Array:
        """Images (N, C, H, W) to encoder states (N, S, E) as the decoder takes them."""
        return self.part("encode", tensors, {"pixel_values": pixel_values}, key)["encoder_hidden_states"]

    def whole(
        self,
        tensors: Tensors,
        states: Array,
        input_ids: Array,
        mask: Array | None = None,
        positions: Array | None = None,
        key: Array | None = None,
    ) -> dict[str, Array]:
        """``logits`` (B, T, V) and ``last_hidden_state`` (B, T, D) of whole texts, without a cache.

        Args:
            tensors: of the model.
            states: (N, S, E).
            input_ids: (B, T).
            mask: (B, T) 0 or False where no token attends.
            positions: (B, T) in place of those that the decoder counts.
            key: for dropout.
        """
        cross = self.part("cross", tensors, {"encoder_hidden_states": states}, key)
        rows, tokens = input_ids.shape
        real = jnp.ones((rows, tokens), bool) if mask is None else jnp.asarray(mask, bool)
        own = jnp.arange(tokens)[:, None]
        attends = ((jnp.arange(tokens) <= own) & real[:, None]) | (jnp.arange(tokens) == own)
        positions = self.positions(tensors, input_ids, real) if positions is None else positions
        inputs = {"input_ids": input_ids, "positions": positions, "mask": attends[:, None]}
        return self.part("step", tensors, inputs | self._past(rows, 0) | cross, key)

    def loss(self, logits: Array, labels: Array) -> Array:
        """The mean loss of labels (B, T), of which -100 does not count."""
        wide = jnp.promote_types(logits.dtype, jnp.float32)
        return self.run(self.graphs["loss"], {}, {"logits": logits, "labels": labels}, dtype=wide)["loss"]

    def shift(self, labels: Array) -> Array:
        """Labels (B, T) to the decoder's input (B, T)."""
        return self.run(self.graphs["shift"], {}, {"labels": labels})["input_ids"]

    def cache(self, tensors: Tensors, states: Array, rows: int, room: int) -> Cache:
        """An empty cache of ``rows`` texts, each of up to ``room`` tokens, about the images of ``states``."""
        cross = self.part("cross", tensors, {"encoder_hidden_states": states}, None)
        return Cache(
            self._past(rows, room),
            cross,
            jnp.zeros((rows, room), bool),
            jnp.zeros(rows, int),
            jnp.zeros((), int),
        )

    def step(
        self,
        tensors: Tensors,
        input_ids: Array,
        cache: Cache,
        mask: Array | None = None,
        positions: Array | None = None,
        prompt: bool = False,
        first: Array | None = None,
    ) -> tuple[dict[str, Array], Cache]:
        """``logits`` (B, T, V) and ``last_hidden_state`` of new tokens, and the cache with them.

        Args:
            tensors: of the model.
            input_ids: (B, T).
            cache: with room for them.
            mask: (B, T) False for padding.
            positions: (B, T) in place of those that the decoder counts.
            prompt: count only the tokens that take a position, as in a prompt; else those that take none count too.
            first: (B, T) positions in place of those, where they are not below -1.
        """
        rows, tokens = input_ids.shape
        real = jnp.ones((rows, tokens), bool) if mask is None else jnp.asarray(mask, bool)
        begun = (jnp.cumsum(real, 1) > 0) | (cache.taken > 0)[:, None]
        after = cache.taken[:, None] + jnp.cumsum(begun, 1)
        if positions is None:
            counted = self.positions(tensors, input_ids, real)
            positions = jnp.where(counted < 0, -1, counted + cache.taken[:, None] if prompt else after - 1)
            positions = positions if first is None else jnp.where(first < -1, positions, first)
        known = lax.dynamic_update_slice(cache.mask, real, (0, cache.length))
        key, own = jnp.arange(known.shape[1]), cache.length + jnp.arange(tokens)[:, None]
        attends = ((key <= own) & known[:, None]) | (key == own)
        inputs = {"input_ids": input_ids, "positions": positions, "mask": attends[:, None], **cache.past, **cache.cross}
        out = self._step(tensors, inputs, cache.length, tokens)
        past = {name: out[name.replace("past_", "new_", 1)] for name in cache.past}
        return out, cache.replace(  # type: ignore[attr-defined]
            past=past, mask=known, taken=after[:, -1], length=cache.length + tokens
        )

    def _step(self, tensors: Tensors, inputs: dict[str, Any], at: Array, tokens: int) -> dict[str, Array]:
        """A step whose outputs ``new_keys.i`` and ``new_values.i`` are whole buffers."""

        def update(buffer: Array, new: Array) -> Array:
            return lax.dynamic_update_slice(buffer, new.astype(buffer.dtype), (0, 0, at, 0))

        if self._in_place is not None:
            return self.run(self._in_place, tensors, inputs, extra={UPDATE: update})
        mask = inputs["mask"]  # the new tokens come last, behind all of the buffer
        new = lax.dynamic_slice_in_dim(mask, at, tokens, 3)
        inputs = inputs | {"mask": jnp.concatenate([mask & (jnp.arange(mask.shape[3]) < at), new], 3)}
        out = self.run(self.graphs["step"], tensors, inputs)
        past = {name: each for name, each in inputs.items() if name.startswith("past_")}
        return out | {
            (name := each.replace("past_", "new_", 1)): update(buffer, out[name]) for each, buffer in past.items()
        }

    def positions(self, tensors: Tensors, input_ids: Array, real: Array) -> Array:
        """Positions (B, T) of tokens whose mask is (B, T); -1 for those that take none."""
        inputs = {"input_ids": input_ids, "attention_mask": real}
        return self.run(self.graphs["positions"], tensors, inputs)["positions"]

    def _past(self, rows: int, room: int) -> dict[str, Array]:
        """Empty buffers (B, G, C, K)."""
        ports = [port for port in self.graphs["step"].inputs if port.name.startswith("past_")]
        shapes = {port.name: (rows, port.shape[1], room, port.shape[3]) for port in ports if port.shape is not None}
        return {name: jnp.zeros(shape, self.dtype) for name, shape in shapes.items()}


def _exact(graph: Graph) -> frozenset[str]:
    """The nodes that no weight and no float of the inputs has a part in."""
    floats = {port.node for port in (*graph.tensors, *graph.inputs) if "float" in port.dtype}
    for node in graph.nodes:
        if node.op == "sym_size.int":
            continue
        if floats & {*names((node.args, node.kwargs))} and (node.dtype is None or "float" in node.dtype):
            floats.add(node.name)
    return frozenset(node.name for node in graph.nodes if node.name not in floats)
