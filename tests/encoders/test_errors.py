"""Every bad setting is refused before anything is built, with the numbers that do not fit and the change to make."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import timm
import timm.models._builder as builder
import torch

from vedcore.errors import (
    ConfigLimitError,
    ConfigSchemaError,
    HubError,
    IncompatibleError,
    UnknownComponentError,
    VedcoreError,
)
from vedcore_encoders.any_timm import AnyTimm
from vedcore_encoders.beit import BeitEncoder
from vedcore_encoders.deit import DeiTEncoder
from vedcore_encoders.swin import SwinEncoder
from vedcore_encoders.vit import ViTEncoder

TABLE: list[tuple[Any, str | None, dict[str, Any], type[VedcoreError], list[str]]] = [
    (ViTEncoder, None, {"hidden_size": 770}, IncompatibleError, ["encoder.num_attention_heads", "770", "12"]),
    (BeitEncoder, None, {"num_attention_heads": 5}, IncompatibleError, ["encoder.num_attention_heads", "768", "5"]),
    (DeiTEncoder, None, {"num_attention_heads": 10**9}, ConfigLimitError, ["encoder.num_attention_heads"]),
    (ViTEncoder, None, {"hidden_size": 10**9}, ConfigLimitError, ["encoder.hidden_size", "1000000000"]),
    (ViTEncoder, None, {"hidden_size": 2**40}, ConfigLimitError, ["encoder.hidden_size"]),
    (ViTEncoder, None, {"num_hidden_layers": 10**6}, ConfigLimitError, ["encoder.num_hidden_layers"]),
    (ViTEncoder, None, {"num_hidden_layers": -1}, ConfigSchemaError, ["encoder.num_hidden_layers"]),
    (ViTEncoder, None, {"hidden_size": 0}, ConfigSchemaError, ["encoder.hidden_size"]),
    (ViTEncoder, None, {"hidden_size": "32"}, ConfigSchemaError, ["encoder.hidden_size"]),
    (ViTEncoder, None, {"hidden_size": True}, ConfigSchemaError, ["encoder.hidden_size"]),
    (ViTEncoder, None, {"hiden_size": 32}, ConfigSchemaError, ["encoder.hiden_size", "'hidden_size'"]),
    (ViTEncoder, None, {"in_chans": 0}, ConfigSchemaError, ["encoder.in_chans"]),
    (ViTEncoder, None, {"zorg": 1}, ConfigSchemaError, ["encoder.zorg"]),
    (ViTEncoder, None, {"hidden_dropout_prob": 1.5}, ConfigSchemaError, ["encoder.hidden_dropout_prob"]),
    (ViTEncoder, None, {"layer_norm_eps": float("nan")}, ConfigSchemaError, ["encoder.layer_norm_eps"]),
    (ViTEncoder, None, {"hidden_act": "os.system"}, ConfigSchemaError, ["encoder.hidden_act", "gelu"]),
    (ViTEncoder, None, {"patch_size": 0}, ConfigSchemaError, ["encoder.patch_size"]),
    (ViTEncoder, "vit_base_r50_s16_224", {"patch_size": 8}, IncompatibleError, ["encoder.patch_size", "convolution"]),
    (ViTEncoder, None, {"variant": 5}, ConfigSchemaError, ["encoder.variant"]),
    *(
        (cls, variant, {"image_size": size}, error, ["encoder.image_size", *words])
        for cls, variant, patch in [
            (ViTEncoder, None, "16"),
            (BeitEncoder, None, "16"),
            (SwinEncoder, None, "4"),
            (AnyTimm, "vit_tiny_patch16_224", "16"),
        ]
        for size, error, words in [
            (7, IncompatibleError, ["7", patch]),
            ((32, 50), IncompatibleError, ["50", patch]),
            (10**7, ConfigLimitError, ["10000000"]),
            (0, ConfigSchemaError, []),
            ("big", ConfigSchemaError, []),
        ]
    ),
    (ViTEncoder, None, {"image_size": 16_384}, ConfigLimitError, ["encoder.image_size", "tokens", "65,536"]),
    (SwinEncoder, None, {"num_heads": (3, 8, 16, 32)}, IncompatibleError, ["encoder.num_heads", "128", "3"]),
    (SwinEncoder, None, {"embed_dim": 42}, IncompatibleError, ["encoder.num_heads", "42", "4"]),
    (SwinEncoder, None, {"depths": (2, 2)}, IncompatibleError, ["encoder.num_heads", "4 stages", "2"]),
    (SwinEncoder, None, {"depths": ()}, ConfigSchemaError, ["encoder.depths"]),
    (SwinEncoder, None, {"depths": (1000, 1000, 1000, 1000)}, ConfigLimitError, ["encoder.depths", "4,000", "1,024"]),
    (SwinEncoder, None, {"depths": (1,) * 99, "num_heads": (1,) * 99}, ConfigSchemaError, ["encoder.depths"]),
    (AnyTimm, "resnet18", {"image_size": 7}, IncompatibleError, ["encoder.image_size", "7 x 7", "32"]),
    (AnyTimm, "resnet18", {"image_size": 10**7}, ConfigLimitError, ["encoder.image_size"]),
    (AnyTimm, "resnet18", {"hidden_size": 7}, ConfigSchemaError, ["encoder.hidden_size"]),
    (AnyTimm, "resnet18", {"positions": "rotary"}, ConfigSchemaError, ["encoder.positions"]),
    (
        AnyTimm,
        "vit_tiny_patch16_224",
        {"positions": "sinusoidal"},
        IncompatibleError,
        ["encoder.positions", "sequence"],
    ),
    (AnyTimm, "nest_tiny", {"image_size": 100}, IncompatibleError, ["encoder.image_size", "100 x 100", "224"]),
    (AnyTimm, "crossvit_tiny_240", {}, IncompatibleError, ["crossvit_tiny_240"]),
    (AnyTimm, None, {}, UnknownComponentError, ["encoder.variant", "timm/<name>"]),
]


@pytest.mark.parametrize(("cls", "variant", "fields", "error", "words"), TABLE)
def test_bad_settings(
    cls: Any, variant: str | None, fields: dict[str, Any], error: type[VedcoreError], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        cls.make_config(variant, fields, prefix="encoder.")
    message = str(caught.value)
    assert type(caught.value) is error, message
    assert all(word in message for word in words), message
    assert len(message) <= 300
    assert "\n" not in message


NAMES = {
    "vit_tinyy": "vit_tiny",
    "vit_tiny_patch16_2244": "vit_tiny_patch16_224",
    "resnet18.a1_in2k": "resnet18.a1_in1k",
    "": "",
    ".": "",
    "__class__": "",
    "../../x": "",
    "hf-hub:timm/resnet18": "",
    "hf_hub:timm/resnet18": "",
    "local-dir:/etc": "",
    "resnet18.": "resnet18",
    "x" * 5000: "",
    "vit\x1b[31m\n": "vit",
    "vit_tiny_patch16_224_in21k": "vit_tiny_patch16_224.augreg_in21k",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_timm_does_not_have(name: str) -> None:
    before = set(sys.modules)
    for cls in (AnyTimm, ViTEncoder):
        with pytest.raises(UnknownComponentError) as caught:
            cls.make_config(name, {}, prefix="encoder.")
        message = str(caught.value)
        assert NAMES[name] in message
        assert message.isprintable()
        assert len(message) <= 300
        with pytest.raises(UnknownComponentError):
            cls(cls.config_class(variant=name))
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (ViTEncoder, "resnet18"),
        (ViTEncoder, "vit_relpos_small_patch16_224"),
        (SwinEncoder, "swinv2_tiny_window8_256"),
        (BeitEncoder, "beit3_base_patch16_224"),
    ],
)
def test_models_of_another_make_are_told_their_name(cls: Any, name: str) -> None:
    with pytest.raises(UnknownComponentError, match=f"write 'timm/{name}'"):
        cls.make_config(name, {})


def test_the_constructor_checks_too() -> None:
    with pytest.raises(IncompatibleError, match=r"encoder\.num_attention_heads"):
        ViTEncoder(ViTEncoder.config_class(hidden_size=31))


def test_weights_that_are_not_published() -> None:
    with pytest.raises(IncompatibleError, match="no published weights"):
        ViTEncoder(ViTEncoder.make_config("vit_base_patch16_gap_224", {"num_hidden_layers": 1}), pretrained=True)


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for the hub: timm downloads its ``state``, or fails with its ``error``."""
    held: dict[str, Any] = {}

    def fetch(*_: Any, **__: Any) -> Any:
        if isinstance(held.get("error"), Exception):
            raise held["error"]
        return held["state"]

    monkeypatch.setattr(builder, "load_state_dict_from_hf", fetch)
    return held


