"""Hints of the encoders: each is given where the user stands, followed there, and works."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import timm.models._builder as builder
import torch

import vedcore
from tests.composer.tiny import GPT2
from tests.hints.templates import told

TINY = {"name": "vit_tiny_patch16_224", "image_size": 32}
SWIN: dict[str, Any] = {"name": "swin", "embed_dim": 8, "depths": (1, 1), "num_heads": (2, 4), "window_size": 2}
SWIN |= {"patch_size": 2, "image_size": 16}


def compose(encoder: Any, **options: Any) -> vedcore.VisionEncoderDecoder:
    return vedcore.compose(encoder, GPT2, **options)


ROWS: list[tuple[str, Any, Any]] = [
    ("write timm/<name>, such as timm/convnext_tiny", "timm", "timm/convnext_atto"),
    ("did you mean {…}?", "timm/resnet10", "timm/resnet10t"),
    ("did you mean {…}?", "timm/resnet18.a1_in2k", "timm/resnet18.a1_in1k"),
    ("timm.list_models() has them all", "timm/qqqqqq", f"timm/{timm.list_models('resnet10t')[0]}"),
    ("its name is now {…}", "timm/vit_tiny_patch16_224_in21k", "timm/vit_tiny_patch16_224.augreg_in21k"),
    ("its name is now {…}", "vit_tiny_patch16_224_in21k", "vit_tiny_patch16_224.augreg_in21k"),
    ("leave the tag out, or choose one of {…}", "timm/resnet18.zzzzzzzzzzzzzzzzzzzz", "timm/resnet18.a1_in1k"),
    ("leave the tag out, or choose one of {…}", "timm/resnet18.zzzzzzzzzzzzzzzzzzzz", "timm/resnet18"),
    ("write 'timm/{…}'", {"name": "vit", "variant": "resnet18"}, "timm/resnet18"),
    (
        "leave positions out",
        {"name": "timm/vit_tiny_patch16_224", "positions": "sinusoidal"},
        "timm/vit_tiny_patch16_224",
    ),
    ("leave it out", {"name": "timm/vgg11", "drop_path_rate": 0.1}, "timm/vgg11"),
    ("choose another model", "timm/crossvit_9_240", "timm/resnet10t"),
    ("use {…} x {…}, which it was made for", {"name": "timm/levit_128s", "image_size": 100}, "timm/levit_128s"),
    (
        "make each side at least {…}",
        {"name": "timm/resnet10t", "image_size": 16},
        {"name": "timm/resnet10t", "image_size": 32},
    ),
    ("make it {…}, or change patch_size", {**TINY, "image_size": 33}, {**TINY, "image_size": 32}),
    (
        "make it {…}, or change patch_size",
        {**TINY, "image_size": 33, "patch_size": 16},
        {**TINY, "image_size": 33, "patch_size": 11},
    ),
    ("leave hidden_act out", {"name": "vit_base_patch16_xp_224", "hidden_act": "relu"}, "vit_base_patch16_xp_224"),
    ("leave layer_norm_eps out", {"name": "vit", "variant": "test_vit4", "layer_norm_eps": 1e-5}, "timm/test_vit4"),
    ("make it smaller", {**TINY, "image_size": 16_000}, TINY),
    ("change one of the two", {**TINY, "num_attention_heads": 7}, {**TINY, "num_attention_heads": 6}),
    (
        "leave patch_size out",
        {"name": "vit_tiny_r_s16_p8_224", "patch_size": 8},
        {"name": "vit_tiny_r_s16_p8_224"},
    ),
    ("give both the same number", {**SWIN, "depths": (1, 1, 1)}, {**SWIN, "depths": (1, 1)}),
    ("change num_heads or embed_dim", {**SWIN, "num_heads": (3, 4)}, {**SWIN, "num_heads": (4, 4)}),
    ("change num_heads or embed_dim", {**SWIN, "num_heads": (3, 4)}, {**SWIN, "num_heads": (3, 4), "embed_dim": 12}),
]


@pytest.mark.parametrize(("template", "bad", "good"), ROWS, ids=[f"{i}-{row[0]}" for i, row in enumerate(ROWS)])
def test_settings(template: str, bad: Any, good: Any) -> None:
    told(template, vedcore.plan, bad, GPT2)
    assert vedcore.plan(good, GPT2).image_tokens > 0


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for the hub that timm asks: ``state``, or ``error``."""
    held: dict[str, Any] = {"state": timm.create_model("vit_tiny_patch16_224").state_dict()}

    def fetch(*_: Any, **__: Any) -> Any:
        if "error" in held:
            raise held["error"]
        return held["state"]

    monkeypatch.setattr(builder, "load_state_dict_from_hf", fetch)
    return held


