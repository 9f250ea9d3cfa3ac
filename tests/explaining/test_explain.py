"""An explanation has the text of `generate_text`, and the attention that the model has at each of its steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import vedcore
from vedcore.projectors import IdentityProjector
from vedcore.token_grids import TokenGrid, derived_grid


def steps(model: Any, image: Image.Image, **options: Any) -> list[Tensor]:
    """Of each token (layers, heads, 4, 8): what `generate` records, without the class token."""
    pixels = model.processor(images=[image])["pixel_values"]
    out = model.generate(pixels, output_attentions=True, return_dict_in_generate=True, **options)
    return [torch.stack(step)[:, 0, :, -1, 1:].unflatten(2, (4, 8)) for step in out.cross_attentions]


@pytest.mark.filterwarnings("ignore:.*never trained")
def test_the_maps_are_the_attention_of_each_step(model: Any, image: Image.Image) -> None:
    found, expected = model.explain(image, max_new_tokens=6), steps(model, image, max_new_tokens=6)
    assert found.grid == (4, 8)
    assert 0 < len(found.tokens) <= 6
    one = model.explain(image, max_new_tokens=6, layer=1, head=0)
    for token, own, step in zip(found.tokens, one.tokens, expected, strict=False):
        torch.testing.assert_close(token.map, step.mean((0, 1)))
        torch.testing.assert_close(own.map, step[1, 0])


@pytest.mark.filterwarnings("ignore:.*never trained")
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 1}, {"prompt": "ab c"}])
def test_the_text_is_that_of_generate_text(model: Any, image: Image.Image, options: dict[str, Any]) -> None:
    found = model.explain(image, max_new_tokens=7, **options)
    (text,) = model.generate_text(image, max_new_tokens=7, **options)
    assert (found.text, found.confidence) == (text.text, text.confidence)
    assert tuple((each.text, each.probability) for each in found.tokens) == text.tokens
    begun = options.get("prompt", "").split()[:-1]
    assert [word.text for word in found.words] == text.text.split()[len(begun) :]


@pytest.mark.filterwarnings("ignore:.*never trained")
def test_the_mode_and_the_options_of_the_model_stay(model: Any, image: Image.Image) -> None:
    model.train()
    try:
        found = model.explain(image, max_new_tokens=3)
        assert model.training
    finally:
        model.eval()
    assert found.to_dict() == model.explain(image, max_new_tokens=3).to_dict()


class Said:
    """An encoder that has nothing but a number of tokens."""

    def __init__(self, said: Any) -> None:
        self.num_tokens = said


def fixed(tokens: int, size: tuple[int, int]) -> Any:
    """``num_tokens`` of an encoder of one size."""

    def said(image_size: tuple[int, int]) -> int:
        if image_size != size:
            raise vedcore.IncompatibleError("another size")
        return tokens

    return said


@pytest.mark.parametrize(
    ("size", "tokens", "grid"),
    [
        ((224, 224), 197, (14, 14, 1)),
        ((224, 224), 198, (14, 14, 2)),
        ((224, 224), 49, (7, 7, 0)),
        ((384, 384), 577, (24, 24, 1)),
        ((960, 720), 32 * 24, (32, 24, 0)),
        ((32, 320), 10, (1, 10, 0)),
    ],
)
def test_a_grid_follows_from_the_number_of_tokens(
    size: tuple[int, int], tokens: int, grid: tuple[int, int, int]
) -> None:
    assert derived_grid(Said(fixed(tokens, size)), size) == grid


def test_columns_are_told_from_a_number_that_does_not_depend_on_the_image() -> None:
    assert derived_grid(Said(lambda size: -(-size[1] // 4)), (32, 321)) == (1, 81, 0)
    refused = {(256, 256): lambda size: 64, (224, 256): fixed(201, (224, 256)), (16, 16): fixed(5, (16, 16))}
    for size, said in refused.items():  # of no size, of no squares, of 2 x 2 or 1 x 1 squares
        with pytest.raises(vedcore.IncompatibleError, match="does not say where the"):
            derived_grid(Said(said), size)


PARTS = {
    "vit": {"name": "vit", "image_size": (32, 48), "patch_size": 8, "hidden_size": 12, "num_attention_heads": 2},
    "deit": {"name": "deit", "variant": "deit_tiny_distilled_patch16_224", "image_size": (32, 48)},
    "beit": {"name": "beit", "image_size": (32, 32), "patch_size": 8, "hidden_size": 12, "num_attention_heads": 2},
    "swin": {"name": "swin", "image_size": (64, 96), "patch_size": 4, "embed_dim": 8, "depths": (1, 1)}
    | {"num_heads": (1, 1), "window_size": 4},
    "timm/resnet10t": {"name": "timm/resnet10t", "image_size": (64, 96)},
}
GRIDS = {"vit": (4, 6, 1), "deit": (2, 3, 2), "beit": (4, 4, 1), "swin": (8, 12, 0), "timm/resnet10t": (2, 3, 0)}


@pytest.mark.parametrize("name", PARTS)
def test_the_grids_of_the_families(name: str) -> None:
    config = PARTS[name] if "timm" in name or name == "swin" else {**PARTS[name], "num_hidden_layers": 1}
    made = vedcore.compose(config, {"name": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 1}, tokenizer="char", seed=0)
    size = made.processor.preprocessing.image_size
    assert made.encoder.token_grid(size) == GRIDS[name]
    assert TokenGrid(*GRIDS[name]).tokens == made.encoder(torch.zeros(1, 3, *size)).last_hidden_state.shape[1]


def test_a_projector_that_keeps_the_tokens_keeps_their_grid() -> None:
    projector = IdentityProjector(IdentityProjector.make_config(None, {}), 8, 8)
    assert projector.token_grid(TokenGrid(3, 4, 1)) == (3, 4, 1)
