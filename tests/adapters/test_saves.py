"""A model that its folder could not hold is not saved, and the folder stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import vedcore
from tests.model.tiny import ids, tiny

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
PIXELS = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def lora(**options: Any) -> Any:
    return peft.LoraConfig(target_modules=["query"], init_lora_weights=False, **options)


def wrapped(model: Any) -> None:
    peft.get_peft_model(model, lora())


def in_a_part(model: Any) -> None:
    model.decoder = peft.get_peft_model(model.decoder, lora())


def injected(model: Any) -> None:
    peft.inject_adapter_in_model(lora(), model)


def merged_but_there(model: Any) -> None:
    peft.get_peft_model(model, lora()).merge_adapter()


def stored_whole(model: Any) -> None:
    peft.get_peft_model(model, lora(modules_to_save=["projector"]))


def other_method(model: Any) -> None:
    peft.get_peft_model(model, peft.LoHaConfig(target_modules=["query"]))


@pytest.mark.parametrize("format", ["native", "transformers"])
@pytest.mark.parametrize("adapt", [wrapped, in_a_part, injected, merged_but_there, stored_whole, other_method])
def test_adapters_are_to_be_merged_or_saved_alone(adapt: Callable[[Any], None], format: str, tmp_path: Path) -> None:
    model = tiny("bert")
    model.save_pretrained(tmp_path, format=format)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    adapt(model)
    for save in (model.save_pretrained, lambda folder, **options: model.push_to_hub("me/x", **options)):
        with pytest.raises(vedcore.CheckpointWriteError, match=r"not merged.*merge_and_unload\(\).*save_pretrained"):
            save(tmp_path, format=format)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("format", ["native", "transformers"])
def test_both_remedies(format: str, tmp_path: Path) -> None:
    base = tiny("bert")
    adapted: Any = peft.get_peft_model(copy.deepcopy(base), lora()).eval()
    adapted.save_pretrained(tmp_path / "alone")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged", format=format)
    base.save_pretrained(tmp_path / "base", format=format)
    again = vedcore.load(tmp_path / "merged")
    other = vedcore.load(tmp_path / "base").load_adapter(tmp_path / "alone")
    due = merged(PIXELS, decoder_input_ids=ids(2)).logits
    for model in (again, other):
        assert torch.allclose(model(PIXELS, decoder_input_ids=ids(2)).logits, due, atol=1e-5)


def test_both_remedies_for_a_part(tmp_path: Path) -> None:
    base = tiny("bert")
    model: Any = copy.deepcopy(base)
    model.decoder = peft.get_peft_model(model.decoder, lora())
    model.decoder.save_pretrained(tmp_path)
    model.decoder = model.decoder.merge_and_unload()
    model.save_pretrained(tmp_path / "merged")
    due = vedcore.load(tmp_path / "merged").state_dict()
    assert all(torch.allclose(due[n], t, atol=1e-6) for n, t in base.load_adapter(tmp_path).state_dict().items())


class Half(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


class Wrapped(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.inner = layer


def first_layer(model: Any) -> Any:
    return model.decoder.layers[0].mlp.input


def replaced(model: Any) -> None:
    model.decoder.layers[0].mlp.input = Wrapped(first_layer(model))


def widened(model: Any) -> None:
    model.decoder.layers[0].mlp.input = nn.Linear(36, 50)


def removed(model: Any) -> None:
    model.decoder.final_norm = nn.Identity()
    del model.decoder.layers[1]


OTHERS: dict[str, Callable[[Any], object]] = {
    "parametrized": lambda model: parametrize.register_parametrization(first_layer(model), "weight", Half()),
    "weight norm": lambda model: parametrizations.weight_norm(first_layer(model)),
    "pruned": lambda model: prune.l1_unstructured(first_layer(model), "weight", 0.5),
    "added": lambda model: model.add_module("counter", nn.Linear(2, 2)),
    "replaced": replaced,
    "widened": widened,
    "removed": removed,
}


@pytest.mark.parametrize("change", OTHERS)
def test_layers_that_the_config_does_not_build(change: str, tmp_path: Path) -> None:
    model = tiny("bert")
    OTHERS[change](model)
    for options in ({}, {"format": "transformers"}, {"format": "transformers", "part": "decoder"}):
        with pytest.raises(vedcore.CheckpointWriteError, match="would not load"):
            model.save_pretrained(tmp_path / "folder", **options)
    assert not list(tmp_path.iterdir())


def test_plain_again(tmp_path: Path) -> None:
    model = tiny("bert")
    parametrize.register_parametrization(first_layer(model), "weight", Half())
    prune.l1_unstructured(model.decoder.layers[1].mlp.input, "weight", 0.5)
    due = model(PIXELS, decoder_input_ids=ids(2)).logits
    parametrize.remove_parametrizations(first_layer(model), "weight")
    prune.remove(model.decoder.layers[1].mlp.input, "weight")
    model.save_pretrained(tmp_path)
    assert torch.allclose(vedcore.load(tmp_path)(PIXELS, decoder_input_ids=ids(2)).logits, due, atol=1e-5)


def test_what_the_config_follows_is_saved(tmp_path: Path) -> None:
    """A changed vocabulary, new tokens, another type of numbers and of images load again."""
    model = tiny("bert", tokenizer="char", token_ids=None, decoder_vocab_size=98)
    model.add_tokens(["<x>"])
    model.resize_vocabulary(120)
    model.half().save_pretrained(tmp_path)
    assert vedcore.load(tmp_path).decoder.vocab_size == 120
