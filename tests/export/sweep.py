"""Encoders of timm through ``encode``: what they give as a graph, beside the model.

    python -m tests.export.sweep [NAME ...] > docs/exports-sweep.txt

A line a model: seconds to record it, nodes, the shape of its images, and the greatest difference relative to the
greatest number, at two images, where three were recorded.
"""

from __future__ import annotations

import sys
import time
import warnings

import torch

import vedcore
from vedcore.export.programs import programs
from vedcore.export.running import run
from vedcore.export.tracing import trace

NAMES = [
    "beit_base_patch16_224", "caformer_s18", "convnext_atto", "convnextv2_atto", "davit_tiny",
    "deit_tiny_patch16_224", "densenet121", "edgenext_xx_small", "efficientformerv2_s0", "efficientnet_b0",
    "eva02_tiny_patch14_224", "fastvit_t8", "ghostnet_100", "hiera_tiny_224", "levit_128s",
    "maxvit_tiny_tf_224", "mobilenetv3_small_100", "mobilevit_xxs", "nfnet_l0", "poolformer_s12", "pvt_v2_b0",
    "regnetx_002", "repvit_m0_9", "resnet18", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256",
    "tiny_vit_5m_224", "vgg11", "vit_base_patch16_siglip_224", "vit_small_patch14_dinov2",
    "vit_tiny_patch16_224", "xcit_nano_12_p16_224",
]  # fmt: skip
DECODER = {"name": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 20}
IDS = {"start": 2, "eos": (3,), "pad": 1}
BOUND = 2e-5


def tried(name: str) -> str:
    """The line of a model."""
    options = {"decoder_vocab_size": 50, "tokenizer": None, "seed": 0, "token_ids": IDS}
    model = vedcore.compose(f"timm/{name}", DECODER, **options)  # type: ignore[arg-type]
    began = time.perf_counter()
    graph, tensors = trace(next(programs(model)))
    seconds = time.perf_counter() - began
    height, width = model.encoder.preprocessing.image_size
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        due = model.project(model.encode(pixels))[0]
        found = run(graph, tensors, {"pixel_values": pixels})["encoder_hidden_states"]
    difference = float((found - due).abs().max() / due.abs().max())
    said = "" if difference <= BOUND else "  TOO LARGE"
    shape = " x ".join(str(size) for size in graph.inputs[0].shape or ())
    return f"{seconds:6.1f} s  {len(graph.nodes):5} nodes  {shape:<26}  {difference:.1e}{said}"


def main(names: list[str]) -> None:
    """Print the lines."""
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, timm's models with random weights")
    for name in names or NAMES:
        try:
            said = tried(name)
        except vedcore.VedcoreError as error:
            said = f"refused: {error}"
        print(f"{name:<30}  {said}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
