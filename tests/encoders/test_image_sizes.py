"""Images of another size: positions resampled for one call and when weights are loaded, as transformers does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from vedcore.errors import IncompatibleError, UsageError
from vedcore.transformers_class import class_for
from vedcore.weights.keymap import to_ours
from vedcore_encoders.any_timm import AnyTimm
from vedcore_encoders.beit import BeitEncoder
from vedcore_encoders.deit import DeiTEncoder
from vedcore_encoders.swin import SwinEncoder
from vedcore_encoders.vit import ViTEncoder

OURS: dict[str, Any] = {
    "vit": ViTEncoder,
    "deit": DeiTEncoder,
    "beit": BeitEncoder,
    "swin": SwinEncoder,
    "donut-swin": SwinEncoder,
}
VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 37,
    "patch_size": 8,
    "image_size": 32,
}
SWIN = {"embed_dim": 6, "depths": [2, 3], "num_heads": [2, 3], "window_size": 3, "patch_size": 2, "image_size": 24}
ABS, REL = "use_absolute_position_embeddings", "use_relative_position_bias"
SHARED = "use_shared_relative_position_bias"
POSITIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit", VIT),
    "vit, patches that leave a rest": ("vit", {**VIT, "patch_size": 5, "image_size": 30}),
    "deit": ("deit", VIT),
    "beit, absolute": ("beit", {**VIT, ABS: True}),
    "beit, relative": ("beit", {**VIT, REL: True}),
    "beit, shared": ("beit", {**VIT, SHARED: True, "use_mean_pooling": False}),
    "beit, all": ("beit", {**VIT, ABS: True, REL: True, SHARED: True}),
    "beit, none": ("beit", VIT),
}
WINDOWS: dict[str, tuple[str, dict[str, Any]]] = {
    "swin": ("swin", SWIN),
    "swin, even windows": ("swin", {**SWIN, "window_size": 4, "patch_size": 3, "image_size": 48}),
    "swin, one window": ("swin", {**SWIN, "window_size": 6}),
    "donut": ("donut-swin", {**SWIN, "image_size": [24, 36]}),
    "donut, three stages": ("donut-swin", {**SWIN, "depths": [2, 2, 2], "num_heads": [1, 2, 3], "image_size": 48}),
}
SIZES = [(32, 32), (64, 64), (16, 80), (72, 8), (24, 40), (37, 51), (35, 35)]
MAP_SIZES = [(24, 24), (48, 48), (60, 30), (36, 100), (35, 51), (37, 29)]


def oracle(model_type: str, fields: dict[str, Any]) -> Any:
    """transformers' model with weights that leave nothing at zero or one."""
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(model_type, **fields))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.2, 0.3)
    return model.eval()


def stored(theirs: Any, folder: Path) -> dict[str, Tensor]:
    """Its tensors under our names."""
    theirs.save_pretrained(folder)
    row = class_for(OURS[theirs.config.model_type].transformers, theirs.config.model_type)
    assert row is not None
    return to_ours(load_file(folder / "model.safetensors"), row.key_map)


def built(folder: Path, **fields: Any) -> Any:
    """The encoder of a folder that transformers wrote, without its weights."""
    config = json.loads((folder / "config.json").read_text())
    cls = OURS[config["model_type"]]
    row = class_for(cls.transformers, config["model_type"])
    assert row is not None
    return cls(cls.make_config(None, {**row.read(config), **fields})).eval()


def pair(model_type: str, fields: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    theirs = oracle(model_type, fields)
    state = stored(theirs, folder)
    ours = built(folder)
    ours.load_state_dict(state)
    return theirs, ours


def fitted(encoder: Any, state: dict[str, Tensor], image_size: Any = None) -> Any:
    """The encoder with the tensors of another size."""
    values = {name: encoder.fit_tensor(name, tensor, image_size) for name, tensor in state.items()}
    encoder.load_state_dict({name: state[name] if value is None else value for name, value in values.items()})
    return encoder


def images(size: tuple[int, int], channels: int = 3) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))


def close(a: Tensor, b: Tensor) -> None:
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    assert (a - b).float().norm() <= 2e-4 * b.float().norm()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("case", POSITIONS)
def test_positions_resampled_for_one_call(case: str, size: tuple[int, int], tmp_path: Path) -> None:
    theirs, ours = pair(*POSITIONS[case], tmp_path)
    pixels, options = images(size), {"interpolate_pos_encoding": True, "output_hidden_states": True}
    with torch.no_grad():
        a, b = theirs(pixels, **options), ours(pixels, **options)
    close(b.last_hidden_state, a.last_hidden_state)
    for mine, other in zip(b.hidden_states, a.hidden_states, strict=True):
        close(mine, other)
    own = images(ours.image_size)
    with torch.no_grad():
        torch.testing.assert_close(
            ours(own).last_hidden_state, ours(own, interpolate_pos_encoding=True).last_hidden_state, atol=0, rtol=0
        )


