"""Weights that training wrapped: prefixes, dicts of training checkpoints, adapters that were not merged."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

import vedcore

State = dict[str, Tensor]
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
OLD, OLD_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def vit() -> Any:
    return hf.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, image_size=16, patch_size=8
    )


def decoder(kind: str) -> Any:
    if kind == "gpt2":
        return hf.GPT2Config(vocab_size=50, n_embd=24, n_layer=2, n_head=2, n_positions=20)
    return hf.TrOCRConfig(
        vocab_size=50,
        d_model=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=20,
        max_position_embeddings=20,
        cross_attention_hidden_size=16,
    )


@pytest.fixture(params=["gpt2", "trocr"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit(), decoder(request.param))
    hf.VisionEncoderDecoderModel(config).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


@pytest.fixture
def native(tmp_path: Path) -> Path:
    model = vedcore.compose(
        {"name": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20},
        {"name": "bert", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20},
        image_size=32,
        tokenizer="char",
        seed=0,
    )
    model.save_pretrained(tmp_path / "native")
    return tmp_path / "native"


def rewrite(folder: Path, state: Any, layout: str = SINGLE) -> None:
    """Write the weights in another layout; ``state`` is a dict of tensors, or in a pickle what holds one."""
    (folder / SINGLE).unlink()
    if layout in (SINGLE, OLD):
        (save_file if layout == SINGLE else torch.save)(state, folder / layout)
        return
    single, ending = (SINGLE, ".safetensors") if layout == INDEX else (OLD, ".bin")
    names, weight_map = list(state), {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        shard = f"{single.removesuffix(ending)}-{number:05}-of-00002{ending}"
        rows = {name: state[name] for name in part}
        (save_file if layout == INDEX else torch.save)(rows, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    (folder / layout).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def notes_of(load: Callable[[], Any]) -> tuple[Any, list[str]]:
    """The result of the call, and its warnings of what was taken from a file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = load()
    return result, [str(w.message) for w in caught if "taken from it" in str(w.message)]


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


PREFIXES = [
    "_orig_mod.",
    "module.",
    "model.",
    "_fsdp_wrapped_module.",
    "_forward_module.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model._orig_mod.",
    "_forward_module.model.",
    "_fsdp_wrapped_module._orig_mod.module.",
    "module.module.",
    "base_model.model.",
    "captioner.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("layout", [SINGLE, INDEX, OLD, OLD_INDEX])
def test_a_prefix_of_all_names(folder: Path, prefix: str, layout: str) -> None:
    plain = vedcore.load(folder)
    rewrite(folder, {prefix + name: tensor for name, tensor in load_file(folder / SINGLE).items()}, layout)
    model, notes = notes_of(lambda: vedcore.load(folder))
    assert same(model, plain)
    assert [repr(prefix) in note and str(folder) in note for note in notes] == [True]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_in_a_folder_of_ours(native: Path, prefix: str) -> None:
    plain = vedcore.load(native)
    rewrite(native, {prefix + name: tensor for name, tensor in load_file(native / SINGLE).items()})
    with pytest.raises(vedcore.CheckpointCorruptError, match="verify=False"), pytest.warns(UserWarning, match="taken"):
        vedcore.load(native)
    model, notes = notes_of(lambda: vedcore.load(native, verify=False))
    assert same(model, plain)
    assert [repr(prefix) in note for note in notes] == [True]


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        (r"^encoder\.", "encoder._orig_mod.", "_orig_mod."),
        (r"^(encoder|decoder)\.", r"\1._fsdp_wrapped_module.", "_fsdp_wrapped_module."),
        (r"^decoder\.", "decoder.module.", "module."),
        (r"\.(\d+)\.", r".\1._fsdp_wrapped_module._checkpoint_wrapped_module.", "_checkpoint_wrapped_module."),
        (r"^encoder\.", "encoder._orig_mod.module.", "_orig_mod.module."),
    ],
)
def test_wrappers_within_a_name(folder: Path, native: Path, old: str, new: str, shown: str) -> None:
    for where, options in ((folder, {}), (native, {"verify": False})):
        plain = vedcore.load(where)
        tensors = load_file(where / SINGLE)
        for outer in ("", "module.", "model."):
            save_file({outer + re.sub(old, new, name): t for name, t in tensors.items()}, where / SINGLE)
            model, notes = notes_of(lambda where=where, options=options: vedcore.load(where, **options))
            assert same(model, plain)
            assert [shown in note and outer in note for note in notes] == [True]


def test_a_few_names_outside_of_the_prefix_are_left_and_named(folder: Path, native: Path) -> None:
    for where, options in ((folder, {}), (native, {"verify": False})):
        plain = vedcore.load(where)
        tensors = {f"model.{name}": tensor for name, tensor in load_file(where / SINGLE).items()}
        save_file({**tensors, "loss.weight": torch.ones(3), "steps": torch.ones(1)}, where / SINGLE)
        model, notes = notes_of(lambda where=where, options=options: vedcore.load(where, **options))
        assert same(model, plain)
        assert ["'model.'" in note and "loss.weight" in note and "steps" in note for note in notes] == [True]


def test_names_beside_wrapped_ones_are_refused(folder: Path) -> None:
    tensors = {name.replace("encoder.", "encoder._orig_mod.", 1): t for name, t in load_file(folder / SINGLE).items()}
    save_file({**tensors, "loss.weight": torch.ones(3)}, folder / SINGLE)
    with pytest.raises(vedcore.CheckpointMismatchError, match=r"1 unexpected: loss\.weight"):
        notes_of(lambda: vedcore.load(folder))


