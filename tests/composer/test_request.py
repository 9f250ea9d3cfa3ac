"""Every way to request a model: names, variants, mappings, keywords, sizes, types and seeds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import vedcore
from tests.composer.tiny import BERT, GPT2, VIT, same_weights, without


def test_names_variants_and_mappings_mean_the_same() -> None:
    plans = [
        vedcore.plan("vit", "gpt2"),
        vedcore.plan("vit_base_patch16_224", "gpt2"),
        vedcore.plan({"name": "vit"}, {"name": "gpt2"}),
        vedcore.plan({"encoder": "vit", "decoder": "gpt2"}),
        vedcore.plan({"encoder": {"name": "vit"}, "decoder": {"name": "gpt2", "n_layer": 12}, "projector": "auto"}),
        vedcore.plan(vedcore.ModelConfig.parse({"encoder": {"name": "vit"}, "decoder": {"name": "gpt2"}})),
        vedcore.plan("vedcore:vit", "vedcore:gpt2"),
        vedcore.plan("vit", {"name": "gpt2-medium", "n_embd": 768, "n_layer": 12, "n_head": 12}),
        vedcore.plan("vit", {"name": "gpt2-medium", "variant": "gpt2"}),
    ]
    assert all(plan == plans[0] for plan in plans)


def test_second_names_of_fields() -> None:
    model = vedcore.compose(VIT, without(GPT2, "n_embd"), decoder_hidden_size=24)
    assert model.decoder.config.n_embd == 24
    with pytest.raises(vedcore.ConfigSchemaError, match="given twice"):
        vedcore.compose(VIT, GPT2, decoder_hidden_size=48)


def test_keywords_change_fields_of_each_side() -> None:
    model = vedcore.compose(
        VIT,
        BERT,
        projector="mlp",
        encoder_num_hidden_layers=2,
        decoder_hidden_dropout_prob=0.0,
        projector_hidden_size=17,
    )
    assert len(model.encoder.model.blocks) == 2
    assert model.decoder.config.hidden_dropout_prob == 0.0
    assert model.projector.layers[0].out_features == 17
    assert model.config.projector.name == "mlp"
    linear = vedcore.compose(VIT, {**BERT, "hidden_size": 24}, projector={"name": "linear"})
    assert linear.projector.proj.weight.shape == (24, 24)


def test_equal_widths_need_no_projector() -> None:
    assert vedcore.compose(VIT, GPT2).config.projector.name == "identity"
    assert vedcore.compose(VIT, BERT).config.projector.name == "linear"
    crossing = vedcore.compose(VIT, BERT, decoder_cross_attention_hidden_size=24)
    assert crossing.config.projector.name == "identity"
    assert crossing.decoder.layers[0].cross_attention.key.in_features == 24


@pytest.mark.parametrize(
    ("size", "pixels"), [(32, (32, 32)), ((16, 40), (16, 40)), ([16, 40], (16, 40)), (None, (16, 24))]
)
def test_image_size(size: Any, pixels: tuple[int, int]) -> None:
    model = vedcore.compose(VIT, GPT2, image_size=size)
    assert model.processor.preprocessing.image_size == pixels
    assert model.encode(torch.zeros(1, 3, *pixels)).last_hidden_state.shape[1] == 1 + pixels[0] * pixels[1] // 64
    other = vedcore.compose(vedcore.compose(VIT, GPT2).config, image_size=size)
    assert other.processor.preprocessing == model.processor.preprocessing


def test_preprocessing_that_the_encoder_cannot_see_is_refused() -> None:
    with pytest.raises(vedcore.IncompatibleError, match=r"image_size.*32 x 32.*16 x 24"):
        vedcore.compose(VIT, GPT2, preprocessing={"image_size": (32, 32)})
    model = vedcore.compose(VIT, GPT2, preprocessing={"image_size": [16, 24], "resize_mode": "pad"})
    assert model.processor.preprocessing.resize_mode == "pad"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", torch.float16, torch.float64])
def test_dtype(dtype: Any) -> None:
    model = vedcore.compose(VIT, BERT, dtype=dtype)
    expected = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {p.dtype for p in model.parameters()} == {expected}


def test_eval_mode_all_the_way_down() -> None:
    assert not any(module.training for module in vedcore.compose(VIT, BERT, projector="mlp").modules())


def test_seeds() -> None:
    torch.manual_seed(9)
    state = torch.get_rng_state()
    a, b, c = (vedcore.compose(VIT, BERT, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert same_weights(a, b)
    differ = [n for n, p in a.named_parameters() if p.std() > 0 and torch.equal(p, c.get_parameter(n))]
    assert not differ
    d = vedcore.compose(VIT, BERT)
    assert not torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    assert same_weights(d, vedcore.compose(VIT, BERT))


def test_fresh_weights_are_sane() -> None:
    model = vedcore.compose("vit_tiny_patch16_224", {"name": "gpt2", "n_layer": 2, "vocab_size": 500}, seed=0)
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        assert parameter.abs().max() < 1.1, name
        if parameter.ndim == 2 and "output" not in name and "pos" not in name:
            assert 0.015 < parameter.std() < 0.03, name
