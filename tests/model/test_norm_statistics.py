"""Batch norms whose weight is frozen keep their statistics, and normalise by them: what was trained comes back."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

import vedcore

TEXTS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
_GENERATOR = torch.Generator().manual_seed(0)
PIXELS = 2 * torch.randn(8, 3, 1, 1, generator=_GENERATOR) + torch.randn(8, 3, 32, 32, generator=_GENERATOR)
"""Images of eight colours, with noise."""


def convolutional() -> Any:
    """A model whose encoder has seen images: its statistics are not those of a fresh one."""
    model = vedcore.compose(
        "timm/test_resnet",
        {"name": "gpt2", "n_layer": 1, "n_embd": 64, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
        tokenizer="char",
        image_size=32,
        decoder_attn_pdrop=0.0,
        decoder_initializer_range=0.2,
        seed=0,
    )
    model.encoder.train()
    with torch.no_grad():
        for scale in (1, 2, 3):
            model.encoder(scale * PIXELS + 1)
    return model.eval()


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {n.replace("base_layer.", ""): b.clone() for n, b in model.named_buffers() if "running" in n}


def norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def assert_same(found: dict[str, Tensor], due: dict[str, Tensor]) -> None:
    assert len(due) > 10
    assert all(torch.equal(tensor, due[name]) for (_, tensor), name in zip(found.items(), due, strict=True))


def learn(model: Any, labels: Tensor, steps: int, rate: float) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        model.train()
        optimizer.zero_grad()
        model(pixel_values=PIXELS, labels=labels).loss.backward()
        optimizer.step()


def by_freeze(model: Any) -> Any:
    return model.freeze("encoder")


def by_hand(model: Any) -> Any:
    model.train()  # before: the modules stay in training mode
    model.encoder.requires_grad_(False)
    return model


def by_adapters(model: Any) -> Any:
    torch.manual_seed(0)
    names = r".*layers.*(query|key|value|input|output)|.*conv[23]"
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=names, r=32, lora_alpha=64))


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("freeze", [by_freeze, by_hand, by_adapters])
def test_trained_texts_come_back(freeze: Any, tmp_path: Path) -> None:
    model = convolutional()
    before = statistics(model)
    labels = model.processor(text=TEXTS).labels
    trained = freeze(model)
    learn(trained, labels, 110 if freeze is by_adapters else 50, 1e-2 if freeze is by_adapters else 5e-3)
    if freeze is by_adapters:
        model = trained.merge_and_unload()
    assert_same(statistics(model), before)
    model.eval().save_pretrained(tmp_path)
    back = vedcore.load(tmp_path)
    ids = back.generate(PIXELS, max_new_tokens=8)
    assert back.processor.batch_decode(ids) == TEXTS


def test_statistics_move_in_full_training() -> None:
    model, plain = convolutional(), convolutional()
    labels = model.processor(text=TEXTS).labels
    model.train()(PIXELS, labels=labels)
    for norm in norms(plain):
        norm._forward_pre_hooks.clear()  # as timm has them
    plain.train()(PIXELS, labels=labels)
    assert_same(statistics(model), statistics(plain))
    assert not torch.equal(*(next(iter(statistics(m).values())) for m in (model, convolutional())))


def test_each_norm_counts_for_itself() -> None:
    """A frozen stem keeps its statistics while the stages are trained; thawed, they move again."""
    model = convolutional().train()
    stem, *others = norms(model)
    stem.requires_grad_(False)
    before = [norm.running_mean.clone() for norm in (stem, *others)]
    model.encode(PIXELS)
    assert torch.equal(stem.running_mean, before[0])
    assert not any(torch.equal(norm.running_mean, old) for norm, old in zip(others, before[1:], strict=True))
    assert stem.training
    stem.requires_grad_(True)
    model.encode(PIXELS)
    assert not torch.equal(stem.running_mean, before[0])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_keep_them(copied: Any) -> None:
    model = convolutional()
    model.encoder.requires_grad_(False)
    twin = copied(model).train()
    twin.encoder.train()
    twin(PIXELS, labels=model.processor(text=TEXTS).labels).loss.backward()
    assert_same(statistics(twin), statistics(model))


def test_recomputation_keeps_them() -> None:
    model = convolutional().train()
    model.encoder.requires_grad_(False)
    before = statistics(model)
    model.gradient_checkpointing_enable()
    model(PIXELS.clone().requires_grad_(), labels=model.processor(text=TEXTS).labels).loss.backward()
    assert_same(statistics(model), before)


def test_synchronised_norms_keep_them() -> None:
    model: Any = nn.SyncBatchNorm.convert_sync_batchnorm(convolutional())
    model.train().encoder.requires_grad_(False)
    before = statistics(model)
    model.encode(PIXELS)
    assert_same(statistics(model), before)


def test_an_error_within_leaves_the_mode() -> None:
    model = convolutional().train()
    norm = norms(model)[0].requires_grad_(False)
    with pytest.raises(RuntimeError):
        norm(torch.zeros(1, 1, 2, 2))
    assert norm.training


def test_a_whole_graph() -> None:
    model = convolutional().train()
    model.encoder.requires_grad_(False)
    labels = model.processor(text=TEXTS).labels
    whole = torch.compile(model, backend="eager", fullgraph=True)
    loss = whole(pixel_values=PIXELS, labels=labels, return_dict=False)[0]
    assert torch.allclose(loss, model(PIXELS, labels=labels).loss, atol=1e-5)
