"""Hints about trainers: each is given where its template says, and followed."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import transformers as hf

import vedcore
from tests.hints.templates import HOLE, told
from tests.model.tiny import ids, tiny

LABELS = ids(2)
PIXELS = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def test_options_of_checkpointing() -> None:
    model = tiny()
    told(
        "give {'use_reentrant': False}, or call gradient_checkpointing_disable()",
        model.gradient_checkpointing_enable,
        False,
    )
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    error = told(f"there are {HOLE}", model.gradient_checkpointing_enable, {"colour": "red"})
    model.gradient_checkpointing_enable({error.hint.removeprefix("there are ").split(", ")[0]: "default"})
    told("give 1 or more", model.activation_checkpointing_enable, every_n_layers=0)
    model.activation_checkpointing_enable(every_n_layers=1)


def test_layers_that_timm_checkpoints() -> None:
    model = vedcore.compose(
        "timm/test_vit", {"name": "gpt2", "n_layer": 1, "n_embd": 24, "n_head": 2}, tokenizer="char"
    )
    hint = "leave it out, or set model.decoder.gradient_checkpointing = True alone"
    told(hint, model.activation_checkpointing_enable, every_n_layers=2)
    model.activation_checkpointing_enable()
    model.activation_checkpointing_disable()
    model.decoder.gradient_checkpointing = True
    assert model.is_gradient_checkpointing


def test_a_cache_under_checkpointing() -> None:
    model = tiny()
    cache = model(PIXELS, decoder_input_ids=LABELS[:, :2], use_cache=True).past_key_values
    model.gradient_checkpointing_enable()
    model.train()
    hint = "leave it out and give the whole text, or call gradient_checkpointing_disable()"
    told(hint, model, PIXELS, decoder_input_ids=LABELS[:, 2:3], past_key_values=cache)
    model(PIXELS, decoder_input_ids=LABELS[:, :3])
    model.gradient_checkpointing_disable()
    model(PIXELS, decoder_input_ids=LABELS[:, 2:3], past_key_values=cache)


def test_processes_that_generate_in_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    due = model.generate(PIXELS, max_new_tokens=3)
    told("leave it out", model.generate, PIXELS, max_new_tokens=3, synced_gpus=True)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        assert torch.equal(model.generate(PIXELS, max_new_tokens=3, synced_gpus=True), due)
        monkeypatch.setattr(dist, "get_world_size", lambda: 2)
        hint = "pass synced_gpus=False, in FSDP within summon_full_params"
        told(hint, model.generate, PIXELS, max_new_tokens=3, synced_gpus=True)
        assert torch.equal(model.generate(PIXELS, max_new_tokens=3, synced_gpus=False), due)
    finally:
        dist.destroy_process_group()
    assert torch.equal(model.generate(PIXELS, labels=LABELS, max_new_tokens=3, synced_gpus=None), due)


def test_weights_without_settings(tmp_path: Path) -> None:
    model = tiny(tokenizer=None)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    hint = (
        "give them to load_state_dict of the model that training began with; transformers' Trainer saves the settings "
        "too with processing_class=model.processor"
    )
    told(hint, vedcore.load, tmp_path)
    tiny().load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    model.processor.save_pretrained(tmp_path)
    vedcore.load(tmp_path)


def test_ids_of_a_foreign_tokenizer(tmp_path: Path) -> None:
    model = vedcore.compose("vit_tiny_patch16_224", "gpt2", tokenizer="char", image_size=16, decoder_n_layer=1, seed=0)
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=model.processor.tokenizer.backend_tokenizer)
    rows = [{"pixel_values": torch.zeros(3, 16, 16), "labels": LABELS[0]}]
    arguments = hf.TrainingArguments(str(tmp_path), max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True)
    given = {"model": model, "args": arguments, "train_dataset": rows}
    hint = (
        "give processing_class=model.processor, and set other ids before: model.token_ids = model.token_ids.changed(…)"
    )
    told(hint, hf.Trainer(**given, processing_class=tokenizer).train)
    model.token_ids = model.token_ids.changed(pad=4)
    hf.Trainer(**given, processing_class=model.processor).train()
    assert vedcore.load(tmp_path / "checkpoint-1").token_ids.pad == 4
