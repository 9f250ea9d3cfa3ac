"""The benchmark's models in ONNX Runtime: two graphs exported from transformers, and a plain loop over them.

Shape letters: A rows of the past, B rows of the step, C channels, D head width, S image tokens, T text tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import Tensor, nn

INSTALLED = all(find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))


class Look(nn.Module):
    """Pixels to the keys and values of cross-attention, layer by layer; the export drops the rest of the decoder."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(1, C, H, W) -> keys, values, keys, …, each (1, heads, S, D)."""
        start = torch.tensor([[self.model.config.decoder_start_token_id]])
        read = self.model(pixel_values=pixels, decoder_input_ids=start, use_cache=True)
        return [states for layer in read.past_key_values.cross_attention_cache.layers for states in layer_of(layer)]


class Step(nn.Module):
    """One decoding step: the most probable next tokens of every row, and the past with the current token added."""

    def __init__(self, model: Any, beams: int) -> None:
        super().__init__()
        self.decoder, self.beams = model.decoder, beams

    def forward(
        self, tokens: Tensor, parents: Tensor, past: list[Tensor], seen: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Log-probabilities and ids of the best next tokens, each (B, beams), and the past, each (B, heads, T + 1, D).

        Args:
            tokens: (B, 1), the current tokens.
            parents: (B,), index of the row of the past that each token continues.
            past: keys and values of self-attention, each (A, heads, T, D).
            seen: keys and values of cross-attention, as `Look` returns them.
        """
        past = [states[parents] for states in past]
        cache = hf.EncoderDecoderCache(
            hf.DynamicCache(list(zip(past[::2], past[1::2], strict=True))),
            hf.DynamicCache(list(zip(seen[::2], seen[1::2], strict=True))),
        )
        length_only = seen[0][:, 0]  # (1, S, D): only its length is read, as their keys are in the cache
        logits = self.decoder(tokens, past_key_values=cache, encoder_hidden_states=length_only, use_cache=True).logits
        best = logits[:, -1].log_softmax(-1).topk(self.beams)
        return *best, [states for layer in cache.self_attention_cache.layers for states in layer_of(layer)]


def layer_of(layer: Any) -> tuple[Tensor, Tensor]:
    """Keys and values of one layer of a cache."""
    return layer.keys, layer.values


def export(folder: Path, beams: int, size: int) -> None:
    """Write look.onnx and step.onnx beside the weights, for images of `size` by `size` pixels."""
    hf.utils.logging.disable_progress_bar()
    model = hf.VisionEncoderDecoderModel.from_pretrained(folder).eval()
    pixels = torch.randn(1, 3, size, size)
    with torch.no_grad():
        look, step = Look(model).eval(), Step(model, beams).eval()
        seen = look(pixels)
        past = [states.new_zeros(2, states.shape[1], 5, states.shape[3]) for states in seen]
        grows = torch.export.Dim.DYNAMIC
        rows, grown, fixed = {0: grows}, {0: grows, 2: grows}, {0: torch.export.Dim.STATIC}
        torch.onnx.export(look, (pixels,), folder / "look.onnx", dynamo=True, verbose=False)
        torch.onnx.export(
            step,
            (torch.zeros(3, 1, dtype=torch.long), torch.zeros(3, dtype=torch.long), past, seen),
            folder / "step.onnx",
            dynamo=True,
            verbose=False,
            dynamic_shapes=(rows, rows, [grown] * len(past), [fixed] * len(seen)),
        )


def search(folder: Path, images: Tensor, beams: int, tokens: int, threads: int) -> Callable[..., Tensor]:
    """A function that decodes the one image, or another, to (1, 1 + tokens) ids; the text must not end early."""
    import onnxruntime as ort  # optional

    config = hf.VisionEncoderDecoderConfig.from_pretrained(folder)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # spinning threads would slow the next run
    look, step = (ort.InferenceSession(folder / f"{name}.onnx", options) for name in ("look", "step"))
    names = [entry.name for entry in step.get_inputs()]
    value = ort.OrtValue.ortvalue_from_numpy

    def run(image: Tensor = images) -> Tensor:
        seen = look.run_with_ort_values(None, {look.get_inputs()[0].name: value(image.numpy())})
        _, heads, _, width = seen[0].shape()
        past = [value(np.zeros((1, heads, 0, width), np.float32))] * len(seen)
        ids = np.full((1, 1), config.decoder_start_token_id)  # (rows, T)
        parents, sums = np.zeros(1, np.int64), np.zeros(1, np.float32)  # (rows,)
        for _ in range(tokens):
            given = [value(np.ascontiguousarray(ids[:, -1:])), value(parents), *past, *seen]
            best, chosen, *past = step.run_with_ort_values(None, dict(zip(names, given, strict=True)))
            total = (sums[:, None] + best.numpy()).ravel()  # (rows * beams,)
            top = np.argsort(-total)[:beams]
            parents, sums = top // beams, total[top]
            ids = np.concatenate([ids[parents], chosen.numpy().ravel()[top, None]], 1)
        return torch.from_numpy(ids[:1])

    return run
