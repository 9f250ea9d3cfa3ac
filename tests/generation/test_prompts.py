"""Prompts of whole models, as transformers takes them: with and without the start id, with holes in their masks."""

from __future__ import annotations

import functools
import tempfile
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

import vedcore
from vedcore.errors import UsageError

FAMILIES = ["bert", "roberta", "gpt2", "bart", "mbart", "trocr", "trocr-sinusoid"]
EOS = [*range(4, 98, 7)]
ENDS: dict[str, Any] = {"eos_token_id": EOS, "pad_token_id": 2}
WITHOUT_START = torch.tensor([[40, 51], [7, 8], [90, 3], [22, 22]])
SOME_WITH_START = torch.tensor([[0, 51], [7, 8], [90, 3], [22, 22]])


def both(pair: Any, **options: Any) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of vedcore and of transformers."""
    ours, theirs = pair.generate({**ENDS, "max_new_tokens": 9, **options})
    return ours.sequences.tolist(), theirs.sequences.tolist()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_start_id_goes_before_prompts_without_it(pair: Any, family: str, beams: int) -> None:
    for options in (
        {"decoder_input_ids": WITHOUT_START},
        {"decoder_input_ids": SOME_WITH_START},
        {"decoder_input_ids": WITHOUT_START, "decoder_start_token_id": 33},
        {"decoder_input_ids": WITHOUT_START, "decoder_start_token_id": [33, 5, 6, 9]},
        {"decoder_input_ids": WITHOUT_START, "decoder_start_token_id": [33, 7, 6, 9]},
        {"decoder_input_ids": WITHOUT_START, "max_new_tokens": None, "max_length": 6},
    ):
        ours, theirs = both(pair(family), num_beams=beams, **options)
        assert ours == theirs, options


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", ["bert", "gpt2", "bart", "mbart", "trocr"])
@pytest.mark.parametrize(
    ("prompt", "mask"),
    [
        ([0, 40, 51, 9], [1, 0, 1, 1]),
        ([0, 40, 51, 9], [1, 0, 0, 1]),
        ([0, 2, 51, 2, 9], [1, 0, 1, 0, 1]),
        ([40, 51, 9], [1, 0, 1]),
        ([2, 2, 9], [0, 0, 1]),
    ],
    ids=str,
)
def test_masks_with_holes(
    pair: Any, family: str, beams: int, use_cache: bool, prompt: list[int], mask: list[int]
) -> None:
    """A masked token behind the first one takes its position, and no token attends to it; one row differs."""
    prompts = torch.tensor([prompt] * 4)
    prompts[1:, -1] = torch.tensor([17, 30, 66])
    masks = torch.tensor([mask] * 4)
    masks[3] = 1
    ours, theirs = both(
        pair(family),
        num_beams=beams,
        use_cache=use_cache,
        decoder_input_ids=prompts,
        decoder_attention_mask=masks,
    )
    assert ours == theirs


@pytest.mark.parametrize("family", ["roberta", "trocr-sinusoid"])
def test_holes_where_positions_follow_the_padding_id(pair: Any, family: str) -> None:
    prompts = torch.tensor([[0, 40, 51, 9], [0, 30, 51, 9], [0, 40, 2, 9], [0, 41, 42, 43]])
    masks = torch.tensor([[1, 0, 1, 1], [1, 0, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1]])
    ours, theirs = both(pair(family), decoder_input_ids=prompts, decoder_attention_mask=masks)
    assert ours == theirs


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "bart"])
def test_forward_takes_holes(pair: Any, family: str) -> None:
    model = pair(family)
    ids = torch.tensor([[0, 40, 51, 9, 12]] * 4)
    mask = torch.tensor([[1, 0, 1, 1, 1], [1, 1, 0, 0, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        theirs = model.theirs(pixel_values=model.pixels, decoder_input_ids=ids, decoder_attention_mask=mask).logits
        ours = model.ours(model.pixels, decoder_input_ids=ids, decoder_attention_mask=mask).logits
        first = model.ours(
            model.pixels, decoder_input_ids=ids[:, :3], decoder_attention_mask=mask[:, :3], use_cache=True
        )
        rest = model.ours(
            past_key_values=first.past_key_values, decoder_input_ids=ids[:, 3:], decoder_attention_mask=mask
        )
    real = mask.bool()
    torch.testing.assert_close(ours[real], theirs[real], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(rest.logits[real[:, 3:]], theirs[:, 3:][real[:, 3:]], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("options", [{"prompt_lookup_num_tokens": 3}, {"num_return_sequences": 2, "do_sample": True}])
def test_holes_with_guesses_and_copies(pair: Any, options: dict[str, Any]) -> None:
    model = pair("gpt2").ours
    given = {
        "decoder_input_ids": torch.tensor([[0, 40, 51, 9], [0, 9, 9, 9], [0, 8, 7, 8], [0, 3, 4, 3]]),
        "decoder_attention_mask": torch.tensor([[1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1]]),
        "max_new_tokens": 12,
    }
    if "do_sample" in options:
        plain = model.generate(pair("gpt2").pixels, **given, **options, use_cache=False, seed=0)
        assert model.generate(pair("gpt2").pixels, **given, **options, seed=0).tolist() == plain.tolist()
    else:
        plain = model.generate(pair("gpt2").pixels, **given)
        assert model.generate(pair("gpt2").pixels, **given, **options).tolist() == plain.tolist()


@functools.cache
def donut() -> tuple[Any, Any, Tensor]:
    encoder = hf.DonutSwinConfig(
        image_size=32, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=2, mlp_ratio=2.0
    )
    decoder = hf.MBartConfig(
        vocab_size=60,
        d_model=32,
        decoder_layers=1,
        decoder_attention_heads=4,
        decoder_ffn_dim=32,
        max_position_embeddings=40,
        is_decoder=True,
        add_cross_attention=True,
    )
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 9, 1, 2
    torch.manual_seed(0)
    theirs = hf.VisionEncoderDecoderModel(config).eval()
    for parameter in theirs.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0, 0.4)
    theirs.generation_config = hf.GenerationConfig(decoder_start_token_id=9, pad_token_id=1, eos_token_id=2)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = vedcore.load(folder)
    return ours, theirs, torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_donuts_prompts_are_whole() -> None:
    """A task's token stands in place of the start id, as in every Donut page."""
    ours, theirs, pixels = donut()
    assert ours.takes_task_prompts
    for prompt in ([[5]], [[5, 9, 7]], [[9, 5]]):
        options = {"decoder_input_ids": torch.tensor(prompt), "max_length": 12}
        with torch.no_grad():
            told = theirs.generate(pixels, do_sample=False, num_beams=1, **options)
        got = ours.generate(pixels, **options)
        assert got.tolist() == told.tolist()
        assert got[0, 0] == prompt[0][0]


def test_a_model_without_a_start_id_takes_prompts_as_they_are(pair: Any) -> None:
    model = pair("gpt2")
    kept = model.ours.token_ids
    model.ours.token_ids = vedcore.TokenIds()
    try:
        out = model.ours.generate(model.pixels, decoder_input_ids=WITHOUT_START, max_new_tokens=2)
    finally:
        model.ours.token_ids = kept
    assert out[:, :2].tolist() == WITHOUT_START.tolist()


def test_padding_at_the_end_is_refused(pair: Any) -> None:
    model = pair("gpt2")
    mask = torch.tensor([[1, 1, 0]] * 4)
    ids = torch.cat([torch.zeros(4, 1, dtype=torch.long), WITHOUT_START], 1)
    with pytest.raises(UsageError, match="decoder_attention_mask: a prompt ends in padding; pad at the left"):
        model.ours.generate(model.pixels, decoder_input_ids=ids, decoder_attention_mask=mask)
