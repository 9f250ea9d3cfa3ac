"""Gradient checkpointing by transformers' names: the same gradients, whatever torch's implementation."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

import vedcore

ENCODERS: dict[str, dict[str, Any]] = {
    "vit": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 32},
    "deit": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 32},
    "beit": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 32},
    "swin": {"embed_dim": 12, "depths": (1, 2), "num_heads": (2, 2), "window_size": 2, "patch_size": 4},
    "donut-swin": {"embed_dim": 12, "depths": (1, 2), "num_heads": (2, 2), "window_size": 2, "patch_size": 4},
    "timm/test_vit": {},
    "timm/test_convnext": {},
}
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 24, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "bert": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    "roberta": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    "bart": {"d_model": 24, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 32},
    "trocr": {"d_model": 24, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 32},
    "distilbert": {"dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
}
LABELS = torch.randint(4, 60, (2, 6), generator=torch.Generator().manual_seed(0))
OPTIONS = [{"use_reentrant": True}, {"use_reentrant": False}, {"preserve_rng_state": True}, None]


def made(encoder: str = "vit", decoder: str = "gpt2") -> Any:
    name = "swin" if encoder == "donut-swin" else encoder
    settings = {"final_norm": False} if encoder == "donut-swin" else {}
    if "timm/" not in name:
        settings["image_size"] = 32
    return vedcore.compose(
        {"name": name, **ENCODERS[encoder], **settings},
        {"name": decoder, **DECODERS[decoder]},
        tokenizer="char",
        seed=0,
    )


def pixels(model: Any) -> Tensor:
    size = model.encoder.preprocessing.image_size
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def gradients(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(3)  # of dropout
    model.zero_grad()
    loss = model.train()(pixels(model), labels=LABELS).loss
    loss.backward()
    return loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


PAIRS = [*((encoder, "gpt2") for encoder in ENCODERS), *(("vit", decoder) for decoder in DECODERS)]


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_gradients_are_the_same(encoder: str, decoder: str) -> None:
    model = made(encoder, decoder)
    due = gradients(model)
    for options in OPTIONS if "timm/" not in encoder else OPTIONS[:2]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        assert model.is_gradient_checkpointing
        torch.testing.assert_close(gradients(model), due)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    torch.testing.assert_close(gradients(model), due)
    assert not model.encoder._forward_pre_hooks


@pytest.mark.parametrize(("every", "offload"), [(2, False), (1, True)])
def test_some_layers_only_and_inputs_elsewhere(every: int, offload: bool) -> None:
    model = made()
    due, kept = gradients(model), []
    model.activation_checkpointing_enable(every_n_layers=every, offload=offload)
    found = gradients(model)
    torch.testing.assert_close(found, due)
    for n in (1, 2, 0):
        model.activation_checkpointing_disable() if not n else model.activation_checkpointing_enable(every_n_layers=n)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            model(pixels(model), labels=LABELS)
        kept.append(sum(sizes))
    assert kept[0] < kept[1] < kept[2]


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("early", [True, False])
def test_adapters_behind_frozen_embeddings(reentrant: bool, early: bool) -> None:
    """PEFT freezes the embeddings, so that no input of the first block requires a gradient."""
    model, options = made(), {"use_reentrant": reentrant}
    config = peft.LoraConfig(target_modules=["query", "value", "qkv"], r=4, init_lora_weights=False)
    _, due = gradients(peft.get_peft_model(copy.deepcopy(model), config))
    torch.manual_seed(0)
    if early:
        model.gradient_checkpointing_enable(options)
    adapted: Any = peft.get_peft_model(model, config)
    if not early:
        adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's: none of the inputs have requires_grad
        _, found = gradients(adapted)
    assert found.keys() == due.keys()
    assert all(grad.any() for name, grad in found.items() if "lora_A" in name)


def test_inputs_require_gradients_on_demand() -> None:
    model = made().freeze("decoder")
    model.encoder.requires_grad_(False)
    seen: list[bool] = []
    model.encoder.register_forward_hook(lambda *a: seen.append(a[2].last_hidden_state.requires_grad))
    for copied in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(made()))):
        copied.enable_input_require_grads()
        copied.enable_input_require_grads()  # twice is once
        assert len(copied.encoder._forward_pre_hooks) == 1
        again = copy.deepcopy(copied)
        again.disable_input_require_grads()
        assert not again.encoder._forward_pre_hooks
    model(pixels(model), labels=LABELS)
    model.disable_input_require_grads()
    model(pixels(model), labels=LABELS)
    with torch.no_grad():
        model.enable_input_require_grads()
        model.generate(pixels(model), max_new_tokens=3)
    assert seen == [True, False, False]
    with torch.inference_mode():
        model.generate(pixels(model), max_new_tokens=3)


def test_no_cache_is_kept_and_one_warning_says_so() -> None:
    model = made()
    model.gradient_checkpointing_enable()
    model.train()
    ids = LABELS[:, :3]
    with pytest.warns(UserWarning, match="incompatible with gradient checkpointing") as caught:
        out = model(pixels(model), decoder_input_ids=ids, use_cache=True)
    assert len(caught) == 1
    assert out.past_key_values is None
    with pytest.warns(UserWarning, match="incompatible with gradient checkpointing"):
        model(pixels(model), decoder_input_ids=ids, past_key_values=model.decoder.make_cache())
    cache = model.eval()(pixels(model), decoder_input_ids=ids, use_cache=True).past_key_values
    with pytest.raises(vedcore.UsageError, match="past_key_values"):
        model.train()(pixels(model), decoder_input_ids=ids[:, :1], past_key_values=cache)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(pixels(model), labels=LABELS)
        assert model.generate(pixels(model), max_new_tokens=3).shape[0] == 2


def test_what_cannot_be_honoured_is_refused() -> None:
    model = made()
    with pytest.raises(vedcore.UsageError, match="use_reentrant"):
        model.gradient_checkpointing_enable({"use_reentrent": True})
    with pytest.raises(vedcore.UsageError, match="gradient_checkpointing_disable"):
        model.gradient_checkpointing_enable(False)
    with pytest.raises(vedcore.UsageError, match="every_n_layers"):
        model.activation_checkpointing_enable(every_n_layers=0)
    with pytest.raises(vedcore.UsageError, match="every_n_layers"):
        made("timm/test_vit").activation_checkpointing_enable(every_n_layers=2)
    assert not model.is_gradient_checkpointing
