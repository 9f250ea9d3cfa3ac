"""Where each tensor of a model came from: noted, kept through generations of folders, and told where it matters."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vedcore
from tests.composer.tiny import BERT, GPT2, VIT
from vedcore.checkpoints.inspection import inspect_folder

CROSS = "decoder.layers.0.cross_attention.query.weight"
PIXELS = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
IMAGE = np.zeros((16, 24, 3), np.uint8)
SIZES = {**GPT2, "vocab_size": 98}


def made(**options: Any) -> vedcore.VisionEncoderDecoder:
    return vedcore.compose(VIT, SIZES, tokenizer="char", **{"seed": 3, **options})


def train(model: Any, make: Callable[..., Any] = torch.optim.AdamW, **options: Any) -> None:
    pixels = torch.rand(1, 3, *model.processor.preprocessing.image_size)
    model.train()(pixels, labels=torch.tensor([[5, 6, 7]])).loss.backward()
    make((p for p in model.parameters() if p.grad is not None), lr=0.01, **options).step()
    model.eval()


def sources(model: Any) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, origin in model.provenance.items():
        found.setdefault(name.partition(".")[0], set()).add(origin.source)
    return found


def warned(call: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [str(each.message) for each in found if "never trained" in str(each.message)]


def text_of(model: Any) -> list[str]:
    return warned(lambda: model.generate_text(IMAGE, max_new_tokens=2))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of parts as other libraries write them: a ViT, and a GPT2 that never had cross-attention."""
    folder, model = tmp_path_factory.mktemp("parts"), made()
    for part in ("encoder", "decoder"):
        model.save_pretrained(folder / part, format="transformers", part=part)
        (folder / part / "manifest.json").unlink()
    weights = folder / "decoder" / "model.safetensors"
    plain = {n: t for n, t in load_file(weights).items() if "cross" not in n and "q_attn" not in n}
    save_file(plain, weights)
    return folder


# -- what is noted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [3, None])
def test_random_and_tied_tensors(seed: int | None, tmp_path: Path) -> None:
    model = made(seed=seed)
    assert sources(model) == {"encoder": {"random"}, "decoder": {"random", "tied"}}
    assert model.provenance[CROSS].seed == seed
    assert model.provenance["decoder.output.weight"].tied_to == "decoder.embedding.weight"
    model.save_pretrained(tmp_path / "m")
    data = json.loads((tmp_path / "m/provenance.json").read_text())
    row = next(row for row in data["origins"] if row["source"] == "random")
    assert row["seed"] == seed
    assert CROSS.replace("0", "*") in row["tensors"]
    assert dict(vedcore.load(tmp_path / "m").provenance) == dict(model.provenance)


def test_files_of_parts(parts: Path, tmp_path: Path) -> None:
    model = vedcore.compose(str(parts / "encoder"), str(parts / "decoder"), tokenizer="char", seed=4)
    assert sources(model) == {"encoder": {"file"}, "decoder": {"file", "random", "tied"}}
    model.save_pretrained(tmp_path / "m")
    for found in (model.provenance, vedcore.load(tmp_path / "m").provenance):
        origin = found["decoder.embedding.weight"]
        assert origin.file == "decoder/model.safetensors"
        assert origin.sha256 == hashlib.sha256((parts / "decoder/model.safetensors").read_bytes()).hexdigest()
        assert found[CROSS].seed == 4
    assert str(tmp_path.parent) not in (tmp_path / "m/provenance.json").read_text()


def test_a_file_that_changes_before_its_hash_is_asked_for_has_none(parts: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(parts / "encoder", tmp_path / "encoder"))
    model = vedcore.compose(str(folder), SIZES, tokenizer="char")
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", {"format": "pt", "new": "1"})
    assert model.provenance["encoder.model.pos_embed"].sha256 is None


def test_a_snapshot_of_the_hub_is_named_by_its_repository(parts: Path, tmp_path: Path) -> None:
    commit = "0123456789" * 4
    folder = tmp_path / "models--me--vit/snapshots" / commit
    shutil.copytree(parts / "encoder", folder)
    model = vedcore.compose(str(folder), SIZES, tokenizer="char")
    assert model.provenance["encoder.model.pos_embed"].file == f"hub:me/vit@{commit}/model.safetensors"


