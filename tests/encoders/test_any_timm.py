"""``timm/<name>``: other transformers and convolutional models as encoders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vedcore.errors import IncompatibleError, UsageError
from vedcore_encoders.any_timm import AnyTimm

MODELS = {  # with the size of the images
    "resnet10t": (64, 96),
    "convnext_atto": (64, 96),
    "efficientnet_b0": (64, 64),
    "mobilenetv3_small_050": (33, 65),
    "regnetx_002": (64, 48),
    "pvt_v2_b0": (64, 96),
    "edgenext_xx_small": (64, 64),
    "mambaout_femto": (64, 96),
    "fastvit_t8": (64, 64),
    "vit_tiny_patch16_224.augreg_in21k": (32, 64),
    "swinv2_tiny_window8_256": (64, 64),
    "eva02_tiny_patch14_224": (28, 42),
    "maxvit_pico_rw_256": (64, 64),
    "levit_128s": (224, 224),
    "vgg11": (32, 64),
}


def build(name: str, **fields: Any) -> AnyTimm:
    torch.manual_seed(0)
    return AnyTimm(AnyTimm.make_config(name, fields, prefix="encoder.")).eval()


@pytest.mark.parametrize("name", MODELS)
def test_images_become_sequences(name: str) -> None:
    encoder = build(name, image_size=MODELS[name])
    with torch.no_grad():
        out = encoder(torch.randn(2, 3, *MODELS[name])).last_hidden_state
    assert out.shape == (2, encoder.num_tokens(), encoder.hidden_size)
    assert out.isfinite().all()
    assert encoder.preprocessing.image_size == MODELS[name]


@pytest.mark.parametrize("name", [n for n in MODELS if n not in ("vgg11", "levit_128s")])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    encoder = build(name, image_size=MODELS[name]).train()
    encoder(torch.randn(2, 3, *MODELS[name])).last_hidden_state.square().sum().backward()
    assert [key for key, p in encoder.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "mambaout_femto", "vit_tiny_patch16_224"])
def test_the_map_is_read_row_by_row(name: str) -> None:
    encoder = build(name, image_size=(64, 96), positions="none")
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = encoder.model.forward_features(pixels)
        out = encoder(pixels).last_hidden_state
    if features.ndim == 4 and name != "mambaout_femto":
        features = features.permute(0, 2, 3, 1)
    for i, token in enumerate(features.reshape(-1, encoder.hidden_size)):
        assert out[0, i].equal(token)


@given(st.integers(32, 120), st.integers(32, 120))
@settings(deadline=None, max_examples=12)
@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
def test_num_tokens_of_any_size(name: str, height: int, width: int) -> None:
    encoder = CACHED.setdefault(name, build(name))
    with torch.no_grad():
        out = encoder(torch.randn(1, 3, height, width))
    assert out.last_hidden_state.shape[1] == encoder.num_tokens((height, width))


CACHED: dict[str, AnyTimm] = {}


def test_positions_tell_where_something_is() -> None:
    """Without positions a shifted image has the same tokens in another order, and so the same cross-attention."""
    image = torch.zeros(1, 3, 128, 256)
    image[:, :, 32:64, 64:96] = 1.0
    shifted = image.roll(96, 3)
    query = torch.randn(1, 1, 512)

    def attended(encoder: AnyTimm, pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            states = encoder(pixels).last_hidden_state
        return torch.nn.functional.scaled_dot_product_attention(query, states, states)

    with_positions, without = build("resnet10t"), build("resnet10t", positions="none")
    same = attended(without, image), attended(without, shifted)
    different = attended(with_positions, image), attended(with_positions, shifted)
    assert (different[0] - different[1]).norm() > 5 * (same[0] - same[1]).norm()


def test_positions_are_as_large_as_the_features() -> None:
    pixels = torch.randn(2, 3, 64, 96)
    pixels[1] *= 100
    plain, placed = build("resnet10t", positions="none")(pixels), build("resnet10t")(pixels)
    added = (placed.last_hidden_state - plain.last_hidden_state).square().mean((1, 2)).sqrt()
    size = plain.last_hidden_state.square().mean((1, 2)).sqrt()
    torch.testing.assert_close(added / size, torch.full((2,), 0.5**0.5), atol=0.02, rtol=0)


def test_an_image_alone_is_as_in_a_batch() -> None:
    encoder, pixels = build("convnext_atto"), torch.randn(3, 3, 64, 96)
    together = encoder(pixels).last_hidden_state
    alone = torch.cat([encoder(image[None]).last_hidden_state for image in pixels])
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224", "swinv2_tiny_window8_256"])
def test_bfloat16(name: str) -> None:
    encoder = build(name, image_size=64).to(torch.bfloat16)
    out = encoder(torch.randn(1, 3, 64, 64)).last_hidden_state
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("name", "count"),
    [("vit_tiny_patch16_224", 12), ("swinv2_tiny_window8_256", 12), ("eva02_tiny_patch14_224", 12), ("pvt_v2_b0", 8)],
)
def test_attentions_of_models_that_attend(name: str, count: int) -> None:
    size = 28 if "14" in name else 64
    encoder, pixels = build(name, image_size=size), torch.randn(1, 3, size, size)
    with torch.no_grad():
        plain, asked = encoder(pixels), encoder(pixels, output_attentions=True)
    assert len(asked.attentions) == count
    for weights in asked.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    torch.testing.assert_close(plain.last_hidden_state, asked.last_hidden_state, atol=1e-4, rtol=1e-4)


def test_attentions_of_models_that_do_not_are_refused() -> None:
    with pytest.raises(UsageError, match="resnet10t computes no attention weights"):
        build("resnet10t")(torch.randn(1, 3, 64, 64), output_attentions=True)


def test_hidden_states() -> None:
    pixels = torch.randn(2, 3, 64, 96)
    stages = build("resnet10t")(pixels, output_hidden_states=True).hidden_states
    assert [s.shape for s in stages] == [
        (2, 32 * 48, 64),
        (2, 16 * 24, 64),
        (2, 8 * 12, 128),
        (2, 4 * 6, 256),
        (2, 2 * 3, 512),
    ]
    blocks = build("vit_tiny_patch16_224", image_size=32)(
        pixels[..., :32, :32], output_hidden_states=True
    ).hidden_states
    assert [b.shape for b in blocks] == [(2, 4, 192)] * 12


def test_gradient_checkpointing_is_timms() -> None:
    encoder, pixels = build("convnext_atto").train(), torch.randn(1, 3, 64, 64)
    assert encoder.gradient_checkpointing is False
    encoder.gradient_checkpointing = True
    assert encoder.model.stages[0].grad_checkpointing
    encoder(pixels).last_hidden_state.sum().backward()
    with pytest.raises(UsageError, match="gradient checkpointing"):
        encoder(pixels, output_attentions=True)
    encoder.gradient_checkpointing = False
    assert not encoder.model.stages[0].grad_checkpointing


def test_sizes_that_a_model_does_not_take() -> None:
    convolutional = build("resnet10t")
    with pytest.raises(IncompatibleError, match="16 x 64"):
        convolutional(torch.randn(1, 3, 16, 64))
    fixed = build("vit_tiny_patch16_224", image_size=32)
    with pytest.raises(IncompatibleError, match=r"64 x 64 pixels.* 32 x 32"):
        fixed(torch.randn(1, 3, 64, 64))
    with pytest.raises(IncompatibleError, match="64 x 64"):
        fixed.num_tokens((64, 64))


def test_meta_device() -> None:
    with torch.device("meta"):
        encoder = build("convnext_atto", image_size=(64, 96))
        out = encoder(torch.empty(1, 3, 64, 96))
    assert all(p.is_meta for p in encoder.parameters())
    assert out.last_hidden_state.shape == (1, 6, 320)


def test_the_config_builds_the_encoder_again() -> None:
    encoder = build("resnet10t", image_size=[64, 96], drop_path_rate=0.1)
    fields = encoder.config.model_dump()
    assert AnyTimm.make_config(fields.pop("variant"), fields) == encoder.config
