"""With the weights of transformers' files, our encoders compute what transformers' classes compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from vedcore.components import VisionEncoder
from vedcore.weights.keymap import to_ours, to_theirs
from vedcore_encoders.beit import BeitEncoder
from vedcore_encoders.deit import DeiTEncoder
from vedcore_encoders.swin import SwinEncoder
from vedcore_encoders.vit import ViTEncoder

FIELDS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 50, "patch_size": 8}
SWIN = {"embed_dim": 8, "depths": [2, 3], "num_heads": [2, 4], "window_size": 4, "patch_size": 2}
ABS, REL = "use_absolute_position_embeddings", "use_relative_position_bias"

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit", {**FIELDS, "image_size": 32}),
    "vit, other settings": (
        "vit",
        {
            **FIELDS,
            "image_size": 48,
            "patch_size": 16,
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-3,
            "qkv_bias": False,
        },
    ),
    "vit, rectangle": ("vit", {**FIELDS, "image_size": [24, 56], "layer_norm_eps": 1e-12}),
    "deit": ("deit", {**FIELDS, "image_size": 32, "layer_norm_eps": 1e-12}),
    "deit, rectangle": ("deit", {**FIELDS, "image_size": [56, 24], "hidden_act": "relu", "layer_norm_eps": 1e-5}),
    "beit, no positions": ("beit", {**FIELDS, "image_size": 32}),
    "beit, absolute": ("beit", {**FIELDS, "image_size": 32, ABS: True, "hidden_act": "quick_gelu"}),
    "beit, relative": ("beit", {**FIELDS, "image_size": 32, REL: True}),
    "beit, shared": ("beit", {**FIELDS, "image_size": 32, "use_shared_relative_position_bias": True}),
    "beit, no scale": ("beit", {**FIELDS, "image_size": 32, REL: True, "layer_scale_init_value": 0.0}),
    "beit, final norm": ("beit", {**FIELDS, "image_size": 32, REL: True, ABS: True, "use_mean_pooling": False}),
    "beit, rectangle": ("beit", {**FIELDS, "image_size": [24, 56], "layer_norm_eps": 1e-5}),
    "swin": ("swin", {**SWIN, "image_size": 32}),
    "swin, one window at the end": ("swin", {**SWIN, "image_size": 16}),
    "swin, padded windows": ("swin", {**SWIN, "image_size": 28}),
    "swin, odd maps": ("swin", {**SWIN, "image_size": 36, "window_size": 3}),
    "swin, rectangle": ("swin", {**SWIN, "image_size": [16, 44], "window_size": 3}),
    "swin, one side a window": ("swin", {**SWIN, "image_size": [16, 64]}),
    "swin, other settings": (
        "swin",
        {
            **SWIN,
            "image_size": 32,
            "use_absolute_embeddings": True,
            "mlp_ratio": 2.5,
            "qkv_bias": False,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-3,
        },
    ),
    "swin, three stages": (
        "swin",
        {**SWIN, "image_size": 48, "depths": [1, 2, 1], "num_heads": [1, 2, 4], "window_size": 3},
    ),
}
CLASSES = {"vit": "ViT", "deit": "DeiT", "beit": "Beit", "swin": "Swin"}
OURS: dict[str, type[VisionEncoder]] = {
    "vit": ViTEncoder,
    "deit": DeiTEncoder,
    "beit": BeitEncoder,
    "swin": SwinEncoder,
}
VARIANTS = {"deit": "deit_tiny_distilled_patch16_224"}
DEFAULTS: dict[str, dict[str, Any]] = {  # transformers' own defaults
    "vit": {"layer_norm_eps": 1e-12, "qkv_bias": True},
    "deit": {},
    "beit": {
        "layer_norm_eps": 1e-12,
        "layer_scale_init_value": 0.1,
        ABS: False,
        REL: False,
        "use_shared_relative_position_bias": False,
        "use_mean_pooling": True,
    },
    "swin": {},
}


def oracle(family: str, fields: dict[str, Any]) -> nn.Module:
    """transformers' model with weights that leave nothing at zero or one."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{CLASSES[family]}Config")(**fields, attn_implementation="eager")
    model: nn.Module = getattr(transformers, f"{CLASSES[family]}Model")(config, add_pooling_layer=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.2, 0.3)
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_last_states_hidden_states_and_attentions(case: str, tmp_path: Path) -> None:
    family, fields = CASES[case]
    theirs = oracle(family, fields)
    theirs.save_pretrained(tmp_path)
    files = load_file(tmp_path / "model.safetensors")
    cls = OURS[family]
    ours = cls(cls.make_config(VARIANTS.get(family), {**DEFAULTS[family], **fields})).eval()
    ours.load_state_dict(to_ours(files, ours.key_map))

    size = fields["image_size"]
    height, width = size if isinstance(size, list) else (size, size)
    pixels = torch.randn(2, 3, height, width)
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True, output_attentions=True)
        out = ours(pixels, output_hidden_states=True, output_attentions=True)
        plain = ours(pixels)
    torch.testing.assert_close(out.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(plain.last_hidden_state, out.last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.hidden_states, tuple(expected.hidden_states), atol=1e-4, rtol=1e-4)
    attentions = out.attentions
    if family == "swin":  # theirs gives the last block of each stage
        ends = torch.tensor(fields["depths"]).cumsum(0) - 1
        assert len(attentions) == sum(fields["depths"])
        attentions = tuple(attentions[i] for i in ends)
    torch.testing.assert_close(attentions, tuple(expected.attentions), atol=1e-5, rtol=1e-4)

    back = to_theirs(ours.state_dict(), ours.key_map)
    assert back.keys() == files.keys()
    for name, tensor in files.items():
        torch.testing.assert_close(back[name], tensor, atol=0, rtol=0)


@pytest.mark.parametrize("family", ["vit", "deit", "beit"])
def test_a_pooler_and_a_mask_token_are_left_out(family: str, tmp_path: Path) -> None:
    fields = {**FIELDS, "image_size": 32}
    config = getattr(transformers, f"{CLASSES[family]}Config")(
        **fields, **({"use_mask_token": True} if family == "beit" else {})
    )
    options = {} if family == "beit" else {"use_mask_token": True}  # a config field there, an argument elsewhere
    theirs = getattr(transformers, f"{CLASSES[family]}Model")(config, **options)
    cls = OURS[family]
    ours = cls(cls.make_config(VARIANTS.get(family), {**DEFAULTS[family], **fields}))
    theirs.save_pretrained(tmp_path)
    ours.load_state_dict(to_ours(load_file(tmp_path / "model.safetensors"), ours.key_map))


def test_a_deit_without_distillation_is_a_vit() -> None:
    torch.manual_seed(0)
    fields = {**FIELDS, "image_size": 32}
    deit = DeiTEncoder(DeiTEncoder.make_config("deit_tiny_patch16_224", fields)).eval()
    vit = ViTEncoder(ViTEncoder.make_config("vit_tiny_patch16_224", fields)).eval()
    vit.load_state_dict(deit.state_dict())
    pixels = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(vit(pixels).last_hidden_state, deit(pixels).last_hidden_state)


@pytest.mark.parametrize(
    ("cls", "variant", "fields"),
    [
        (ViTEncoder, "vit_tiny_patch16_224", {"num_hidden_layers": 2, "image_size": (64, 96)}),
        (BeitEncoder, "beit_base_patch16_224", {"num_hidden_layers": 2, "image_size": (64, 96)}),
        (DeiTEncoder, "deit3_small_patch16_224", {"num_hidden_layers": 2, "image_size": 48}),
        (SwinEncoder, "swin_tiny_patch4_window7_224", {"depths": (1, 2, 1, 1), "image_size": 112}),
    ],
)
def test_timm_itself_gives_the_same(cls: type[VisionEncoder], variant: str, fields: dict[str, Any]) -> None:
    """Where windows divide the maps, our encoder and timm's model compute the same."""
    torch.manual_seed(0)
    encoder: Any = cls(cls.make_config(variant, fields)).eval()
    pixels = torch.randn(1, 3, *encoder.image_size)
    with torch.no_grad():
        expected = encoder.model.forward_features(pixels)
        out = encoder(pixels).last_hidden_state
    torch.testing.assert_close(out, expected.reshape(out.shape), atol=1e-5, rtol=1e-5)
