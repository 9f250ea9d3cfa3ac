"""Texts of images: as a slow loop writes them that keeps no cache, whatever the search."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vedcore
from vedcore.outputs import EncoderOutput

VIT = {
    "name": "vit",
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "patch_size": 8,
    "image_size": (16, 24),
}
STEPS, BEAMS = 10, 4
PROMPT = torch.tensor([[1, 5, 9], [3, 1, 7]])
"""Its second row begins with padding."""
PROMPT_MASK = torch.tensor([[1, 1, 1], [0, 1, 1]])


def compose(family: Any, **fields: Any) -> Any:
    """A model that sees images in every second layer, with weights spread widely."""
    settings = {**family.settings, "eos_token_id": None, **fields}
    decoder = {"name": family.name, "cross_attention_every": 2, "cross_attention_gate": True, **settings}
    model = vedcore.compose(VIT, decoder, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.decoder.named_parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) * 0.3 + ("norm" in name or "gate" in name)
            )
    return model


def scores(model: Any, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities (B, V) of the next token, from the whole text, with one copy of the image a row."""
    more = ids.shape[1] - mask.shape[1]
    mask = torch.cat([mask, mask.new_ones(len(mask), more)], 1)
    out = model.decoder(ids, mask, encoder_hidden_states=states.expand(len(ids), -1, -1))
    return out.logits[:, -1].log_softmax(-1)


def slow_greedy(model: Any, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    for _ in range(STEPS):
        ids = torch.cat([ids, scores(model, states, ids, mask).argmax(-1, keepdim=True)], 1)
    return ids


def slow_beams(model: Any, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    total = torch.zeros(1)
    for _ in range(STEPS):
        sums = total[:, None] + scores(model, states, ids, mask.expand(len(ids), -1))  # (beams, V)
        total, best = sums.flatten().topk(BEAMS)
        rows, tokens = best // sums.shape[1], best % sums.shape[1]
        ids = torch.cat([ids[rows], tokens[:, None]], 1)
    return ids[:1]


@torch.no_grad()
@pytest.mark.parametrize(("slow", "options"), [(slow_greedy, {}), (slow_beams, {"num_beams": BEAMS})])
def test_as_a_slow_loop(family: Any, slow: Any, options: dict[str, int]) -> None:
    model = compose(family)
    pixels = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(2))
    states, _ = model.project(model.encode(pixels))
    rows = [slow(model, states[i : i + 1], PROMPT[i : i + 1], PROMPT_MASK[i : i + 1]) for i in range(2)]
    came = model.generate(
        pixels, decoder_input_ids=PROMPT, decoder_attention_mask=PROMPT_MASK, max_new_tokens=STEPS, **options
    )
    assert came.tolist() == torch.cat(rows).tolist()


def test_other_searches(family: Any) -> None:
    """Assisted decoding writes as greedy search does, past the first length too; contrastive search alike alone."""
    model, pixels = compose(family), torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(3))
    greedy = model.generate(pixels, max_new_tokens=24)
    assert torch.equal(model.generate(pixels, max_new_tokens=24, prompt_lookup_num_tokens=3), greedy)
    contrastive = {"max_new_tokens": 12, "penalty_alpha": 0.6, "top_k": 4}
    both = model.generate(pixels, **contrastive)
    assert both[1:].tolist() == model.generate(pixels[1:], **contrastive).tolist()
    assert both.tolist() != greedy[:, :13].tolist()


def test_an_image_mask(family: Any) -> None:
    """Image tokens that are padding change nothing."""
    model = compose(family)
    states = torch.randn(1, 9, 24, generator=torch.Generator().manual_seed(4))
    mask = torch.arange(9)[None] < 6
    masked = model.generate(encoder_outputs=EncoderOutput(states, attention_mask=mask), max_new_tokens=8, num_beams=2)
    cut = model.generate(encoder_outputs=EncoderOutput(states[:, :6]), max_new_tokens=8, num_beams=2)
    assert torch.equal(masked, cut)


def test_the_plan_counts_few_heads(tiny: Any) -> None:
    settings = tiny("llama").settings  # 3 layers, one head of keys and values, 8 wide
    plan = vedcore.plan(VIT, {"name": "llama", **settings, "cross_attention_every": 2})
    assert plan.cache_bytes_per_token == 3 * 2 * 8 * 4
    assert plan.cache_bytes_per_image == plan.image_tokens * 2 * 8 * 4
