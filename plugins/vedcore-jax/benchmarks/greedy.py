"""Seconds of a greedy text of 24 tokens: vedcore in torch and in JAX, and transformers 4.57's Flax class, in turns.

    python plugins/vedcore-jax/benchmarks/greedy.py [--flax PYTHON] [--rounds 5] [--model NAME] [--json FILE]

PYTHON is that of an environment with transformers 4.57.6, flax and torch; without it that column is left out. All have
random weights and no end id, so that all texts are of 24 tokens. The least of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TOKENS = 24
SIZES = {"ViT-small + 6-layer GPT2": (384, 6, 6), "ViT-base + GPT2": (768, 12, 12)}
"""Width and heads of the encoder, and layers of the decoder."""
BATCHES = (1, 8)


def in_flax(size: str) -> Callable[[Any], Any]:
    """transformers' model."""
    import jax
    from transformers import FlaxVisionEncoderDecoderModel, GPT2Config, VisionEncoderDecoderConfig, ViTConfig

    width, heads, layers = SIZES[size]
    vit = ViTConfig(hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width)
    gpt2 = GPT2Config(n_layer=layers, add_cross_attention=True, is_decoder=True)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, gpt2)
    config.decoder_start_token_id = config.pad_token_id = 50256
    config.decoder.eos_token_id = None
    model = FlaxVisionEncoderDecoderModel(config)
    model.generation_config.eos_token_id = None
    generate = jax.jit(
        lambda params, pixels: (
            model.generate(
                pixels, params=params, max_length=TOKENS + 1, eos_token_id=50257, min_length=-1, pad_token_id=50256
            ).sequences
        )
    )
    params = jax.tree.map(jax.numpy.asarray, model.params)
    return lambda pixels: np.asarray(generate(params, pixels))


def in_vedcore(size: str) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Our model in torch and in JAX."""
    import torch

    import vedcore
    import vedcore_jax
    from vedcore.export.recording import record

    width, heads, layers = SIZES[size]
    vit = {"name": "vit", "hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width}
    model = vedcore.compose(vit, {"name": "gpt2", "n_layer": layers}, tokenizer=None, seed=0)
    with tempfile.TemporaryDirectory() as place:
        record(model, Path(place, "model"))
        other = vedcore_jax.load(Path(place, "model"))
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "eos_token_id": ()}
    return (
        lambda pixels: model.generate(torch.from_numpy(pixels), **options).numpy(),
        lambda pixels: np.asarray(other.generate(pixels, **options).sequences),
    )


def pixels(rows: int) -> Any:
    return np.random.default_rng(0).standard_normal((rows, 3, 224, 224), dtype=np.float32)


def timed(generate: Callable[[Any], Any], images: Any) -> float:
    began = time.perf_counter()
    assert generate(images).shape == (len(images), TOKENS + 1)
    return time.perf_counter() - began


def serve(size: str) -> None:
    """Time a text for each line with a number of images."""
    generate = in_flax(size)
    for line in sys.stdin:
        print(timed(generate, pixels(int(line))), flush=True)


class Flax:
    """The model of another environment."""

    def __init__(self, python: str, size: str) -> None:
        command = [python, __file__, "--serve", size]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def seconds(self, images: Any) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(len(images), file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--flax")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    parser.add_argument("--model", choices=SIZES, action="append", help="one of them alone")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given.serve)
    results = []
    for size in given.model or SIZES:
        torch_model, jax_model = in_vedcore(size)
        flax = Flax(given.flax, size) if given.flax else None
        for rows in BATCHES:
            images = pixels(rows)
            assert np.array_equal(torch_model(images), jax_model(images)), "other ids"
            found: dict[str, list[float]] = {}
            for _ in range(given.rounds + 1):
                found.setdefault("torch", []).append(timed(torch_model, images))
                found.setdefault("jax", []).append(timed(jax_model, images))
                if flax is not None:
                    found.setdefault("flax", []).append(flax.seconds(images))
            row = {"model": size, "images": rows, **{name: round(min(each[1:]), 3) for name, each in found.items()}}
            results.append(row)
            print(row, flush=True)
        if flax is not None:
            flax.process.kill()
    if given.json:
        Path(given.json).write_text(json.dumps(results, indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
