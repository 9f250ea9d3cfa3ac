"""Properties that ViT, DeiT, BEiT and Swin share, and that no check of `vedcore.testing` holds."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vedcore.errors import IncompatibleError, UsageError
from vedcore_encoders.beit import BeitEncoder
from vedcore_encoders.deit import DeiTEncoder
from vedcore_encoders.swin import SwinEncoder
from vedcore_encoders.vit import ViTEncoder

SMALL_VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SMALL_SWIN = {"embed_dim": 4, "num_heads": (1, 2, 4)}


def test_nothing_of_a_classifier_is_left(make: Any, small: str) -> None:
    encoder = make(small)
    assert not [name for name in encoder.state_dict() if "head" in name or "fc_norm" in name or "pool" in name]


def test_attentions_are_given_and_change_nothing(make: Any, small: str) -> None:
    encoder, pixels = make(small), torch.randn(2, 3, 32, 32)
    plain, asked = encoder(pixels), encoder(pixels, output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(plain.last_hidden_state, asked.last_hidden_state, atol=1e-5, rtol=1e-5)
    assert len(asked.attentions) == (4 if small == "swin" else 2)
    for weights in asked.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert len(asked.hidden_states) == 3


def test_attentions_are_those_of_the_calling_thread(make: Any) -> None:
    encoder, pixels = make("vit"), torch.randn(1, 3, 32, 32)
    counts: list[int] = []

    def ask() -> None:
        with torch.no_grad():
            for _ in range(20):
                counts.append(len(encoder(pixels, output_attentions=True).attentions))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [2] * 60


def test_gradient_checkpointing_gives_the_same_gradients(make: Any, small: str) -> None:
    encoder, pixels = make(small, drop_path_rate=0.0).train(), torch.randn(2, 3, 32, 32)
    found = []
    for on in (False, True):
        encoder.gradient_checkpointing = on
        encoder.zero_grad()
        out = encoder(pixels, output_hidden_states=True)
        (out.last_hidden_state.square().sum() + out.hidden_states[1].sum()).backward()
        found.append({name: p.grad.clone() for name, p in encoder.named_parameters()})
    torch.testing.assert_close(found[0], found[1])
    assert len(encoder(pixels, output_attentions=True).attentions) > 0


def test_gradient_checkpointing_keeps_fewer_activations(make: Any, family: str) -> None:
    encoder, pixels = make(family).train(), torch.randn(2, 3, 32, 32)

    def kept(on: bool) -> int:
        encoder.gradient_checkpointing, sizes = on, []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
            encoder(pixels)
        return sum(sizes)

    assert kept(True) < kept(False) / 2


def test_meta_device_builds_the_same_shapes(make: Any, small: str) -> None:
    real = make(small)
    with torch.device("meta"):
        shapes = make(small)
        out = shapes(torch.empty(2, 3, 32, 32))
    assert all(p.is_meta for p in shapes.parameters())
    assert {k: v.shape for k, v in shapes.state_dict().items()} == {k: v.shape for k, v in real.state_dict().items()}
    assert out.last_hidden_state.shape == (2, real.num_tokens(), real.hidden_size)


def test_one_seed_gives_one_encoder(make: Any, small: str) -> None:
    torch.testing.assert_close(dict(make(small).state_dict()), dict(make(small).state_dict()), atol=0, rtol=0)


def test_the_config_builds_the_encoder_again(make: Any, small: str) -> None:
    encoder = make(small, drop_path_rate=0.1)
    fields = encoder.config.model_dump()
    again = type(encoder).make_config(fields.pop("variant"), fields)
    assert again == encoder.config


def test_the_mask_is_passed_on(make: Any, family: str) -> None:
    encoder, pixels = make(family), torch.randn(2, 3, 32, 32)
    mask = torch.ones(2, encoder.num_tokens(), dtype=torch.long)
    mask[1, 3:] = 0
    out = encoder(pixels, attention_mask=mask)
    assert out.attention_mask.dtype == torch.bool
    assert out.attention_mask.equal(mask.bool())
    torch.testing.assert_close(out.last_hidden_state, encoder(pixels).last_hidden_state)
    with pytest.raises(UsageError, match=r"mask of shape \(2, 5\)"):
        encoder(pixels, attention_mask=torch.ones(2, 5))


def test_dropout_is_where_transformers_has_it(make: Any, family: str) -> None:
    encoder = make(family, hidden_dropout_prob=0.4, attention_probs_dropout_prob=0.2).train()
    rates = {name.rsplit(".", 1)[1]: m.p for name, m in encoder.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert rates["attn_drop"] == 0.2
    assert rates["proj_drop"] == rates["drop2"] == 0.4
    assert rates["drop1"] == 0.0
    pixels = torch.randn(1, 3, 32, 32)
    embeddings = [encoder(pixels, output_hidden_states=True).hidden_states[0] for _ in range(2)]
    assert 0.2 < (embeddings[0] == 0).float().mean() < 0.6
    assert not torch.equal(*embeddings)


def test_fields_reach_the_model(make: Any) -> None:
    vit = make("vit", num_hidden_layers=3, qkv_bias=False, patch_size=[4, 8], intermediate_size=37)
    assert vit.num_tokens() == 1 + 8 * 4
    assert len(vit.model.blocks) == 3
    assert vit.model.blocks[0].mlp.fc1.out_features == 37
    assert vit.model.blocks[0].attn.qkv.bias is None
    swin = make("swin", mlp_ratio=3.0, use_absolute_embeddings=True)
    assert swin.model.layers[1].blocks[0].mlp.fc1.out_features == 48
    assert swin.position_embeddings.shape == (1, 256, 8)
    beit = make("beit", layer_scale_init_value=0.0)
    assert beit.model.blocks[0].gamma_1 is None
    assert make("beit", use_mean_pooling=False).model.norm.weight is not None


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6))
@settings(deadline=None, max_examples=25)
def test_num_tokens_of_patches(rows: int, columns: int, patch: int) -> None:
    for cls, variant in [(ViTEncoder, None), (DeiTEncoder, "deit_tiny_distilled_patch16_224"), (BeitEncoder, None)]:
        fields = {**SMALL_VIT, "image_size": (rows * patch, columns * patch), "patch_size": patch}
        with torch.device("meta"):
            encoder = cls(cls.make_config(variant, fields))
            out = encoder(torch.empty(1, 3, rows * patch, columns * patch))
        extra = 2 if cls is DeiTEncoder else 1
        assert out.last_hidden_state.shape[1] == encoder.num_tokens() == rows * columns + extra


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 4), st.integers(1, 7))
@settings(deadline=None, max_examples=25)
def test_num_tokens_of_maps(rows: int, columns: int, patch: int, window: int) -> None:
    size = (rows * patch, columns * patch)
    fields = {**SMALL_SWIN, "depths": (1, 2, 1), "image_size": size, "patch_size": patch, "window_size": window}
    encoder = SwinEncoder(SwinEncoder.make_config(None, fields)).eval()
    with torch.no_grad():
        out = encoder(torch.randn(1, 3, *size))
    assert out.last_hidden_state.shape[1] == encoder.num_tokens() == encoder.num_tokens(size)
    assert out.last_hidden_state.isfinite().all()


@pytest.mark.parametrize("cls", [ViTEncoder, DeiTEncoder, BeitEncoder, SwinEncoder])
@pytest.mark.parametrize("size", [(96, 320), (320, 96)])
def test_real_variants_take_rectangles(cls: Any, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        encoder = cls(cls.make_config(None, {"image_size": size}))
        out = encoder(torch.empty(1, 3, *size))
    assert out.last_hidden_state.shape == (1, encoder.num_tokens(), encoder.hidden_size)


def test_a_published_size_that_patches_do_not_cover_is_taken() -> None:
    with torch.device("meta"):
        encoder = ViTEncoder(ViTEncoder.make_config("vit_so400m_patch14_siglip_384", {"num_hidden_layers": 1}))
        out = encoder(torch.empty(1, 3, 384, 384))
    assert out.last_hidden_state.shape == (1, encoder.num_tokens(), encoder.hidden_size) == (1, 27 * 27, 1152)


@pytest.mark.parametrize("family", ["vit", "deit", "beit"])
def test_images_of_another_size_are_refused(make: Any, family: str) -> None:
    encoder = make(family)
    for wrong in ((32, 40), (16, 16)):
        with pytest.raises(IncompatibleError, match=rf"{wrong[0]} x {wrong[1]} pixels.* 32 x 32"):
            encoder(torch.randn(1, 3, *wrong))
        with pytest.raises(IncompatibleError, match=f"{wrong[0]} x {wrong[1]}"):
            encoder.num_tokens(wrong)


@pytest.mark.parametrize(
    "pixels",
    [torch.zeros(3, 32, 32), torch.zeros(1, 1, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8), [[1.0]], None],
)
def test_values_that_are_not_a_batch_of_images_are_refused(make: Any, pixels: Any) -> None:
    with pytest.raises(UsageError, match="pixel_values"):
        make("vit")(pixels)
