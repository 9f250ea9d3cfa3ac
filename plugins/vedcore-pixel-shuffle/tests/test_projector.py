"""The projector keeps vedcore's contract, does what transformers' does, and refuses grids that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import vedcore
from vedcore.testing import check_registration, parametrize_with_checks
from vedcore_pixel_shuffle.projector import PixelShuffleConfig, PixelShuffleProjector


def make(**fields: Any) -> PixelShuffleProjector:
    return PixelShuffleProjector(PixelShuffleConfig(**fields), 6, 10)


@parametrize_with_checks(
    {
        "halves": lambda: make(),
        "thirds": lambda: make(scale_factor=3),
        "class-token": lambda: make(num_prefix_tokens=1),
        "wide": lambda: make(scale_factor=2, grid=(2, 8)),
    }
)
def test_contract(part: Any, check: Callable[[Any], None]) -> None:
    check(part)


def test_registration() -> None:
    check_registration("vedcore_pixel_shuffle")


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_it_equals_the_connector_of_idefics3(factor: int) -> None:
    idefics3 = pytest.importorskip("transformers.models.idefics3.modeling_idefics3")
    config = pytest.importorskip("transformers").Idefics3Config(
        vision_config={"hidden_size": 6},
        text_config={"model_type": "llama", "hidden_size": 10, "num_attention_heads": 1},
        scale_factor=factor,
    )
    theirs, ours = idefics3.Idefics3Connector(config), make(scale_factor=factor)
    ours.proj.weight = theirs.modality_projection.proj.weight
    states = torch.randn(2, 144, 6)
    assert torch.equal(ours(states), theirs(states))


def test_squares_of_a_grid_that_is_not_square() -> None:
    """Tokens 0, 1, 4 and 5 of 2 x 4 become one token, in this order."""
    projector = make(grid=(2, 4))
    projector.proj.weight = torch.nn.Parameter(torch.eye(24)[:10])
    states = torch.arange(8.0)[None, :, None].expand(1, 8, 6)
    assert projector(states)[0, :, ::6].tolist() == [[0, 1], [2, 3]]
    assert [row.tolist() for row in projector._squares(states)[0, :, :, 0]] == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_a_token_of_the_mask_is_kept_where_any_of_its_square_is() -> None:
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, [0, 15]] = True
    assert make().project_mask(mask).tolist() == [[True, False, False, True]]


@pytest.mark.parametrize(
    ("fields", "tokens", "message"),
    [
        ({}, 49, "squares of 2 x 2 do not divide a grid of 7 x 7 tokens; choose 1 or 7, or give"),
        ({}, 197, "197 tokens are not a square grid; set projector.num_prefix_tokens to 1"),
        ({"grid": (3, 4)}, 16, "16 tokens are not a grid of 3 x 4; set projector.grid"),
        ({"num_prefix_tokens": 1}, 196, "196 tokens, 1 of them prefix, are not a square grid"),
        ({"num_prefix_tokens": 4}, 4, "4 tokens, 4 of them prefix, are not a square grid"),
        ({"scale_factor": 3, "grid": (6, 8)}, 48, "squares of 3 x 3 do not divide a grid of 6 x 8 tokens"),
    ],
)
def test_refusals_have_numbers(fields: dict[str, Any], tokens: int, message: str) -> None:
    projector = make(**fields)
    calls: list[Callable[[], object]] = [
        lambda: projector.num_tokens(tokens),
        lambda: projector(torch.zeros(1, tokens, 6)),
        lambda: projector.project_mask(torch.ones(1, tokens, dtype=torch.bool)),
    ]
    for call in calls:
        with pytest.raises(vedcore.IncompatibleError) as raised:
            call()
        assert message in str(raised.value)


TINY: dict[str, Any] = {
    "encoder": {"name": "vit", "image_size": 32, "patch_size": 8, "hidden_size": 12, "num_hidden_layers": 1}
    | {"num_attention_heads": 2},
    "decoder": {"name": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2},
    "tokenizer": "char",
}


def test_a_model_with_it_trains_and_is_saved(tmp_path: Any) -> None:
    config = {**TINY, "projector": {"name": "pixel-shuffle", "num_prefix_tokens": 1}}
    plan = vedcore.plan(config)
    assert plan.projector.name == "pixel-shuffle"
    model = vedcore.compose(config, seed=0)
    pixels = torch.rand(2, 3, 32, 32)
    out = model(pixels, labels=torch.tensor([[5, 6], [7, 8]]))
    assert out.logits.isfinite().all()
    out.loss.backward()
    grad = model.projector.proj.weight.grad
    assert isinstance(grad, Tensor)
    assert grad.abs().sum() > 0
    model.save_pretrained(tmp_path / "saved")
    again = vedcore.load(tmp_path / "saved")
    assert again.config.plugins["projector"] == "vedcore-pixel-shuffle==0.1.0"
    assert torch.equal(again.generate(pixels, max_new_tokens=4), model.generate(pixels, max_new_tokens=4))


def test_the_plan_refuses_what_does_not_fit() -> None:
    with pytest.raises(vedcore.IncompatibleError) as raised:
        vedcore.plan({**TINY, "projector": "pixel-shuffle"})
    assert "17 tokens are not a square grid; set projector.num_prefix_tokens to 1" in str(raised.value)


def test_squares_lie_as_their_tokens_do() -> None:
    projector = make(grid=(2, 4), num_prefix_tokens=1)
    assert projector.token_grid(vedcore.TokenGrid(2, 4, prefix=1)) == (1, 2, 0)
