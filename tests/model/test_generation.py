"""Ids and texts of a composed model."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import vedcore
from tests.model.tiny import PAD, START, ids, tiny


def test_generating_while_training_has_no_dropout_and_goes_back(pixels: Tensor) -> None:
    model = tiny("gpt2", decoder_embd_pdrop=0.5, decoder_resid_pdrop=0.5)
    expected = model.generate(pixels, max_new_tokens=8)
    model.train()
    model.decoder.dropout.eval()  # whatever the mode of each module was
    modes = {name: module.training for name, module in model.named_modules()}
    state = torch.get_rng_state()
    assert model.generate(pixels, max_new_tokens=8).tolist() == expected.tolist()
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in model.named_modules()} == modes
    with pytest.raises(vedcore.VedcoreError):
        model.generate(pixels * math.nan, max_new_tokens=8)
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_generation_needs_no_graph(model: Any, pixels: Tensor) -> None:
    assert not model.generate(pixels.clone().requires_grad_(), max_new_tokens=3).requires_grad


def test_sampling_repeats_under_a_seed(model: Any, pixels: Tensor) -> None:
    a, b, c = (model.generate(pixels, do_sample=True, seed=seed, max_new_tokens=8).tolist() for seed in (1, 1, 2))
    assert a == b != c


def test_prompts_go_before_what_is_written(model: Any, pixels: Tensor) -> None:
    prompt = ids(3, 4)
    prompt[:, 0] = START
    out = model.generate(pixels, decoder_input_ids=prompt, max_new_tokens=3)
    assert torch.equal(out[:, :4], prompt)
    assert out.shape[1] <= 7
    padded = torch.cat([torch.full((3, 2), PAD), prompt], 1)
    mask = torch.cat([torch.zeros(3, 2), torch.ones(3, 4)], 1)
    padded[0, 0], mask[0] = START, 1  # a row without padding, by which the prompts are seen to begin with the start id
    same = model.generate(pixels, decoder_input_ids=padded, decoder_attention_mask=mask, max_new_tokens=3)
    with pytest.raises(vedcore.UsageError, match="ends in padding; pad at the left"):
        model.generate(pixels, decoder_input_ids=padded, decoder_attention_mask=mask.flip(1), max_new_tokens=3)
    assert same[1:, 2:].tolist() == out[1:].tolist()
    with pytest.raises(vedcore.VedcoreError):
        model.generate(pixels, decoder_input_ids=prompt[:2])


def test_defaults_of_generation_are_the_models_own(model: Any, pixels: Tensor) -> None:
    model.generation_config = vedcore.GenerationConfig(max_new_tokens=4, num_beams=2)
    assert model.generate(pixels).tolist() == model.generate(pixels, max_new_tokens=4, num_beams=2).tolist()
    assert model.generate(pixels, num_beams=1, max_new_tokens=6).shape[1] <= 7
    given = vedcore.GenerationConfig(max_new_tokens=2)
    assert model.generate(pixels, given).shape[1] <= 3


def test_text_has_confidence_tokens_and_a_reason(reader: Any, pictures: list[Image.Image]) -> None:
    results = reader.generate_text(pictures, max_new_tokens=9)
    assert len({r.text for r in results}) > 1
    for result in results:
        assert 0 < result.confidence <= 1
        assert "".join(text for text, _ in result.tokens if len(text) == 1) == result.text
        assert all(0 < p <= 1 for _, p in result.tokens)
        assert result.finish_reason in ("eos", "length")
        if result.finish_reason == "length":
            mean = math.exp(sum(math.log(p) for _, p in result.tokens) / len(result.tokens))
            assert result.confidence == pytest.approx(mean)


def test_text_of_a_batch_is_that_of_each(reader: Any, pictures: list[Image.Image]) -> None:
    together = reader.generate_text(pictures, max_new_tokens=9, batch_size=2)
    alone = [reader.generate_text(picture, max_new_tokens=9)[0] for picture in pictures]
    for a, b in zip(together, alone, strict=True):
        assert (a.text, a.finish_reason) == (b.text, b.finish_reason)
        assert a.confidence == pytest.approx(b.confidence, rel=1e-4)


def test_text_of_any_kind_of_image(reader: Any, pictures: list[Image.Image], tmp_path: Path) -> None:
    picture = pictures[0]
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    array = np.asarray(picture)
    kinds = [
        picture,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        buffer.getvalue(),
        array,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
    ]
    results = reader.generate_text(kinds, max_new_tokens=9)
    assert {r.text for r in results} == {results[0].text}
    assert [r.text for kind in kinds for r in reader.generate_text(kind, max_new_tokens=9)] == [r.text for r in results]
    assert reader.generate_text([]) == []


def test_text_takes_the_options_of_generate(reader: Any, pictures: list[Image.Image]) -> None:
    beams = reader.generate_text(pictures[:2], num_beams=3, num_return_sequences=2, max_new_tokens=6)
    assert len(beams) == 4
    assert all(len(r.tokens) <= 6 for r in beams)
    config = vedcore.GenerationConfig(max_new_tokens=2)
    assert all(len(r.tokens) <= 2 for r in reader.generate_text(pictures, generation_config=config))
    ended = reader.generate_text(pictures[0], max_new_tokens=6, eos_token_id=None)[0]
    assert (ended.finish_reason, len(ended.tokens)) == ("length", 6)
    with pytest.raises(vedcore.UsageError, match="did you mean 'max_new_tokens'"):
        reader.generate_text(pictures, max_new_token=2)
    with pytest.raises(vedcore.UsageError, match="batch_size"):
        reader.generate_text(pictures, batch_size=0)
    with pytest.raises(vedcore.UsageError, match="no tokenizer"):
        tiny("gpt2").generate_text(pictures)