@pytest.mark.parametrize("size", MAP_SIZES, ids=str)
@pytest.mark.parametrize("case", WINDOWS)
def test_swin_takes_any_size(case: str, size: tuple[int, int], tmp_path: Path) -> None:
    theirs, ours = pair(*WINDOWS[case], tmp_path)
    pixels = images(size)
    try:
        with torch.no_grad():
            a = theirs(pixels, output_hidden_states=True)
    except RuntimeError:  # its windows do not fit the map
        with pytest.raises(IncompatibleError, match="window"):
            ours(pixels)
        with pytest.raises(IncompatibleError, match="window"):
            ours.num_tokens(size)
        return
    with torch.no_grad():
        b = ours(pixels, output_hidden_states=True)
        again = ours(pixels, interpolate_pos_encoding=True)
    close(b.last_hidden_state, a.last_hidden_state)
    for mine, other in zip(b.hidden_states, a.hidden_states, strict=True):
        close(mine, other)
    torch.testing.assert_close(again.last_hidden_state, b.last_hidden_state, atol=0, rtol=0)
    assert ours.num_tokens(size) == b.last_hidden_state.shape[1]


def test_a_size_before_changes_nothing(tmp_path: Path) -> None:
    """transformers' Swin keeps smaller windows for all later images."""
    _, ours = pair("swin", SWIN, tmp_path)
    pixels = images((48, 36))
    with torch.no_grad():
        before = ours(pixels).last_hidden_state
        ours(images((12, 12)))
        torch.testing.assert_close(ours(pixels).last_hidden_state, before, atol=0, rtol=0)


@pytest.mark.parametrize("size", [(48, 48), (36, 60), (12, 24)], ids=str)
def test_absolute_positions_of_swin(size: tuple[int, int], tmp_path: Path) -> None:
    theirs, ours = pair("swin", {**SWIN, "use_absolute_embeddings": True}, tmp_path)
    pixels = images(size)
    with torch.no_grad():
        a, b = (side(pixels, interpolate_pos_encoding=True).last_hidden_state for side in (theirs, ours))
    close(b, a)
    with pytest.raises(IncompatibleError, match="interpolate_pos_encoding=True"):
        ours(pixels)


@pytest.mark.parametrize(("size", "least"), [((8, 24), (9, 9)), ((24, 7), (9, 9)), ((1, 1), (9, 9))], ids=str)
def test_maps_smaller_than_a_window(size: tuple[int, int], least: tuple[int, int], tmp_path: Path) -> None:
    theirs, ours = pair("swin", SWIN, tmp_path)
    with pytest.raises(RuntimeError):
        theirs(images(size))
    with pytest.raises(IncompatibleError, match=f"{least[0]} x {least[1]} pixels or larger") as error:
        ours(images(size))
    assert error.value.field == "encoder.image_size"
    fresh, ours = pair("swin", SWIN, tmp_path)
    with torch.no_grad():
        close(ours(images(least)).last_hidden_state, fresh(images(least)).last_hidden_state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(64, 64), (16, 80), (32, 8)], ids=str)
@pytest.mark.parametrize("case", [case for case in POSITIONS if "rest" not in case])
def test_tables_resampled_when_they_are_loaded(
    case: str, size: tuple[int, int], dtype: torch.dtype, tmp_path: Path
) -> None:
    theirs = oracle(*POSITIONS[case]).to(dtype)
    state = stored(theirs, tmp_path)
    ours = fitted(built(tmp_path, image_size=size).to(dtype), state)
    pixels = images(size).to(dtype)
    with torch.no_grad():
        a = theirs(pixels, interpolate_pos_encoding=True).last_hidden_state
        b = ours(pixels).last_hidden_state
    assert b.dtype == dtype
    assert (a - b).float().norm() <= (2e-4 if dtype == torch.float32 else 2e-2) * a.float().norm()