def test_three_generations(tmp_path: Path) -> None:
    made().save_pretrained(tmp_path / "a")
    second = vedcore.load(tmp_path / "a", image_size=(32, 48))
    second.resize_vocabulary(120)
    second.save_pretrained(tmp_path / "b", max_shard_size="20KB")
    third = vedcore.load(tmp_path / "b")
    train(third)
    third.save_pretrained(tmp_path / "c")
    found = vedcore.load(tmp_path / "c").provenance
    assert found["encoder.model.pos_embed"].steps == ("resized from (1, 7, 24)", "changed")
    assert found["decoder.embedding.weight"].steps == ("resized from (98, 24)", "changed")
    assert found[CROSS].steps == ("changed",)
    assert {origin.seed for origin in found.values() if origin.source == "random"} == {3}


def test_a_part_of_a_model_keeps_its_origin(tmp_path: Path) -> None:
    made().save_pretrained(tmp_path / "a")
    (tmp_path / "a/provenance.json").unlink()
    vedcore.load(tmp_path / "a").save_pretrained(tmp_path / "b")
    model = vedcore.compose(str(tmp_path / "b"), {**BERT, "vocab_size": 98}, tokenizer="char")
    digest = hashlib.sha256((tmp_path / "a/manifest.json").read_bytes()).hexdigest()
    found = model.provenance["encoder.model.pos_embed"]
    assert (found.file, found.manifest_sha256) == ("a/model.safetensors", digest)
    assert model.provenance["projector.proj.weight"].source == "random"


def test_an_adapter(tmp_path: Path) -> None:
    model = made()
    matrices = {"lora_A": torch.ones(2, 24), "lora_B": torch.ones(24, 2)}
    name = f"base_model.model.{CROSS.removesuffix('.weight')}"
    (tmp_path / "lora").mkdir()
    save_file({f"{name}.{key}.weight": t for key, t in matrices.items()}, tmp_path / "lora/adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["cross_attention.query"]}
    (tmp_path / "lora/adapter_config.json").write_text(json.dumps(config))
    model.load_adapter(tmp_path / "lora")
    digest = hashlib.sha256((tmp_path / "lora/adapter_model.safetensors").read_bytes()).hexdigest()
    steps = {n: o.steps for n, o in model.provenance.items() if o.steps}
    assert steps == {CROSS: (f"merged with lora/adapter_model.safetensors (sha256 {digest})",)}
    assert text_of(model) == []


# -- what counts as a change -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        train,
        lambda m: train(m, fused=True),
        lambda m: train(m, torch.optim.SGD),
        lambda m: m.load_state_dict(made(seed=9).state_dict()),
        lambda m: [p.data.add_(0.01) for p in m.parameters()],
        lambda m: [setattr(p, "data", p.data * 1.01) for p in m.parameters()],
    ],
    ids=["AdamW", "fused", "SGD", "load_state_dict", "data in place", "data"],
)
def test_a_change(change: Callable[[Any], object]) -> None:
    model = made()
    change(model)
    assert model.provenance[CROSS].steps == ("changed",)
    assert text_of(model) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m,
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: m.bfloat16().float(),
        lambda m: m.half(),
        lambda m: m.optimize_for_inference("bfloat16"),
        lambda m: m.train().freeze("encoder").eval(),
    ],
    ids=["nothing", "copy", "pickle", "there and back", "half", "optimized", "frozen"],
)
def test_no_change(change: Callable[[Any], Any]) -> None:
    model = change(made())
    assert {origin.steps for origin in model.provenance.values()} == {()}
    assert len(text_of(model)) == 1


# -- the warning -----------------------------------------------------------------------------------------------------


def test_text_of_an_untrained_model_warns_once() -> None:
    model = made()
    assert warned(lambda: model.generate(PIXELS, max_new_tokens=2)) == []
    (message,) = warned(lambda: list(model.stream(IMAGE, max_new_tokens=2)))
    assert message.startswith("the cross-attention of this model was never trained")
    assert len(message) < 300
    assert text_of(model) == []


