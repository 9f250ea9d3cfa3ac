"""Folders of transformers that are damaged, unsafe or at odds with their config."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

import vedcore

SINGLE, OLD = "model.safetensors", "pytorch_model.bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    encoder = hf.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, image_size=16, patch_size=8
    )
    decoder = hf.GPT2Config(
        vocab_size=50, n_embd=24, n_layer=2, n_head=2, n_positions=20, bos_token_id=1, eos_token_id=2
    )
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    hf.VisionEncoderDecoderModel(config).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def change(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / SINGLE)
    edit(tensors)
    save_file(tensors, folder / SINGLE, {"format": "pt"})


def as_bin(folder: Path) -> None:
    torch.save(load_file(folder / SINGLE), folder / OLD)
    (folder / SINGLE).unlink()


def refused(folder: Path, kind: type[Exception], *words: str) -> None:
    with pytest.raises(kind) as error:
        vedcore.load(folder)
    message = str(error.value)
    assert len(message) <= 300
    assert message.isprintable()
    for word in words:
        assert word in message


def test_names(folder: Path) -> None:
    name = "encoder.encoder.layer.1.output.dense.weight"
    change(folder, lambda t: t.update(odd=t.pop(name)))
    refused(folder, vedcore.CheckpointMismatchError, name, "odd")
    with pytest.warns(UserWarning, match="left random"):
        vedcore.load(folder, strict=False)
    change(folder, lambda t: t.pop("odd"))
    refused(folder, vedcore.CheckpointMismatchError, name)


def test_shapes_name_the_setting(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["decoder"]["n_positions"] = 30
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, vedcore.CheckpointMismatchError, "decoder.transformer.wpe.weight", "n_positions")


@pytest.mark.parametrize("value", ["int8", None, [], {"a": 1}, 24.5, True, -1])
def test_a_bad_vocabulary_size(folder: Path, value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["decoder"]["vocab_size"] = value
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, vedcore.ConfigError, "config.json", "vocab_size")


def test_one_of_query_key_and_value_is_missing_or_odd(folder: Path) -> None:
    """Query, key and value become one tensor here: each must be there, and all of one shape."""
    name = "encoder.encoder.layer.0.attention.attention.key.weight"
    kept = load_file(folder / SINGLE)[name]
    change(folder, lambda t: t.pop(name))
    refused(folder, vedcore.CheckpointMismatchError, "layer.0.attention.attention.key.weight")
    change(folder, lambda t: t.update({name: kept[:8].clone()}))
    refused(folder, vedcore.CheckpointMismatchError, "layer.0.attention.attention")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["decoder.transformer.h.1.attn.c_attn.weight", "enc_to_dec_proj.bias"])
def test_numbers_that_are_not_finite(folder: Path, name: str, value: float) -> None:
    change(folder, lambda t: t[name].view(-1)[-1].fill_(value))
    refused(folder, vedcore.NonFiniteError, name)
    with pytest.warns(RuntimeWarning, match="NaN or Inf"):
        vedcore.load(folder, check_finite="warn")
    vedcore.load(folder, check_finite=False)


def test_ties(folder: Path) -> None:
    name = "decoder.lm_head.weight"
    model = vedcore.load(folder)
    change(folder, lambda t: t.update({name: t["decoder.transformer.wte.weight"].clone()}))
    again = vedcore.load(folder)
    assert again.decoder.get_output_embeddings().weight is again.decoder.get_input_embeddings().weight
    assert torch.equal(again.decoder.get_input_embeddings().weight, model.decoder.get_input_embeddings().weight)
    change(folder, lambda t: t[name].add_(1))
    refused(folder, vedcore.CheckpointMismatchError, "tie_word_embeddings")


@pytest.mark.parametrize("size", [0, 1, 8, 9, -1, 0.5])
@pytest.mark.parametrize("name", [SINGLE, OLD])
def test_cut_files(folder: Path, name: str, size: float) -> None:
    if name == OLD:
        as_bin(folder)
    whole = (folder / name).stat().st_size
    os.truncate(folder / name, int(size * whole) if size == 0.5 else int(size) % whole)
    refused(folder, vedcore.CheckpointCorruptError, name)


def test_shards_and_old_files(folder: Path) -> None:
    expected = vedcore.load(folder)
    theirs = hf.VisionEncoderDecoderModel.from_pretrained(folder)
    theirs.save_pretrained(folder.with_name("shards"), max_shard_size="20KB")
    sharded = vedcore.load(folder.with_name("shards"))
    as_bin(folder)
    old = vedcore.load(folder)
    for model in (sharded, old):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    shard = next(folder.with_name("shards").glob("model-*.safetensors"))
    os.truncate(shard, 100)
    refused(folder.with_name("shards"), vedcore.CheckpointCorruptError, shard.name)
    shard.unlink()
    refused(folder.with_name("shards"), vedcore.CheckpointNotFoundError, shard.name, "index")


def test_an_evil_pickle(folder: Path) -> None:
    """It is never opened beside safetensors; alone, it is refused by the name of the function that it calls."""
    mark = folder.with_name("MARK")
    evil = f"import os, pickle\nclass E:\n def __reduce__(self): return os.mkdir, ({str(mark)!r},)\n"
    script = f"{evil}open({str(folder / OLD)!r}, 'wb').write(pickle.dumps(E()))"
    subprocess.run([sys.executable, "-c", script], check=True)
    vedcore.load(folder)
    (folder / SINGLE).unlink()
    refused(folder, vedcore.CheckpointUnsafeError, OLD, "mkdir")
    assert not mark.exists()


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/abs.safetensors", "a\0b.safetensors", "C:\\x.safetensors", "x.bin", 5]
)
def test_shards_outside(folder: Path, shard: object) -> None:
    (folder / SINGLE).unlink()
    index = {"metadata": {}, "weight_map": {"decoder.transformer.wte.weight": shard}}
    (folder / f"{SINGLE}.index.json").write_text(json.dumps(index))
    refused(folder, vedcore.CheckpointUnsafeError, "index.json")


def test_saved_over_itself(folder: Path) -> None:
    model = vedcore.load(folder)
    model.save_pretrained(folder, format="transformers")
    again = vedcore.load(folder)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    again.save_pretrained(folder)  # another format over it: nothing of the old one is read
    assert vedcore.load(folder).config.encoder.name == "vit"


def test_a_foreign_folder_stays_usable_when_it_is_cut(folder: Path) -> None:
    model = vedcore.load(folder)
    os.truncate(folder / SINGLE, 8)
    model(torch.zeros(1, 3, 16, 16), torch.ones(1, 1, dtype=torch.long))


def test_models_that_transformers_has_no_class_for(tmp_path: Path) -> None:
    small = {"encoder_num_hidden_layers": 1, "decoder_num_hidden_layers": 1, "image_size": 32}
    for model, words in (
        (vedcore.compose("vit", "distilbert", **small), "cross-attention"),
        (vedcore.compose("vit", "bert", projector="mlp", **small), "mlp"),
        (vedcore.compose("timm/resnet10t", "bert", decoder_num_hidden_layers=1, image_size=32), "no class"),
        (vedcore.compose("vit", "bart", decoder_normalize_before=True, **small), "normalize_before"),
    ):
        with pytest.raises(vedcore.IncompatibleError, match=words):
            model.save_pretrained(tmp_path / "out", format="transformers")
        assert not (tmp_path / "out").exists()