def test_weights_that_cannot_be_had(weights: dict[str, Any]) -> None:
    weights["error"] = OSError("no route")
    with pytest.raises(HubError, match="cannot be fetched: OSError") as caught:
        ViTEncoder(ViTEncoder.make_config("vit_tiny_patch16_224", {}), pretrained=True)
    assert "no route" in caught.value.details


def test_published_weights_are_resampled_to_the_image(weights: dict[str, Any]) -> None:
    torch.manual_seed(0)
    weights["state"] = timm.create_model("vit_tiny_patch16_224").state_dict()
    encoder = ViTEncoder(ViTEncoder.make_config("vit_tiny_patch16_224", {"image_size": (32, 64)}), pretrained=True)
    assert encoder.num_tokens() == 9
    torch.testing.assert_close(encoder.model.blocks[3].mlp.fc1.weight, weights["state"]["blocks.3.mlp.fc1.weight"])


@pytest.mark.parametrize(
    ("cls", "variant", "fields"),
    [
        (ViTEncoder, "vit_tiny_patch16_224", {"num_hidden_layers": 2}),
        (ViTEncoder, "vit_tiny_patch16_224", {"num_hidden_layers": 13}),
        (ViTEncoder, "vit_tiny_patch16_224", {"intermediate_size": 100}),
        (ViTEncoder, "vit_tiny_patch16_224", {"qkv_bias": False}),
        (DeiTEncoder, "deit_tiny_distilled_patch16_224", {"hidden_size": 48}),
    ],
)
def test_published_weights_must_fit(weights: dict[str, Any], cls: Any, variant: str, fields: dict[str, Any]) -> None:
    weights["state"] = timm.create_model(variant).state_dict()
    with pytest.raises(IncompatibleError, match="do not fit with"):
        cls(cls.make_config(variant, fields), pretrained=True)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_published_weights_of_any_model(weights: dict[str, Any], name: str) -> None:
    torch.manual_seed(0)
    weights["state"] = timm.create_model(name).state_dict()
    encoder = AnyTimm(AnyTimm.make_config(name, {}), pretrained=True)
    for key, tensor in encoder.model.state_dict().items():
        torch.testing.assert_close(tensor, weights["state"][key])
    assert encoder.state_dict().keys() == AnyTimm(AnyTimm.make_config(name, {})).state_dict().keys()