def test_which_part_is_untrained(parts: Path, tmp_path: Path) -> None:
    fresh = vedcore.compose(str(parts / "encoder"), str(parts / "decoder"), tokenizer="char")
    assert "the cross-attention of" in text_of(fresh)[0]
    fresh.save_pretrained(tmp_path / "fresh")
    assert len(text_of(vedcore.load(tmp_path / "fresh"))) == 1
    trained = made()
    train(trained)
    trained.save_pretrained(tmp_path / "trained")
    assert text_of(vedcore.load(tmp_path / "trained")) == []
    both = str(tmp_path / "trained")
    assert text_of(vedcore.compose(both, both)) == []
    assert "the projector of" in text_of(vedcore.compose(both, both, projector="mlp"))[0]


# -- the file --------------------------------------------------------------------------------------------------------


def rows(**row: Any) -> bytes:
    return json.dumps({"version": 1, "origins": [{"tensors": ["a"], "source": "random", **row}]}).encode()


DAMAGED = {
    "empty": b"",
    "cut": b'{"version": 1, "orig',
    "not UTF-8": b'\xff\xfe{"version": 1}',
    "a list": b"[1]",
    "10 MB": b" " * 10_000_000,
    "deep": b'{"a":' * 100_000,
    "a key twice": b'{"version": 1, "version": 1, "origins": []}',
    "no version": b'{"origins": []}',
    "a later version": b'{"version": 2, "origins": []}',
    "no rows": b'{"version": 1}',
    "rows of numbers": b'{"version": 1, "origins": [3]}',
    "many rows": b'{"version": 1, "origins": [' + b"{}," * 5000 + b"{}]}",
    "another key": b'{"version": 1, "origins": [], "__class__": 1}',
    "another key in a row": rows(__class__="os.system"),
    "another source": rows(source="os.system"),
    "NaN": rows(seed=float("nan")),
    "a seed of text": rows(seed="3"),
    "a seed that is true": rows(seed=True),
    "a negative seed": rows(seed=-1),
    "no tensors": rows(tensors=[]),
    "a tensor twice": rows(tensors=["a", "a"]),
    "a tensor without a name": rows(tensors=[""]),
    "control characters": rows(tensors=["a\x1b[31m"]),
    "bidi": rows(file="a\u202eb"),
    "a long name": rows(tensors=["a" * 2000]),
    "no file": rows(source="file"),
    "no tie": rows(source="tied"),
    "no hash": rows(sha256="../../x"),
    "many steps": rows(steps=["changed"] * 65),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "m"
    made().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file(content: bytes, saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "m"))
    (folder / "provenance.json").write_bytes(content)
    for call in (lambda: vedcore.load(folder), lambda: vedcore.compose(str(folder), SIZES, tokenizer="char")):
        with pytest.raises((vedcore.ConfigError, vedcore.CheckpointError)) as caught:
            call()
        message = str(caught.value)
        assert "provenance.json" in message
        assert "delete it" in message
        assert len(message) <= 300
        assert message.isprintable()
    assert any("provenance.json" in problem for problem in inspect_folder(folder).problems)
    vedcore.load(folder, verify=False)


def test_a_folder_without_it(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "m"))
    (folder / "provenance.json").unlink()
    assert vedcore.load(folder).provenance[CROSS].file == "m/model.safetensors"


def test_a_file_of_another_save_is_not_read(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "m"))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["provenance.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert vedcore.load(folder).provenance[CROSS].source == "file"
    assert any("provenance.json is not in manifest.json" in note for note in inspect_folder(folder).notes)


def test_transformers_folders_have_none(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "m"))
    vedcore.load(folder).save_pretrained(folder, format="transformers")
    assert not (folder / "provenance.json").exists()
    assert vedcore.load(folder).provenance[CROSS].file == "m/model.safetensors"


def test_inspection(saved: Path) -> None:
    found = inspect_folder(saved)
    assert found.origins["encoder"] == ["18 tensors random, seed 3"]
    assert "decoder: 1 tensor tied to decoder.embedding.weight" in str(found)
    assert found.provenance == json.loads((saved / "provenance.json").read_text())["origins"]
