"""Hints about adapters, and about saving a model that has some, raised and followed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrizations, parametrize, prune

import vedcore
from tests.hints.templates import told
from tests.model.tiny import ids, tiny

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
PIXELS = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
TO_MERGE = (
    "merge them: merge_and_unload() of the peft model; or save them alone: its save_pretrained, or "
    "peft.get_peft_model_state_dict"
)


def adapted(model: Any, **options: Any) -> Any:
    options = {"target_modules": ["query"], "init_lora_weights": False, **options}
    return peft.get_peft_model(model, peft.LoraConfig(**options))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(PIXELS, decoder_input_ids=ids(2)).logits
    return found


def test_adapters_to_merge(tmp_path: Path) -> None:
    model = tiny("bert")
    wrapped = adapted(model)
    wrapped.save_pretrained(tmp_path / "alone")
    told(TO_MERGE, model.save_pretrained, tmp_path / "model")
    told(TO_MERGE, model.load_adapter, tmp_path / "alone")
    due = logits(model)
    wrapped.merge_and_unload().save_pretrained(tmp_path / "model")
    assert torch.allclose(logits(vedcore.load(tmp_path / "model")), due, atol=1e-5)
    assert torch.allclose(logits(tiny("bert").load_adapter(tmp_path / "alone")), due, atol=1e-5)

    injected = peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["query"], init_lora_weights=False), model)
    told(TO_MERGE, model.save_pretrained, tmp_path / "model")
    assert peft.get_peft_model_state_dict(injected)


def test_layers_to_put_back(tmp_path: Path) -> None:
    hint = "put the config's layers back: parametrize.remove_parametrizations or prune.remove of torch does so"
    model = tiny("bert")
    layers = [layer.mlp.input for layer in model.decoder.layers]
    parametrizations.weight_norm(layers[0])
    prune.l1_unstructured(layers[1], "weight", 0.5)
    told(hint, model.save_pretrained, tmp_path)
    parametrize.remove_parametrizations(layers[0], "weight")
    prune.remove(layers[1], "weight")
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(vedcore.load(tmp_path)), logits(model))


def test_adapters_that_change_the_model_too(tmp_path: Path) -> None:
    base = tiny("bert")
    wrapped = adapted(copy.deepcopy(base), init_lora_weights="pissa")
    config = wrapped.peft_config["default"]
    config.init_lora_weights = True
    wrapped.save_pretrained(tmp_path / "start")
    config.init_lora_weights = "pissa"
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1)
    due = logits(wrapped.base_model.model)
    wrapped.save_pretrained(tmp_path / "pissa")
    hint = "save it as plain LoRA: path_initial_model_for_weight_conversion of peft's save_pretrained"
    told(hint, base.load_adapter, tmp_path / "pissa")
    wrapped.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    assert torch.allclose(logits(base.load_adapter(tmp_path / "plain")), due, atol=1e-4)


def test_other_kinds(tmp_path: Path) -> None:
    hint = "peft opens it: peft.PeftModel.from_pretrained(model, folder)"
    base = tiny("bert")
    wrapped = adapted(copy.deepcopy(base), use_dora=True)
    wrapped.save_pretrained(tmp_path / "dora")
    told(hint, base.load_adapter, tmp_path / "dora")
    due = logits(wrapped.base_model.model)
    peft.PeftModel.from_pretrained(base, str(tmp_path / "dora"))
    assert torch.allclose(logits(base), due, atol=1e-5)
    peft.get_peft_model(tiny("bert"), peft.LoHaConfig(target_modules=["query"])).save_pretrained(tmp_path / "loha")
    told(hint, tiny("bert").load_adapter, tmp_path / "loha")


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    adapted(tiny("bert")).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    good = load_file(file)
    save_file({name: tensor * float("inf") for name, tensor in good.items()}, file)
    told("take an earlier one", tiny("bert").load_adapter, tmp_path)
    save_file({name: torch.full_like(tensor, 300) for name, tensor in good.items()}, file)
    told('load the model with dtype="float32"', tiny("bert", dtype="float16").load_adapter, tmp_path)
    tiny("bert", dtype="float32").load_adapter(tmp_path)
    save_file(good, file)
    tiny("bert").load_adapter(tmp_path)


def test_adapters_of_another_model(tmp_path: Path) -> None:
    adapted(tiny("bert")).save_pretrained(tmp_path)
    told("are they the adapters of this model?", tiny("gpt2").load_adapter, tmp_path)
    tiny("bert").load_adapter(tmp_path)


def test_layers_that_share_a_weight(tmp_path: Path) -> None:
    model = tiny("bert")
    first, second = (layer.mlp.input for layer in model.decoder.layers)
    second.weight = first.weight
    adapted(tiny("bert"), target_modules=["decoder.layers.0.mlp.input"]).save_pretrained(tmp_path)
    told("train other modules, or both of them alike", model.load_adapter, tmp_path)
    adapted(tiny("bert")).save_pretrained(tmp_path)
    model.load_adapter(tmp_path)
    assert second.weight is first.weight


def test_a_folder_of_adapters_alone(tmp_path: Path) -> None:
    base = tiny("bert")
    base.save_pretrained(tmp_path / "base")
    adapted(base).save_pretrained(tmp_path / "alone")
    told("load that model, then call model.load_adapter(folder)", vedcore.load, tmp_path / "alone")
    vedcore.load(tmp_path / "base").load_adapter(tmp_path / "alone")