@pytest.mark.parametrize("case", ["vit", "beit, all"])
def test_tables_of_a_rectangle(case: str, tmp_path: Path) -> None:
    """As many patches in another arrangement: the tables have the same shape, and other rows."""
    model_type, fields = POSITIONS[case]
    state = stored(oracle(model_type, {**fields, "image_size": 32}), tmp_path)
    wide = fitted(built(tmp_path, image_size=(16, 64)), state)
    tall = fitted(built(tmp_path, image_size=(64, 16)), dict(wide.state_dict()), [16, 64])
    with torch.no_grad():
        expected = wide(images((64, 16)), interpolate_pos_encoding=True).last_hidden_state
        close(tall(images((64, 16))).last_hidden_state, expected)
    same = dict(wide.state_dict())
    assert all(wide.fit_tensor(name, tensor, (16, 64)) is None for name, tensor in same.items())
    assert all(wide.fit_tensor(name, tensor) is None for name, tensor in same.items())


def test_windows_that_shrink_keep_their_offsets(tmp_path: Path) -> None:
    fields = {**SWIN, "depths": [2], "num_heads": [2], "window_size": 7, "image_size": 28}
    theirs = oracle("swin", fields)
    state = stored(theirs, tmp_path)
    small = fitted(built(tmp_path, image_size=8), state)
    cropped = oracle("swin", {**fields, "window_size": 4, "image_size": 8})
    values = dict(theirs.state_dict())
    for name, tensor in values.items():
        if name.endswith("relative_position_bias_table"):
            values[name] = tensor.unflatten(0, (13, 13))[3:-3, 3:-3].flatten(0, 1)
    cropped.load_state_dict({name: values.get(name, tensor) for name, tensor in cropped.state_dict().items()})
    pixels = images((8, 8))
    with torch.no_grad():
        close(small(pixels).last_hidden_state, cropped(pixels).last_hidden_state)

    wide = fitted(built(tmp_path, image_size=(8, 36)), state)
    assert wide.model.layers[0].blocks[0].window_size == (4, 7)
    table = state["model.layers.0.blocks.0.attn.relative_position_bias_table"].unflatten(0, (13, 13))
    found = wide.model.layers[0].blocks[0].attn.relative_position_bias_table.unflatten(0, (7, 13))
    torch.testing.assert_close(found.detach(), table[3:-3], atol=0, rtol=0)

    grown = fitted(built(tmp_path, image_size=28), dict(wide.state_dict()), (8, 36))
    again = grown.model.layers[0].blocks[0].attn.relative_position_bias_table.unflatten(0, (13, 13)).detach()
    torch.testing.assert_close(again[3:-3], table[3:-3], atol=0, rtol=0)
    torch.testing.assert_close(again[0], table[3], atol=0, rtol=0)


@pytest.mark.parametrize("case", ["swin", "donut", "swin, one window"])
def test_swin_at_another_size_is_as_transformers_builds_it(case: str, tmp_path: Path) -> None:
    model_type, fields = WINDOWS[case]
    theirs = oracle(model_type, fields)
    state = stored(theirs, tmp_path)
    ours = fitted(built(tmp_path, image_size=(48, 72)), state)
    pixels = images((48, 72))
    with torch.no_grad():
        close(ours(pixels).last_hidden_state, theirs(pixels).last_hidden_state)


def test_tables_that_cannot_be_resampled_are_left() -> None:
    vit = ViTEncoder(ViTEncoder.make_config(None, VIT))  # type: ignore[arg-type]
    for shape in ((1, 1 + 15, 24), (1, 1, 24), (1, 0, 24), (17, 24), (1, 1 + 25)):
        assert vit.fit_tensor("model.pos_embed", torch.zeros(shape)) is None
    assert vit.fit_tensor("model.pos_embed", torch.zeros(1, 26, 24), (16, 16)) is None
    assert vit.fit_tensor("model.norm.weight", torch.zeros(7)) is None
    beit = BeitEncoder(BeitEncoder.make_config(None, {**VIT, REL: True}))  # type: ignore[arg-type]
    name = "model.blocks.0.attn.relative_position_bias_table"
    for shape in ((3 + 36, 3), (2, 3), (3, 3), (52,)):
        assert beit.fit_tensor(name, torch.zeros(shape)) is None
    swin = SwinEncoder(SwinEncoder.make_config(None, {**SWIN, "final_norm": True}))  # type: ignore[arg-type]
    name = "model.layers.0.blocks.0.attn.relative_position_bias_table"
    for shape in ((24, 2), (16, 2), (0, 2), (49,)):
        assert swin.fit_tensor(name, torch.zeros(shape)) is None


