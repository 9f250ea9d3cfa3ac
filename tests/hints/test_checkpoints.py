"""Hints of loading and saving: each is given where the user stands, followed there, and works."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import vedcore
from tests.composer.tiny import GPT2, VIT, same_weights
from tests.hints.templates import told
from tests.hints.test_compose import BART
from tests.hints.test_config_files import run
from vedcore.checkpoints.inspection import inspect_folder
from vedcore.weights import atomic_swap, folder, safetensors_file, snapshot, torch_file
from vedcore.weights.saving import weight_files


@pytest.fixture(scope="module")
def original() -> vedcore.VisionEncoderDecoder:
    return vedcore.compose(VIT, {**GPT2, "vocab_size": 400}, tokenizer="char", seed=0)


@pytest.fixture(scope="module")
def saved_once(original: vedcore.VisionEncoderDecoder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {format: tmp_path_factory.mktemp("once") / format for format in ("native", "transformers")}
    for format, path in folders.items():
        original.save_pretrained(path, format=format)
    return folders


@pytest.fixture
def saved(saved_once: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved_once["native"], tmp_path / "model"))


@pytest.fixture
def theirs(saved_once: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved_once["transformers"], tmp_path / "theirs"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    change(data := json.loads(path.read_text()))
    path.write_text(json.dumps(data))


def test_a_damaged_provenance(saved: Path, original: vedcore.VisionEncoderDecoder) -> None:
    path = saved / "provenance.json"
    path.write_text("{")
    told("delete it, as the model loads without it, or get the folder again", vedcore.load, saved)
    path.unlink()
    assert same_weights(vedcore.load(saved), original)


# -- arguments of load ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "bad", "good"),
    [
        ("leave it out", {"device": "cpu", "device_map": "auto"}, {"device": "cpu"}),
        ("leave it out", {"dtype": "float64", "torch_dtype": "float64"}, {"dtype": "float64"}),
        ("name one, such as device_map='cpu'", {"device_map": {"a": "cpu", "b": "meta"}}, {"device_map": "cpu"}),
        ("name one, such as device_map='cpu'", {"device_map": {}}, {"device_map": "cpu"}),
        ("try 'cpu'", {"device": "nowhere"}, {"device": "cpu"}),
        ("leave it out, or write hub:org/name for a repository", {"revision": "main"}, {}),
        ("valid keys: {…}", {"preprocessing": {"q": 1}}, {"preprocessing": {"image_size": (16, 24)}}),
    ],
)
def test_arguments_of_load(
    saved: Path, original: Any, template: str, bad: dict[str, Any], good: dict[str, Any]
) -> None:
    told(template, vedcore.load, saved, **bad)
    loaded = vedcore.load(saved, **good)
    assert same_weights(loaded.float(), original)


def test_names_of_folders(saved: Path, original: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved.parent)
    told("name a folder, or a model of `vedcore list models`", vedcore.load, "")
    told("there is no folder {…} either", vedcore.load, str(saved.parent / "none" / "model"))
    told("did you mean {…}?", vedcore.load, str(saved.parent / "modle"))
    told("give the folder that holds it", vedcore.load, saved / "config.json")
    url = f"https://example.org/{saved.name}"
    told("nothing is downloaded from a URL: give a folder, or org/name for a repository of the hub", vedcore.load, url)
    assert same_weights(vedcore.load("model"), original)
    (loop := saved.parent / "loop").symlink_to(loop)
    told("check the path and its permissions", vedcore.load, loop)
    loop.unlink()
    loop.symlink_to(saved)
    assert same_weights(vedcore.load(loop), original)


def test_folders_without_a_model(saved: Path, original: Any) -> None:
    (empty := saved.parent / "empty").mkdir()
    told("it is empty", vedcore.load, empty)
    (outer := saved.parent / "outer").mkdir()
    saved.rename(outer / "inner")
    hint = told("there are: {…}{…}", vedcore.load, outer).hint
    assert same_weights(vedcore.load(outer / hint.removeprefix("there are: ")), original)


def test_checkpoints_of_parts_alone(saved: Path, original: Any) -> None:
    for part, other in (("encoder", GPT2), ("decoder", VIT)):
        original.save_pretrained(alone := saved.parent / part, format="transformers", part=part)
        template = {"encoder": "compose it with a decoder", "decoder": "compose it with an encoder"}[part]
        told(template, vedcore.load, alone)
        model = vedcore.compose(*((str(alone), other) if part == "encoder" else (other, str(alone))))
        assert same_weights(getattr(model, part), getattr(original, part))
    (strange := saved.parent / "strange").mkdir()
    (strange / "config.json").write_text('{"model_type": "wav2vec2"}')
    hint = told("the formats are {…}", vedcore.load, strange).hint
    assert {"native", "transformers"} <= {*hint.removeprefix("the formats are ").split(", ")}
    for format in ("native", "transformers"):
        original.save_pretrained(strange, format=format)
        assert same_weights(vedcore.load(strange), original)


# -- files of a folder ----------------------------------------------------------------------------------------------


def test_preprocessing_that_differs(saved: Path, original: Any) -> None:
    def change(config: dict[str, Any]) -> None:
        config["preprocessing"]["interpolation"] = "nearest"

    edit(saved / "config.json", change)
    told("make them equal, or delete it from {…}", vedcore.load, saved)
    edit(saved / "preprocessor_config.json", lambda old: old.update(interpolation="nearest", resample=0))
    assert vedcore.load(saved).processor.preprocessing.interpolation == "nearest"
    edit(saved / "preprocessor_config.json", lambda old: old.update(interpolation="lanczos", resample=1))
    told("make them equal, or delete it from {…}", vedcore.load, saved)
    edit(saved / "config.json", lambda config: config.pop("preprocessing"))
    assert vedcore.load(saved).processor.preprocessing.interpolation == "lanczos"


def test_config_json_itself(saved: Path, original: Any) -> None:
    good = (saved / "config.json").read_text()
    (saved / "config.json").write_text(good + " " * 1_000_001)
    told("is it the right file?", vedcore.load, saved)
    (saved / "config.json").write_text(good[:-3])
    told("is it {…}?", vedcore.load, saved)
    for field, value in (("token_ids", {"start": 400}), ("decoder", {"eos_token_id": 400})):
        edited = json.loads(good)
        edited[field] |= value
        (saved / "config.json").write_text(json.dumps(edited))
        told("set an id below {…}", vedcore.load, saved)
        edited[field] |= dict.fromkeys(value, 399)
        (saved / "config.json").write_text(json.dumps(edited))
        assert same_weights(vedcore.load(saved), original)
    (saved / "config.json").write_text(good)
    moved = saved / "config.json"
    moved.rename(saved.parent / "elsewhere.json")
    moved.symlink_to(saved.parent / "elsewhere.json")
    told("put the file itself there", vedcore.load, saved)
    moved.unlink()
    shutil.copy(saved.parent / "elsewhere.json", moved)
    assert same_weights(vedcore.load(saved), original)


def test_a_file_that_may_not_be_read(saved: Path, original: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = snapshot._open_nonblocking

    def as_a_user(path: str, flags: int) -> int:  # root may read everything
        if not os.stat(path).st_mode & 0o444:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, flags)

    monkeypatch.setattr(snapshot, "_open_nonblocking", as_a_user)
    (saved / "config.json").chmod(0)
    told("check its permissions", vedcore.load, saved)
    (saved / "config.json").chmod(0o644)
    assert same_weights(vedcore.load(saved), original)


def test_a_folder_that_keeps_being_replaced(saved: Path, original: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(snapshot.Snapshot, "replaced", lambda self: True)
        told("load it again", vedcore.load, saved)
    assert same_weights(vedcore.load(saved), original)


@pytest.mark.parametrize(
    ("template", "head"),
    [
        ("run: git lfs pull", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ("download the file, not the page about it", b"<!DOCTYPE html><html></html>"),
        ("get the file from its source again", b""),
    ],
)
def test_weights_that_did_not_come(saved: Path, original: Any, template: str, head: bytes) -> None:
    (weights := saved / "model.safetensors").rename(kept := saved.parent / "kept")
    weights.write_bytes(head)
    told(template, vedcore.load, saved)
    kept.rename(weights)
    assert same_weights(vedcore.load(saved), original)


def test_an_index_that_is_damaged(saved: Path, original: Any) -> None:
    original.save_pretrained(saved, max_shard_size="20KB")
    (index := saved / "model.safetensors.index.json").write_text("{")
    told("get the folder from its source again", vedcore.load, saved)
    shutil.rmtree(saved)
    original.save_pretrained(saved, max_shard_size="20KB")
    assert index.exists()
    assert same_weights(vedcore.load(saved), original)


def test_a_manifest_that_is_damaged_or_gone(saved: Path, original: Any) -> None:
    template = "load with verify=False, and save again"
    for damage in (lambda: (saved / "manifest.json").unlink(), lambda: (saved / "manifest.json").write_text("{}")):
        damage()
        told(template, vedcore.load, saved)
        vedcore.load(saved, verify=False).save_pretrained(saved)
        assert same_weights(vedcore.load(saved), original)
    (saved / "manifest.json").write_text("{}")
    told("delete manifest.json, and save again", vedcore.compose, str(saved), str(saved))
    (saved / "manifest.json").unlink()
    vedcore.compose(str(saved), str(saved)).save_pretrained(saved)
    assert same_weights(vedcore.load(saved), original)


def test_weights_that_were_changed(saved: Path, original: Any) -> None:
    weights = {name: tensor + 1 for name, tensor in load_file(saved / "model.safetensors").items()}
    save_file(weights, saved / "model.safetensors")
    told("get it from its source again, or load with verify=False if you changed it", vedcore.load, saved)
    changed = vedcore.load(saved, verify=False)
    assert not same_weights(changed, original)
    template = "get it from its source again, or delete manifest.json if you changed it"
    told(template, vedcore.compose, str(saved), str(saved))
    (saved / "manifest.json").unlink()
    assert same_weights(vedcore.compose(str(saved), str(saved)), changed)


def test_weights_that_were_added(saved: Path, original: Any) -> None:
    whole = saved.parent / "whole"
    shutil.copy(saved / "model.safetensors", whole)
    original.save_pretrained(saved, max_shard_size="20KB")
    shutil.copy(whole, saved / "model.safetensors")
    told("load with verify=False if you added it", vedcore.load, saved)
    assert same_weights(vedcore.load(saved, verify=False), original)
    told("delete manifest.json if you added it", vedcore.compose, str(saved), str(saved))
    (saved / "manifest.json").unlink()
    assert same_weights(vedcore.compose(str(saved), str(saved)), original)


def test_weights_that_are_not_finite(saved: Path, original: Any) -> None:
    broken = vedcore.load(saved)
    with torch.no_grad():
        broken.encoder.model.norm.bias[0] = torch.nan
    broken.save_pretrained(later := saved.parent / "later")
    told('take an earlier checkpoint, or load with check_finite="warn"', vedcore.load, later)
    assert same_weights(vedcore.load(saved), original)
    with pytest.warns(RuntimeWarning, match="NaN"):
        assert vedcore.load(later, check_finite="warn").encoder.model.norm.bias.isnan().any()
    told("take an earlier checkpoint", vedcore.compose, str(later), str(later))
    assert same_weights(vedcore.compose(str(saved), str(saved)), original)


def test_weights_with_other_names(saved: Path, original: Any) -> None:
    weights = load_file(saved / "model.safetensors")
    missing = "encoder.model.norm.bias"
    save_file({name: tensor for name, tensor in weights.items() if name != missing}, saved / "model.safetensors")
    told("strict=False takes what fits", vedcore.load, saved, verify=False)
    with pytest.warns(UserWarning, match="left random"):
        loaded = vedcore.load(saved, verify=False, strict=False)
    assert loaded.decoder.embedding.weight.equal(original.decoder.embedding.weight)


def test_weights_with_other_shapes_and_types(saved: Path, original: Any) -> None:
    weights = load_file(saved / "model.safetensors")
    name = "encoder.model.norm.bias"
    save_file({**weights, name: torch.zeros(7)}, saved / "model.safetensors")
    hint = told("{…} is {…} in config.json, and {…} in the file", vedcore.load, saved, verify=False).hint
    assert "24 in config.json, and 7" in hint
    save_file({**weights, name: torch.zeros(1, 24)}, saved / "model.safetensors")
    told("is it the checkpoint of this config.json?", vedcore.load, saved, verify=False)
    save_file({**weights, name: weights[name].to(torch.int8)}, saved / "model.safetensors")
    template = "quantized checkpoints are not supported: load the one that it was made from"
    told(template, vedcore.load, saved, verify=False)
    save_file(weights, saved / "model.safetensors")
    assert same_weights(vedcore.load(saved, verify=False), original)


def test_a_head_of_its_own(theirs: Path, original: Any) -> None:
    (theirs / "manifest.json").unlink()
    weights = load_file(theirs / "model.safetensors")
    embedding = weights["decoder.transformer.wte.weight"]
    save_file({**weights, "decoder.lm_head.weight": embedding + 1}, theirs / "model.safetensors")
    template = "set decoder.tie_word_embeddings to false in config.json"
    told(template, vedcore.load, theirs)
    told(template, vedcore.compose, str(theirs), str(theirs))
    edit(theirs / "config.json", lambda config: config["decoder"].update(tie_word_embeddings=False))
    assert torch.equal(vedcore.load(theirs).decoder.output.weight, embedding + 1)


def test_pickles(theirs: Path, original: Any, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(theirs / "model.safetensors")
    (theirs / "model.safetensors").unlink()
    (theirs / "manifest.json").unlink()
    torch.save({"model": torch.nn.Linear(2, 2)}, theirs / "pytorch_model.bin")
    told("get it as safetensors, or save only the state_dict()", vedcore.load, theirs)
    torch.save(weights, theirs / "pytorch_model.bin")
    assert same_weights(vedcore.load(theirs), original)
    template = "load without mmap, or convert the folder first: `vedcore convert`"
    told(template, vedcore.load, theirs, mmap=True)
    run("convert", theirs, converted := theirs.parent / "converted", "--format", "native")
    assert same_weights(vedcore.load(converted, mmap=True), original)
    told("name another folder", run, "convert", theirs, theirs, "--format", "native")
    assert "wrote model.safetensors" in capsys.readouterr().err


def test_a_disk_that_fails(saved: Path, theirs: Path, original: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    torch.save(load_file(theirs / "model.safetensors"), theirs / "pytorch_model.bin")
    for name in ("model.safetensors", "manifest.json"):
        (theirs / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(safetensors_file, "safe_open", fail)
        told("check the disk", vedcore.load, saved)
    with monkeypatch.context() as patch:
        patch.setattr(torch_file, "_load", fail)
        told("check the disk", vedcore.load, theirs)
    assert same_weights(vedcore.load(saved), original)
    assert same_weights(vedcore.load(theirs), original)


def test_a_report_of_damage(saved: Path, original: Any) -> None:
    (weights := saved / "model.safetensors").rename(kept := saved.parent / "kept")
    shutil.copy(kept, weights)
    with open(weights, "r+b") as file:
        file.seek(-1, io.SEEK_END)
        file.write(b"\xff")
    assert inspect_folder(saved, verify=True).problems[0].endswith("get it again")
    kept.rename(weights)
    assert not inspect_folder(saved, verify=True).problems


# -- saving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "bad", "good"),
    [
        ("there are max_shard_size, weights_dtype, hashes", {"shards": 3}, {"max_shard_size": "20KB"}),
        (
            "there are max_shard_size, weights_dtype, hashes, part",
            {"format": "transformers", "shards": 3},
            {"format": "transformers", "hashes": False},
        ),
        ("name encoder or decoder", {"format": "transformers", "part": "head"}, {"format": "transformers"}),
        ('write "5GB", or a number of bytes', {"max_shard_size": "much"}, {"max_shard_size": "5GB"}),
        ('write "5GB", or a number of bytes', {"max_shard_size": "much"}, {"max_shard_size": 20_000}),
    ],
)
def test_arguments_of_save(
    tmp_path: Path, original: Any, template: str, bad: dict[str, Any], good: dict[str, Any]
) -> None:
    told(template, original.save_pretrained, tmp_path / "new", **bad)
    original.save_pretrained(tmp_path / "new", **good)
    assert same_weights(vedcore.load(tmp_path / "new"), original)


@pytest.mark.parametrize(
    ("encoder", "decoder", "options"),
    [
        ({"name": "timm/resnet10t", "image_size": 32}, GPT2, {}),
        (VIT, GPT2, {"projector": "mlp"}),
        (VIT, {**BART, "name": "trocr", "cross_attention_hidden_size": 30}, {"projector": "linear"}),
    ],
)
def test_models_that_transformers_does_not_have(
    tmp_path: Path, encoder: Any, decoder: Any, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model = vedcore.compose(encoder, decoder, **options)
    told("save it in the native format", model.save_pretrained, tmp_path / "a", format="transformers")
    model.save_pretrained(tmp_path / "a", format="native")
    assert same_weights(vedcore.load(tmp_path / "a"), model)
    told("save it in the native format", run, "convert", tmp_path / "a", tmp_path / "b", "--format", "transformers")
    run("convert", tmp_path / "a", tmp_path / "b", "--format", "native")
    assert same_weights(vedcore.load(tmp_path / "b"), model)


def test_tensors_that_cannot_be_stored(tmp_path: Path) -> None:
    model = vedcore.compose(VIT, GPT2)
    layer, weight = model.decoder.layers[0].mlp.output, model.decoder.layers[0].mlp.output.weight
    layer.weight = torch.nn.Parameter(weight.detach().to_sparse(), requires_grad=False)
    told("make it a dense tensor before saving", model.save_pretrained, tmp_path)
    layer.weight = torch.nn.Parameter(weight.detach().to(torch.complex128))
    told("cast it to another type before saving", model.save_pretrained, tmp_path)
    layer.weight = weight
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["decoder.layers.0.mlp.output.weight"].equal(weight)
    told("rename the tensor", weight_files, {"__metadata__": weight})  # only a plugin's part has such a name
    assert weight_files({"more": weight})


def test_places_to_save_to(tmp_path: Path, original: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a file")
    for bad in ("", tmp_path / "file"):
        told("name a folder", original.save_pretrained, bad)
    told("name a folder to write to", original.processor.save_pretrained, tmp_path / "file" / "below")
    original.processor.save_pretrained(tmp_path / "processor")
    assert vedcore.Processor.from_pretrained(tmp_path / "processor").preprocessing == original.processor.preprocessing
    hint = told("create {…} first", original.save_pretrained, tmp_path / "a" / "b").hint
    Path(hint.removeprefix("create ").removesuffix(" first")).mkdir()
    original.save_pretrained(tmp_path / "a" / "b")
    assert same_weights(vedcore.load(tmp_path / "a" / "b"), original)
    mounted = tmp_path / "a"
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == mounted)
    told("name a folder in it", original.save_pretrained, mounted)
    original.save_pretrained(mounted / "c")
    told("check the path, its permissions and the disk", original.save_pretrained, tmp_path / ("x" * 300))
    original.save_pretrained(tmp_path / ("x" * 30))
    assert same_weights(vedcore.load(mounted / "c"), vedcore.load(tmp_path / ("x" * 30)))


def test_what_is_in_the_way_of_a_save(saved: Path, original: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (saved / "generation_config.json").unlink()
    (saved / "generation_config.json").mkdir()
    told("remove it, or save elsewhere", original.save_pretrained, saved)
    original.save_pretrained(saved.parent / "elsewhere")
    (saved / "generation_config.json").rmdir()
    original.save_pretrained(saved)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))  # type: ignore[attr-defined]
        told("make room, or save elsewhere", original.save_pretrained, saved)
    original.save_pretrained(saved)
    monkeypatch.setattr(folder, "LOCK_TIMEOUT_SECONDS", 0.1)
    digest = folder.hashlib.sha256(saved.name.encode()).hexdigest()[:12]
    with atomic_swap.locked(saved.with_name(f".vedcore-lock-{digest}"), 0):
        told("wait for it, or end that process", original.save_pretrained, saved)
    original.save_pretrained(saved)
    assert same_weights(vedcore.load(saved), vedcore.load(saved.parent / "elsewhere"))


def test_files_of_a_format(tmp_path: Path) -> None:
    template = "choose another file name"
    for name in ("manifest.json", f"{snapshot.TEMPORARY_PREFIX}x"):
        told(template, folder.save_folder, tmp_path / "a", {name: b"1"})
    folder.save_folder(tmp_path / "a", {"mine.json": b"1"})
    assert (tmp_path / "a" / "mine.json").read_bytes() == b"1"
