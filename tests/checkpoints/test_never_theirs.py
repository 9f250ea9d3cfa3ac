"""A decoder whose cross-attention transformers' class has no place for is written back, and says what it leaves out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

import vedcore
from tests.composer.tiny import GPT2, VIT, same_weights
from vedcore.weights.keymap import never_theirs
from vedcore_decoders.gpt2 import GPT2Decoder


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> vedcore.VisionEncoderDecoder:
    """A model whose GPT2 is written as a language model alone."""
    theirs = GPT2Decoder.transformers[0]
    rows = [row for row in theirs.key_map if "cross" not in row.theirs]
    rows.append(never_theirs("layers.{}.cross_attention*"))
    monkeypatch.setattr(GPT2Decoder, "transformers", (replace(theirs, key_map=tuple(rows)),))
    return vedcore.compose(VIT, GPT2, seed=0)


def test_the_part_is_written_without_them(model: vedcore.VisionEncoderDecoder, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"not written: .*gpt2 has no place for \d+ tensors, such as layers\.0\.cross"):
        model.save_pretrained(tmp_path, format="transformers", part="decoder")
    theirs, info = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path, output_loading_info=True, add_cross_attention=False
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = torch.tensor([[1, 5, 7]])
    assert torch.allclose(model.decoder(input_ids=ids).logits, theirs.eval()(ids).logits, atol=2e-4)
    again = vedcore.compose(VIT, str(tmp_path), seed=1)
    names = {name for name, _ in again.decoder.named_parameters()}
    assert {*again.load_reports["decoder"].fresh} == {name for name in names if "cross" in name}


def test_the_whole_model_is_refused(model: vedcore.VisionEncoderDecoder, tmp_path: Path) -> None:
    with pytest.raises(vedcore.IncompatibleError, match="no place for"):
        model.save_pretrained(tmp_path / "a", format="transformers")
    assert not (tmp_path / "a").exists()
    model.save_pretrained(tmp_path / "a")
    assert same_weights(vedcore.load(tmp_path / "a"), model)
