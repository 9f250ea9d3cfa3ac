"""Running an export with torch, without the model's code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from vedcore.export.exporter import Array, Exporter, Runtime
from vedcore.export.graphs import CONSTANTS, Graph, Graphs, read_graphs
from vedcore.export.interpreter import interpret
from vedcore.model_files import WEIGHTS

__all__ = ["GraphExporter", "TorchRuntime", "run"]


class GraphExporter(Exporter):
    """The graphs alone, which every export has."""

    runtime = "vedcore.export.running:TorchRuntime"
    blocked = ("timm", "pluggy")

    def write(self, folder: Path, graphs: Graphs, **options: Any) -> None:
        """Nothing is left to write."""


class _Operations(dict[str, Callable[..., Any]]):
    """Torch's own operations by the names in graphs."""

    def __missing__(self, name: str) -> Callable[..., Any]:
        base, _, overload = name.partition(".")
        found: Callable[..., Any] = getattr(getattr(torch.ops.aten, base), overload or "default")
        return self.setdefault(name, found)


_OPERATIONS = _Operations(view=torch.reshape, _unsafe_view=torch.reshape)  # strides may differ from those recorded


def run(graph: Graph, tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of a graph, by name.

    Args:
        graph: the program.
        tensors: at least those that it reads.
        inputs: a tensor for each of its inputs.
    """
    return interpret(graph, _OPERATIONS, lambda name: getattr(torch, name), tensors, inputs)


class TorchRuntime(Runtime):
    """An export in torch.

    Shape letters: N images, B rows of text, T text tokens, P tokens in the cache, L = P + T.
    """

    def __init__(self, folder: Path) -> None:
        self.graphs = read_graphs(folder)
        self.tensors = {**load_file(folder / WEIGHTS), **load_file(folder / CONSTANTS)}

    def encode(self, pixel_values: Array) -> Array:
        """See `Runtime.encode`."""
        return self._encode(torch.from_numpy(pixel_values), self.tensors).numpy()

    def logits(self, pixel_values: Array, input_ids: Array, attention_mask: Array | None = None) -> Array:
        """See `Runtime.logits`."""
        ids = torch.from_numpy(input_ids)
        mask = None if attention_mask is None else torch.from_numpy(attention_mask)
        return self._forward(torch.from_numpy(pixel_values), ids, mask, self.tensors).numpy()

    def steps(self, pixel_values: Array, input_ids: Array) -> Array:
        """See `Runtime.steps`."""
        cache = self._cross(torch.from_numpy(pixel_values), self.tensors)
        ids = torch.from_numpy(input_ids)
        return torch.cat([self._step(ids[:, i : i + 1], i, cache) for i in range(ids.shape[1])], 1).numpy()

    def generate(self, pixel_values: Array, max_new_tokens: int) -> Array:
        """See `Runtime.generate`."""
        token_ids, cache = self.graphs.token_ids, self._cross(torch.from_numpy(pixel_values), self.tensors)
        ids = torch.full((len(pixel_values), 1), token_ids["start"])
        ended = torch.zeros(len(pixel_values), dtype=torch.bool)
        for i in range(max_new_tokens):
            new = self._step(ids[:, -1:], i, cache)[:, -1].argmax(-1)
            new[ended] = token_ids["pad"]
            ended |= torch.isin(new, torch.tensor(token_ids["eos"]))
            ids = torch.cat([ids, new[:, None]], 1)
            if ended.all():
                break
        return ids.numpy()

    def loss(self, pixel_values: Array, labels: Array) -> float:
        """See `Runtime.loss`."""
        return float(self._loss(torch.from_numpy(pixel_values), torch.from_numpy(labels), self.tensors))

    def gradients(self, pixel_values: Array, labels: Array) -> dict[str, Array]:
        """See `Runtime.gradients`."""
        tensors = {name: each.double() if each.is_floating_point() else each for name, each in self.tensors.items()}
        trained = [name for name in self.graphs.trained if name in tensors]
        for name in trained:
            tensors[name].requires_grad_()
        self._loss(torch.from_numpy(pixel_values).double(), torch.from_numpy(labels), tensors).backward()  # type: ignore[no-untyped-call]
        found = {name: tensors[name].grad for name in trained}
        return {name: each.numpy() for name, each in found.items() if each is not None}

    def train(self, pixel_values: Array, labels: Array, learning_rate: float, steps: int) -> list[float]:
        """See `Runtime.train`."""
        tensors = {name: each.clone() for name, each in self.tensors.items()}
        trained = [tensors[name].requires_grad_() for name in self.graphs.trained if name in tensors]
        optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
        losses = []
        for _ in range(steps):
            loss = self._loss(torch.from_numpy(pixel_values), torch.from_numpy(labels), tensors)
            losses.append(float(loss))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return losses

    def _encode(self, pixel_values: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        return run(self.graphs["encode"], tensors, {"pixel_values": pixel_values})["encoder_hidden_states"]

    def _cross(self, pixel_values: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The rest of what a step takes: the keys and values of the images, and an empty cache."""
        states = self._encode(pixel_values, tensors)
        past = (port for port in self.graphs["step"].inputs if port.name.startswith("past_"))
        shapes = {port.name: port.shape or () for port in past}
        rows = len(pixel_values)
        empty = {name: states.new_zeros(rows, int(s[1]), 0, int(s[3])) for name, s in shapes.items()}
        return {**run(self.graphs["cross"], tensors, {"encoder_hidden_states": states}), **empty}

    def _forward(self, pixel_values: Tensor, ids: Tensor, mask: Tensor | None, tensors: Mapping[str, Tensor]) -> Tensor:
        counts = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        positions = run(self.graphs["positions"], tensors, {"input_ids": ids, "attention_mask": counts})["positions"]
        key = torch.arange(ids.shape[1])
        attends = (key <= key[:, None]) & counts[:, None] | (key == key[:, None])  # (B, T, T)
        text = {"input_ids": ids, "positions": positions, "mask": attends[:, None]}
        return run(self.graphs["step"], tensors, {**text, **self._cross(pixel_values, tensors)})["logits"]

    def _step(self, ids: Tensor, past: int, cache: dict[str, Tensor]) -> Tensor:
        """Logits (B, 1, V) of a token (B, 1); its keys and values join the cache."""
        rows = len(ids)
        counts = {"input_ids": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool)}
        first = run(self.graphs["positions"], self.tensors, counts)["positions"]  # -1 of an id that takes none
        mask = torch.ones(rows, 1, 1, past + 1, dtype=torch.bool)
        text = {"input_ids": ids, "positions": torch.where(first < 0, first, past), "mask": mask}
        out = run(self.graphs["step"], self.tensors, {**text, **cache})
        for name, each in out.items():
            if name.startswith("new_"):
                past_name = name.replace("new_", "past_", 1)
                cache[past_name] = torch.cat([cache[past_name], each], 2)
        return out["logits"]

    def _loss(self, pixel_values: Tensor, labels: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        ids = run(self.graphs["shift"], tensors, {"labels": labels})["input_ids"]
        logits = self._forward(pixel_values, ids, None, tensors)
        return run(self.graphs["loss"], tensors, {"logits": logits, "labels": labels})["loss"]
