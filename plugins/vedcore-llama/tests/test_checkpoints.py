"""Folders of vedcore, and checkpoints of transformers as parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import vedcore

VIT = {"name": "vit", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
IDS = torch.tensor([[1, 5, 7, 20, 33, 4, 9, 12, 50, 44, 6, 31, 8, 17]])


@torch.no_grad()
def logits(model: Any) -> Tensor:
    out: Tensor = model(IDS).logits
    return out


@pytest.mark.filterwarnings("ignore:not written")
def test_a_checkpoint_as_a_part_and_back(case: Any, tmp_path: Path) -> None:
    theirs = case.build_theirs()
    theirs.save_pretrained(tmp_path / "theirs")
    model = vedcore.compose(VIT, str(tmp_path / "theirs"), decoder_cross_attention_every=3, seed=0)
    torch.testing.assert_close(logits(model.decoder), logits(theirs), atol=2e-4, rtol=0)
    fresh = model.load_reports["decoder"].fresh
    assert {*fresh} == model.decoder.fresh_parameters()
    assert all("layers.2.cross_attention" in name for name in fresh)
    assert (model.token_ids.start, model.token_ids.eos, model.token_ids.pad) == (1, (2,), 3)

    model.save_pretrained(tmp_path / "back", format="transformers", part="decoder")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", attn_implementation="eager")
    assert type(again) is type(theirs)
    torch.testing.assert_close(logits(again), logits(theirs), atol=1e-5, rtol=0)
    assert again.config.rope_parameters["rope_theta"] == theirs.config.rope_parameters["rope_theta"]

    model.save_pretrained(tmp_path / "native")
    loaded = vedcore.load(tmp_path / "native")
    assert torch.equal(logits(loaded.decoder), logits(model.decoder))
    assert {**loaded.state_dict()}.keys() == {**model.state_dict()}.keys()


def test_what_is_not_written_is_said(tiny: Any, tmp_path: Path) -> None:
    model = vedcore.compose(VIT, {"name": "llama", **tiny("llama").settings}, seed=0)
    with pytest.warns(
        UserWarning, match=r"not written: transformers' llama has no place for 15 tensors, such as layers"
    ):
        model.save_pretrained(tmp_path / "part", format="transformers", part="decoder")
    with pytest.raises(vedcore.IncompatibleError, match="no place for"):
        model.save_pretrained(tmp_path / "whole", format="transformers")


def written(tiny: Any, folder: Path, **changes: Any) -> Path:
    """A checkpoint of transformers' Llama whose config.json is changed; None leaves a field out."""
    tiny("llama").build_theirs().save_pretrained(folder)
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 500.0},
        {"rope_scaling": {"rope_type": "llama3", "type": "llama3", "factor": 4, "low_freq_factor": 1,
                          "high_freq_factor": 4, "original_max_position_embeddings": 8}, "rope_theta": 500},
        {"rope_scaling": {"type": "yarn", "factor": 2.0}, "original_max_position_embeddings": 6},
        {"rope_theta": 300.0},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 700.0}, "rope_theta": 300.0},
        {},
    ],
)  # fmt: skip
def test_older_configs(tiny: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    """``rope_theta`` and ``rope_scaling`` mean what they mean to transformers."""
    folder = written(tiny, tmp_path, rope_parameters=None, **changes)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ours = vedcore.compose(VIT, str(folder), seed=0).decoder
    torch.testing.assert_close(logits(ours), logits(theirs), atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"rope_type": "axial"}}, "rope_parameters.rope_type.*'axial'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "su"}}, "rope_parameters.rope_type.*'su'"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "full_attention: unknown key"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"hidden_act": "xielu"}, "hidden_act"),
    ],
)
def test_configs_that_are_refused(tiny: Any, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(vedcore.ConfigError, match=message):
        vedcore.compose(VIT, str(written(tiny, tmp_path, **changes)))
