"""``flax_model.msgpack`` and ``tf_model.h5``: the frameworks' own outputs, and files that Flax takes."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import msgpack
import numpy
import pytest
import torch

import vedcore
from tests.composer.tiny import GPT2, VIT, same_weights
from tests.weights.legacy.make import PAIRS, PARTS, inputs
from vedcore.cli import main
from vedcore.errors import (
    CheckpointCorruptError,
    MissingExtraError,
    UsageError,
)
from vedcore.weights import flax_saving
from vedcore.weights.opening import open_weights
from vedcore.weights.snapshot import Snapshot

pytestmark = pytest.mark.filterwarnings("ignore:.*no preprocessor_config.json")
FOLDERS = Path(__file__).parent / "legacy"
FLAX, TF = "flax_model.msgpack", "tf_model.h5"


@pytest.mark.parametrize("name", PAIRS)
def test_a_model_gives_the_outputs_of_its_framework(name: str) -> None:
    model = vedcore.load(FOLDERS / name)
    pixels, ids = map(torch.from_numpy, inputs())
    with torch.no_grad():
        out = model(pixels, decoder_input_ids=ids)
    due = numpy.load(FOLDERS / name / "expected.npz")
    assert numpy.abs(due["logits"] - due["logits"][:1]).max() > 0.1  # the images tell
    assert numpy.abs(out.encoder_last_hidden_state.numpy() - due["states"]).max() < 1e-5
    assert numpy.abs(out.logits.numpy() - due["logits"]).max() < 1e-5


@pytest.mark.parametrize("name", PARTS)
def test_a_part_has_the_tensors_that_transformers_makes_of_the_file(name: str) -> None:
    folder = str(FOLDERS / name)
    due = json.loads((FOLDERS / name / "expected.json").read_text())
    with Snapshot(folder) as snapshot:
        files = open_weights(snapshot, pickles=True).values()
        found = {key: hashlib.sha256(file.get(key).numpy()).hexdigest() for file in files for key in file.tensors}
    shared = "model.shared.weight" if "bart" in name else "distilbert.embeddings.word_embeddings.weight"
    tied = {key for key, value in due.items() if value == due.get(shared)}
    extra = {key for key in due if key.endswith("relative_position_index")} | {"final_logits_bias"}
    assert {key: found[key] for key in due.keys() - tied - extra} == {
        key: due[key] for key in due.keys() - tied - extra
    }
    assert found.keys() - due.keys() == set()
    if PARTS[name][0] == "swin":
        model = vedcore.compose(folder, GPT2)
    else:
        model = vedcore.compose(VIT, folder)
        assert all("cross_attention" in key for key in model.load_reports["decoder"].fresh)
        assert bool(model.load_reports["decoder"].fresh) == ("distilbert" in name)


def test_parts_of_whole_models_and_their_projector() -> None:
    tensorflow, flax = f"{FOLDERS}/vit-bert-tf-shards", f"{FOLDERS}/vit-bert-flax"
    model = vedcore.compose(tensorflow, flax)
    assert same_weights(model.encoder, vedcore.load(tensorflow).encoder)
    assert same_weights(model.decoder, vedcore.load(flax).decoder)
    same = vedcore.compose(tensorflow, tensorflow)
    assert same_weights(same.projector, vedcore.load(tensorflow).projector)


@pytest.mark.parametrize("name", ["vit-gpt2-tf", "vit-bert-tf", "beit-roberta-flax", "vit-bart-flax", "swin-bert-tf"])
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "40KB"}], ids=["whole", "shards"])
def test_what_is_written_for_flax_loads_bit_for_bit(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    model = vedcore.load(FOLDERS / name)
    folder = tmp_path / "x"
    model.save_pretrained(folder)
    model.save_pretrained(folder, format="flax", **options)
    names = {path.name for path in folder.iterdir()}
    assert (FLAX in names, "flax_model-00002-of-00002.msgpack" in names) == (not options, bool(options))
    assert "model.safetensors" not in names
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_weights(vedcore.load(folder), model)


def test_flax_files_have_the_names_and_the_layout_of_transformers(tmp_path: Path) -> None:
    for name in ("vit-gpt2-flax", "vit-bert-flax", "vit-bart-flax", "beit-roberta-flax"):
        vedcore.load(FOLDERS / name).save_pretrained(tmp_path / name, format="flax")
        theirs, ours = (leaves((folder / name / FLAX).read_bytes()) for folder in (FOLDERS, tmp_path))
        zeros = {key for key in ours.keys() - theirs.keys() if "pooler" in key}
        assert {key: value for key, value in ours.items() if key not in zeros and "pooler" not in key} == {
            key: value for key, value in theirs.items() if "pooler" not in key
        }


def leaves(data: bytes) -> dict[str, tuple[Any, ...]]:
    """The arrays of a file of Flax: their paths to shape, type and bytes."""

    def walk(value: Any, path: str) -> None:
        for key, inner in value.items():
            if isinstance(inner, dict):
                walk(inner, f"{path}/{key}")
            else:
                found[f"{path}/{key}"] = msgpack.unpackb(inner.data)

    found: dict[str, Any] = {}
    walk(msgpack.unpackb(data, strict_map_key=False), "")
    return found


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_and_arrays_in_pieces(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flax_saving, "MAX_CHUNK_BYTES", 100)
    model = vedcore.load(FOLDERS / "vit-bert-flax")
    model.save_pretrained(tmp_path / "x", format="flax", weights_dtype=dtype)
    found = vedcore.load(tmp_path / "x")
    assert found.dtype == getattr(torch, dtype)
    assert same_weights(found, model.to(getattr(torch, dtype)))
    tree = msgpack.unpackb((tmp_path / "x" / FLAX).read_bytes(), strict_map_key=False)
    kernel = tree["enc_to_dec_proj"]["kernel"]
    assert kernel.keys() == {"__msgpack_chunked_array__", "shape", "chunks"}
    assert kernel["shape"] == {"0": 16, "1": 12}


def test_a_changed_byte_of_our_own_flax_file(tmp_path: Path) -> None:
    vedcore.load(FOLDERS / "vit-bert-flax").save_pretrained(tmp_path / "x", format="flax")
    data = bytearray((path := tmp_path / "x" / FLAX).read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointCorruptError, match="another sha256"):
        vedcore.load(tmp_path / "x")
    vedcore.load(tmp_path / "x", verify=False)
    assert run(["inspect", str(tmp_path / "x"), "--verify"]) == 1


def test_convert_and_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("vit-gpt2-tf", "vit-gpt2-flax-shards"):
        assert run(["convert", str(FOLDERS / name), str(tmp_path / name), "--format", "native"]) == 0
        assert same_weights(vedcore.load(tmp_path / name), vedcore.load(FOLDERS / name))
    capsys.readouterr()
    assert run(["inspect", str(FOLDERS / "vit-gpt2-tf"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"]["files"] == [TF]
    assert run(["convert", str(FOLDERS / "vit-gpt2-tf"), str(tmp_path / "f"), "--format", "flax"]) == 0
    assert (tmp_path / "f" / FLAX).exists()


@pytest.mark.parametrize(("name", "package"), [("vit-bert-flax", "msgpack"), ("vit-bert-tf", "h5py")])
def test_without_the_extra(name: str, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = vedcore.load(FOLDERS / name)
    real = importlib.import_module

    def missing(module: str, *rest: Any) -> Any:
        if module == package:
            raise ImportError(module)
        return real(module, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=f"needs {package}, which is not installed") as caught:
        vedcore.load(FOLDERS / name)
    assert caught.value.hint == 'pip install "vedcore[legacy]"'
    assert run(["inspect", str(FOLDERS / name)]) == 1
    assert run(["convert", str(FOLDERS / name), str(tmp_path / "x"), "--format", "native"]) == 4
    if package == "msgpack":
        with pytest.raises(MissingExtraError):
            model.save_pretrained(tmp_path / "x", format="flax")
        assert not (tmp_path / "x").exists()


def test_no_framework_is_imported() -> None:
    assert not {"flax", "jax", "tensorflow", "keras", "tf_keras"} & sys.modules.keys()


def test_safetensors_come_first(tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDERS / "vit-bert-tf", tmp_path / "x")
    model = vedcore.load(folder)
    with pytest.raises(UsageError, match="mmap.*not a safetensors file"):
        vedcore.load(folder, mmap=True)
    (folder / FLAX).write_bytes(b"nothing that is read")
    with pytest.raises(CheckpointCorruptError, match=FLAX):
        vedcore.load(folder)
    model.save_pretrained(tmp_path / "y", format="transformers")
    (folder / TF).write_bytes(b"nothing that is read")
    shutil.copy(tmp_path / "y" / "model.safetensors", folder)
    (folder / FLAX).write_bytes(b"nothing that is read")
    assert same_weights(vedcore.load(folder), model)


def run(arguments: list[str]) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)