@pytest.mark.parametrize("case", ["vit", "deit", "beit, absolute", "beit, relative", "beit, shared"])
def test_gradients_of_resampled_tables(case: str, tmp_path: Path) -> None:
    theirs, ours = pair(*POSITIONS[case], tmp_path)
    pixels = images((16, 72))
    for side in (theirs, ours):
        side(pixels, interpolate_pos_encoding=True).last_hidden_state.square().mean().backward()
    state = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None and "position" in name}
    found = {name: p.grad for name, p in ours.named_parameters() if "pos" in name}
    assert len(state) == len(found) > 0
    for a, b in zip(state.values(), found.values(), strict=True):
        close(b, a)
    ours.gradient_checkpointing = True
    ours.train()
    ours.zero_grad()
    ours(pixels, interpolate_pos_encoding=True).last_hidden_state.square().mean().backward()
    if "beit" not in case:  # its layers are skipped at random
        for p, grad in zip((p.grad for n, p in ours.named_parameters() if "pos" in n), found.values(), strict=True):
            close(p, grad)


@pytest.mark.parametrize(
    "variant", ["deit3_small_patch16_224", "vit_base_patch16_siglip_224", "vit_small_patch14_reg4_dinov2"]
)
def test_variants_of_timm_at_another_size(variant: str) -> None:
    """As timm's own model made for that size and given the resampled table."""
    cls = DeiTEncoder if variant.startswith("deit") else ViTEncoder
    small = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "patch_size": 8}
    encoder = cls(cls.make_config(variant, {**small, "image_size": 32})).eval()
    other = cls(cls.make_config(variant, {**small, "image_size": (40, 24)})).eval()
    fitted(other, dict(encoder.state_dict()))
    pixels = images((40, 24))
    with torch.no_grad():
        close(
            encoder(pixels, interpolate_pos_encoding=True).last_hidden_state,
            other.model.forward_features(pixels),
        )


def test_encoders_that_do_not_resample() -> None:
    fixed: Any = AnyTimm(AnyTimm.make_config("vit_tiny_patch16_224", {"image_size": 32})).eval()
    with pytest.raises(UsageError, match=r"interpolate_pos_encoding: AnyTimm does not .* 32 x 32"):
        fixed(torch.zeros(1, 3, 48, 48), interpolate_pos_encoding=True)
    convolutional: Any = AnyTimm(AnyTimm.make_config("resnet10t", {"image_size": 64})).eval()
    pixels = images((64, 96))
    with torch.no_grad():
        close(
            convolutional(pixels, interpolate_pos_encoding=True).last_hidden_state,
            convolutional(pixels).last_hidden_state,
        )
    hybrid: Any = ViTEncoder(ViTEncoder.make_config("vit_tiny_r_s16_p8_224", {"num_hidden_layers": 1}))
    with pytest.raises(UsageError, match="224 x 224"):
        hybrid(torch.zeros(1, 3, 256, 256), interpolate_pos_encoding=True)


@pytest.mark.parametrize("case", ["vit", "deit", "beit, all"])
def test_images_smaller_than_a_patch(case: str, tmp_path: Path) -> None:
    theirs, ours = pair(*POSITIONS[case], tmp_path)
    with pytest.raises(RuntimeError):
        theirs(images((7, 32)), interpolate_pos_encoding=True)
    with pytest.raises(IncompatibleError, match=r"7 x 32 pixels.*at least a patch, 8 x 8"):
        ours(images((7, 32)), interpolate_pos_encoding=True)
    with torch.no_grad():
        ours(images((8, 8)), interpolate_pos_encoding=True)


@pytest.mark.parametrize("case", ["vit", "deit", "beit, all", "beit, none"])
def test_the_hint_for_another_size(case: str, tmp_path: Path) -> None:
    _, ours = pair(*POSITIONS[case], tmp_path)
    with pytest.raises(IncompatibleError, match="resize them, or pass interpolate_pos_encoding=True"):
        ours(images((40, 32)))
    with torch.no_grad():
        assert ours(images((40, 32)), interpolate_pos_encoding=True).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("model_type", OURS)
def test_one_channel(model_type: str, tmp_path: Path) -> None:
    fields = SWIN if "swin" in model_type else VIT
    theirs, ours = pair(model_type, {**fields, "num_channels": 1}, tmp_path)
    assert ours.num_channels == 1
    assert len(ours.preprocessing.image_mean) == 1
    pixels = images(ours.image_size, 1)
    with torch.no_grad():
        close(ours(pixels).last_hidden_state, theirs(pixels).last_hidden_state)
    with pytest.raises(UsageError, match=r"\(N, 1, H, W\) expected"):
        ours(images(ours.image_size))
    assert ours.settings()["num_channels"] == 1