def test_names_that_do_not_fit_without_the_prefix_are_refused(folder: Path) -> None:
    tensors = load_file(folder / SINGLE)
    save_file({f"module.net{name}": tensor for name, tensor in tensors.items()}, folder / SINGLE)
    with pytest.raises(vedcore.CheckpointMismatchError, match=r"missing: .*unexpected: module\.net"):
        vedcore.load(folder)
    half = {(f"model.{name}" if index % 2 else name): t for index, (name, t) in enumerate(tensors.items())}
    save_file(half, folder / SINGLE)
    with pytest.raises(vedcore.CheckpointMismatchError, match=r"unexpected: model\."):
        vedcore.load(folder)
    lacking = {f"module.{name}": tensor for name, tensor in list(tensors.items())[1:]}
    save_file(lacking, folder / SINGLE)
    with pytest.raises(vedcore.CheckpointMismatchError, match="1 missing"), pytest.warns(UserWarning, match="module"):
        vedcore.load(folder)


def test_two_names_that_would_become_one_are_refused(folder: Path) -> None:
    tensors = load_file(folder / SINGLE)
    name = next(iter(tensors))
    wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
    save_file({**wrapped, f"module._orig_mod.{name}": tensors[name] + 1}, folder / SINGLE)
    with pytest.raises(vedcore.CheckpointMismatchError, match="_orig_mod"), pytest.warns(UserWarning, match="module"):
        vedcore.load(folder)


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]}


@pytest.mark.parametrize(
    ("wrap", "shown"),
    [
        (lambda s: {"model_state_dict": s, "optimizer_state_dict": OPTIMIZER, "epoch": 3}, ["'model_state_dict'"]),
        (lambda s: {"net": s, "acc": 0.9}, ["'net'"]),
        (
            lambda s: {"state_dict": {f"model.{n}": t for n, t in s.items()}, "hparams": {}},
            ["'state_dict'", "'model.'"],
        ),
        (lambda s: {"module": {f"module.{n}": t for n, t in s.items()}, "optimizer": None}, ["'module'", "'module.'"]),
        (lambda s: {"model": s, "ema": {n: t + 1 for n, t in s.items()}}, ["'model'", "not 'ema'"]),
        (lambda s: {"ema": {"decay": 0.9, "module": s}, "optimizer": OPTIMIZER}, ["'ema.module'"]),
        (
            lambda s: {"model": {"state_dict": {f"_orig_mod.{n}": t for n, t in s.items()}}},
            ["'model.state_dict'", "'_orig_mod.'"],
        ),
    ],
)
def test_dicts_of_training_checkpoints(folder: Path, wrap: Any, shown: list[str]) -> None:
    plain = vedcore.load(folder)
    rewrite(folder, wrap(load_file(folder / SINGLE)), OLD)
    model, notes = notes_of(lambda: vedcore.load(folder))
    assert same(model, plain)
    assert [all(word in note for word in shown) for note in notes] == [True]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "model._orig_mod."])
def test_parts_of_wrapped_checkpoints(folder: Path, tmp_path: Path, prefix: str) -> None:
    """The part of a wrapped whole model, a wrapped language model with its head, and a wrapped classifier."""
    hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=50, n_embd=24, n_layer=2, n_head=2)).save_pretrained(tmp_path / "text")
    hf.ViTForImageClassification(vit()).save_pretrained(tmp_path / "image")
    pairs = ((folder, folder), (tmp_path / "image", tmp_path / "text"))
    plain = [vedcore.compose(str(one), str(other), seed=0) for one, other in pairs]
    for where in {where for pair in pairs for where in pair}:
        tensors = load_file(where / SINGLE)
        save_file({prefix + name: tensor for name, tensor in tensors.items()}, where / SINGLE)
    for (one, other), due in zip(pairs, plain, strict=True):
        model, notes = notes_of(lambda one=one, other=other: vedcore.compose(str(one), str(other), seed=0))
        assert same(model, due)
        assert notes
        assert all(repr(prefix) in note for note in notes)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("query.weight", "query.lora_A.default.weight"),
        lambda name: f"base_model.model.{name}".replace("query.", "query.base_layer."),
        lambda name: f"module.{name}".replace("query.weight", "query.lora_B.weight"),
    ],
)
@pytest.mark.parametrize("layout", [SINGLE, OLD])
def test_adapters_that_were_not_merged_are_named_as_such(folder: Path, rename: Any, layout: str) -> None:
    rewrite(folder, {rename(name): tensor for name, tensor in load_file(folder / SINGLE).items()}, layout)
    for call in (
        lambda: vedcore.load(folder),
        lambda: vedcore.load(folder, strict=False),
        lambda: vedcore.compose(str(folder), "gpt2", tokenizer="char"),
    ):
        with pytest.raises(vedcore.CheckpointMismatchError, match=r"LoRA.*merge_and_unload\(\)"):
            call()


def test_a_folder_of_adapters_alone_is_named_as_such(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(vedcore.CheckpointNotFoundError, match=r"LoRA.*model\.load_adapter\(folder\)"):
        vedcore.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(vedcore.CheckpointNotFoundError, match=r"LoRA.*model\.load_adapter\(folder\)"):
        vedcore.load(folder)
