"""Other people's tools on a model (parametrized weights, adapters, trainers): it trains and writes as before."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import peft
import pytest
import torch
import transformers as hf
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import vedcore
from vedcore.config import ModelConfig

PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(3, 90, (2, 5), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> Any:
    made = vedcore.compose(
        {"name": "vit_tiny_patch16_224", "num_hidden_layers": 1},
        {"name": "gpt2", "n_layer": 2, "n_embd": 48, "n_head": 2},
        tokenizer="char",
        image_size=32,
        seed=0,
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.decoder.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.5, generator=generator)
    made.generate(PIXELS, max_new_tokens=2)  # its weights are laid out for writing
    return made


class Half(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


class Own(Tensor):
    """A tensor of a subclass, as quantized weights are."""


def _own(layer: Any) -> None:
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Own))


CHANGES: dict[str, Callable[[Any], object]] = {
    "parametrized": lambda layer: parametrize.register_parametrization(layer, "weight", Half()),
    "weight norm": parametrizations.weight_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "subclass": _own,
}


@pytest.mark.parametrize("change", CHANGES)
def test_layers_of_computed_weights(model: Any, change: str) -> None:
    CHANGES[change](next(part for part in model.decoder.layers[0].mlp.modules() if isinstance(part, nn.Linear)))
    ids = model.generate(PIXELS, max_new_tokens=8, eos_token_id=None)
    logits = model(PIXELS, decoder_input_ids=ids[:, :-1]).logits
    assert torch.equal(logits.argmax(2), ids[:, 1:])
    assert torch.equal(model.generate(PIXELS, max_new_tokens=8, eos_token_id=None), ids)


@pytest.mark.parametrize("use_dora", [False, True])
def test_adapters(model: Any, use_dora: bool) -> None:
    plain = model.generate(PIXELS, max_new_tokens=8)
    names = ["query", "value", "qkv"]
    config = peft.LoraConfig(target_modules=names, r=4, use_dora=use_dora, init_lora_weights=False)
    adapted: Any = peft.get_peft_model(copy.deepcopy(model), config)
    loss = adapted(pixel_values=PIXELS, labels=LABELS).loss
    loss.backward()
    assert {name.split(".")[-3] for name, p in adapted.named_parameters() if p.grad is not None} >= {"lora_A", "lora_B"}
    adapted.eval()
    ids = adapted.generate(PIXELS, max_new_tokens=8)
    assert not torch.equal(ids, plain)
    assert torch.equal(adapted.generate(PIXELS, max_new_tokens=8, use_cache=False), ids)
    assert torch.equal(adapted.merge_and_unload().generate(PIXELS, max_new_tokens=8), ids)


def test_trainer(model: Any, tmp_path: Path) -> None:
    rows = [{"pixel_values": PIXELS[i % 2], "labels": LABELS[i % 2]} for i in range(8)]
    arguments = hf.TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=2,
        num_train_epochs=2,
        learning_rate=1e-2,
        label_names=["labels"],
        save_strategy="no",
        eval_strategy="epoch",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = hf.Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    model.eval().save_pretrained(tmp_path / "trained")
    back = vedcore.load(tmp_path / "trained")
    assert torch.equal(back.generate(PIXELS, max_new_tokens=8), model.generate(PIXELS, max_new_tokens=8))


def test_trainer_with_images_and_texts(model: Any, tmp_path: Path) -> None:
    """``data_collator=model.processor.collate`` takes a data set as it is read."""
    image = Image.effect_noise((40, 40), 90).convert("RGB")
    rows = [{"image": image, "text": "abc" * (i % 3 + 1)} for i in range(6)]
    arguments = hf.TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=3,
        max_steps=2,
        label_names=["labels"],
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    before = model.decoder.embedding.weight.detach().clone()
    hf.Trainer(model=model, args=arguments, train_dataset=rows, data_collator=model.processor.collate).train()
    assert not torch.equal(model.decoder.embedding.weight, before)


def test_accelerate(model: Any) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model.train(), torch.optim.AdamW(model.parameters()))
    before = model.decoder.embedding.weight.detach().clone()
    accelerator.backward(prepared(pixel_values=PIXELS, labels=LABELS).loss)
    optimizer.step()
    assert not torch.equal(accelerator.unwrap_model(prepared).decoder.embedding.weight, before)


def test_a_config_is_what_others_ask_of_one(model: Any) -> None:
    config = model.config
    assert ModelConfig.parse(config.to_dict()).to_dict() == config.to_dict()
    assert json.loads(config.to_json_string()) == config.to_dict()
    config.use_cache = False
    assert not hasattr(config, "use_cache")
    with pytest.raises(ValueError, match="frozen"):
        config.dtype = "float16"


def test_export_and_whole_graphs(model: Any) -> None:
    """No branch of a training step depends on the values of tensors."""
    given = {"pixel_values": PIXELS, "labels": LABELS, "return_dict": False}
    due = model(**given)[0]
    exported = torch.export.export(model, (), given)
    assert torch.allclose(exported.module()(**given)[0], due, atol=1e-5)
    whole = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(whole(**given)[0], due, atol=1e-5)
