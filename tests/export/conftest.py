"""Small models of each family, and their recorded graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vedcore
from vedcore.export.graphs import Graph
from vedcore.export.programs import programs
from vedcore.export.tracing import trace

_VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40, "patch_size": 8}
_SWIN = {"embed_dim": 12, "depths": (1, 2), "num_heads": (1, 2), "window_size": 4, "patch_size": 2}
ENCODERS: dict[str, dict[str, Any]] = {
    "vit": {"name": "vit", **_VIT, "image_size": (16, 32)},
    "deit": {"name": "deit_tiny_distilled_patch16_224", **_VIT, "image_size": (16, 32)},
    "beit": {"name": "beit", **_VIT, "image_size": (16, 32)},
    "swin": {"name": "swin", **_SWIN, "image_size": (32, 32)},
    "donut-swin": {"name": "swin", **_SWIN, "image_size": (32, 32), "use_absolute_embeddings": True},
    "convnext": {"name": "timm/convnext_atto", "image_size": (64, 64)},
    "resnet": {"name": "timm/test_resnet", "image_size": (64, 64)},
}
_SPREAD = 0.3
_BERT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
_BERT |= {"max_position_embeddings": 40, "initializer_range": _SPREAD}
_BART = {"d_model": 24, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 40}
_BART |= {"max_position_embeddings": 40, "init_std": _SPREAD}
DECODERS: dict[str, dict[str, Any]] = {
    "bert": {"name": "bert", **_BERT},
    "roberta": {"name": "roberta", **_BERT},
    "distilbert": {"name": "distilbert", "dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 40,
                   "max_position_embeddings": 40, "initializer_range": _SPREAD},
    "gpt2": {"name": "gpt2", "n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 40, "initializer_range": _SPREAD},
    "bart": {"name": "bart", **_BART},
    "mbart": {"name": "mbart", **_BART},
    "trocr": {"name": "trocr", **_BART},
    "trocr sinusoidal": {"name": "trocr", **_BART, "use_learned_position_embeddings": False},
}  # fmt: skip


def tiny(encoder: str = "vit", decoder: str = "gpt2", **options: Any) -> Any:
    ids = {"start": 2, "eos": (3,), "pad": 1}
    return vedcore.compose(
        ENCODERS[encoder], DECODERS[decoder], decoder_vocab_size=50, tokenizer=None, seed=7, token_ids=ids, **options
    )


def images(model: Any, rows: int, seed: int = 0) -> Tensor:
    height, width = model.encoder.preprocessing.image_size
    return torch.randn(rows, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2


def traced(model: Any, *names: str) -> tuple[dict[str, Graph], dict[str, Tensor]]:
    """Some graphs of a model, and all tensors that they read."""
    found = [trace(program) for program in programs(model) if program.name in names]
    return {graph.name: graph for graph, _ in found}, {name: each for _, more in found for name, each in more.items()}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An export of a small model, with its proof: the model, the folder, the report."""
    model, folder = tiny("deit", "roberta"), tmp_path_factory.mktemp("exports") / "graph"
    return model, folder, model.export(folder)
