"""A tiny checkpoint of transformers, and the models of both libraries in it; data to train them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor

import vedcore
from tests.model.tiny import spread

VOCABULARY, PAD, START, EOS = 40, 1, 0, 2
IMAGES = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(3))
SETTINGS: dict[str, dict[str, Any]] = {
    "bert": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 24,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": PAD,
    },
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 24,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 24,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": START,
        "eos_token_id": EOS,
    },
}
"""Decoders with tied weights, without dropout, which the libraries draw in another order."""


def rows(length: int = 12) -> list[dict[str, Tensor]]:
    """Images with labels of up to six tokens, the end id last, then -100."""
    generator = torch.Generator().manual_seed(4)
    found = []
    for i, image in enumerate(IMAGES[:length]):
        labels = torch.full((6,), -100)
        end = 2 + i % 4
        labels[:end] = torch.randint(3, VOCABULARY, (end,), generator=generator)
        labels[end] = EOS
        found.append({"pixel_values": image, "labels": labels})
    return found


def checkpoint(folder: Path, decoder: str) -> Path:
    """A folder that transformers wrote, with an image processor."""
    vit = hf.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    text = hf.AutoConfig.for_model(decoder, is_decoder=True, add_cross_attention=True, **SETTINGS[decoder])
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, text)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = START, PAD, EOS
    model = hf.VisionEncoderDecoderModel(config)
    spread(model, 5)
    model.generation_config.decoder_start_token_id = START
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = PAD, EOS
    model.save_pretrained(folder)
    hf.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def both(folder: Path) -> tuple[Any, Any]:
    """transformers' model of a checkpoint and ours, and what each gives Trainer as ``processing_class``."""
    ours = vedcore.load(folder)
    theirs = hf.VisionEncoderDecoderModel.from_pretrained(folder)
    return (theirs, hf.ViTImageProcessor.from_pretrained(folder)), (ours, ours.processor)


def arguments(folder: Path, **options: Any) -> Any:
    """Arguments of Seq2SeqTrainer as the tutorials set them."""
    settings = {
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        **options,
    }
    return hf.Seq2SeqTrainingArguments(str(folder), **settings)


def losses(trainer: Any, name: str = "loss") -> list[float]:
    """The logged losses."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]