def test_published_weights(published: dict[str, Any], tmp_path: Any) -> None:
    compose(TINY).save_pretrained(tmp_path / "model")  # a decoder that is not on the hub
    decoder = str(tmp_path / "model")
    told("leave pretrained out", vedcore.compose, "timm/test_vit4", decoder, pretrained=True)
    assert vedcore.compose("timm/test_vit4", decoder).num_parameters() > 0
    small, template = {**TINY, "num_hidden_layers": 2}, "leave sizes as the variant has them, or leave pretrained out"
    told(template, vedcore.compose, small, decoder, pretrained=True)
    assert vedcore.compose(small, decoder).num_parameters() > 0
    model = vedcore.compose(TINY, decoder, pretrained=True)
    assert model.encoder.model.norm.weight.equal(published["state"]["norm.weight"])
    published["error"] = OSError("no route")
    told("check the connection, or leave pretrained out", vedcore.compose, TINY, decoder, pretrained=True)
    assert vedcore.compose(TINY, decoder).num_parameters() > 0
    del published["error"]
    assert vedcore.compose(TINY, decoder, pretrained=True).num_parameters() > 0


def test_images(capsys: pytest.CaptureFixture[str]) -> None:
    model = compose(TINY, token_ids={"start": 1})
    picture = torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()
    for wrong in ([picture], torch.zeros(3, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)):
        told("use model.processor", model.encoder, wrong)
    pixels = model.processor(picture).pixel_values
    states = model.encoder(pixels).last_hidden_state
    template = "give {…}, one value for each token"
    hint = told(template, model.encoder, pixels, attention_mask=torch.ones(1, 2)).hint
    shape = eval(hint.removeprefix("give ").partition(", one")[0])
    assert model.encoder(pixels, attention_mask=torch.ones(shape)).attention_mask.all()
    assert shape == states.shape[:2]


def test_sizes_of_images(tmp_path: Any) -> None:
    model = compose(TINY, token_ids={"start": 1})
    model.save_pretrained(tmp_path)
    wide, options = torch.zeros(1, 3, 32, 64), {"max_new_tokens": 2}
    told("resize them{…}", model.generate, wide, **options)
    assert model.generate(wide, interpolate_pos_encoding=True, **options).shape == (1, 3)
    assert vedcore.load(tmp_path, image_size=(32, 64)).generate(wide, **options).shape == (1, 3)
    assert model.generate(wide[..., :32], **options).shape == (1, 3)
    hybrid = compose({"name": "vit_tiny_r_s16_p8_224", "image_size": 32}, token_ids={"start": 1})
    told("resize them", hybrid.generate, wide, **options)
    assert hybrid.generate(wide[..., :32], **options).shape == (1, 3)
    template = "make them at least a patch, {…} x {…}"
    told(template, model.generate, wide[..., :9], interpolate_pos_encoding=True, **options)
    assert model.generate(wide[..., :16], interpolate_pos_encoding=True, **options).shape == (1, 3)
    hint = told(
        "pass a preprocessing whose image_size is {…}", compose, TINY, preprocessing={"image_size": (64, 64)}
    ).hint
    assert hint.endswith(", or image_size=(64, 64)")
    assert compose(TINY, preprocessing={"image_size": (64, 64)}, image_size=(64, 64)).encoder.image_size == (64, 64)


def test_swin_takes_no_map_below_a_window() -> None:
    model = compose(SWIN, token_ids={"start": 1})
    hint = told("make them {…} x {…} pixels or larger", model.generate, torch.zeros(1, 3, 4, 4)).hint
    height, width = (int(word) for word in hint.split() if word.isdigit())
    assert model.generate(torch.zeros(1, 3, height, width), max_new_tokens=2).shape == (1, 3)
    template = "make them {…} x {…} pixels or larger"
    told(template, model.generate, torch.zeros(1, 3, height, width - 1))


def test_what_a_model_of_timm_does_not_give() -> None:
    model = compose({"name": "timm/resnet10t", "image_size": 64})
    pixels, ids = torch.zeros(1, 3, 64, 64), torch.ones(1, 2, dtype=torch.long)
    told("leave it out", model.encoder, pixels, output_attentions=True)
    assert model.encoder(pixels).last_hidden_state.shape[0] == 1
    encoder = compose("timm/vit_tiny_patch16_224", image_size=32).encoder.train()
    encoder.gradient_checkpointing = True
    told("switch one of them off", encoder, pixels[..., :32, :32], output_attentions=True)
    assert encoder(pixels[..., :32, :32]).last_hidden_state.requires_grad
    encoder.gradient_checkpointing = False
    assert encoder(pixels[..., :32, :32], output_attentions=True).attentions
    assert ids.shape == (1, 2)
