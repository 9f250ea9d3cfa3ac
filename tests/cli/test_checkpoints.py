"""``vedcore inspect`` and ``vedcore convert``: reports of whole and damaged folders, and converted folders."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

import vedcore
from vedcore.checkpoints.inspection import inspect_folder
from vedcore.cli import main

Run = Callable[..., "subprocess.CompletedProcess[str]"]
CROSS = {"is_decoder": True, "add_cross_attention": True}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(list(map(str, arguments)))
        assert isinstance(end.value.code, int)
        return subprocess.CompletedProcess(arguments, end.value.code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = vedcore.compose(
        {"name": "vit", "num_hidden_layers": 1, "hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 40},
        {"name": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 20},
        image_size=(32, 48),
        tokenizer="char",
        projector="mlp",
        seed=3,
    )
    model.generation_config = vedcore.GenerationConfig(num_beams=3, max_new_tokens=7)
    folder = tmp_path_factory.mktemp("native") / "tiny"
    model.save_pretrained(folder, max_shard_size="20KB")
    return folder


@pytest.fixture
def tiny(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it."""
    folder = tmp_path_factory.mktemp("theirs") / "whole"
    torch.manual_seed(5)
    encoder = hf.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        image_size=32,
        patch_size=8,
        initializer_range=0.5,
    )
    decoder = hf.BertConfig(
        vocab_size=61,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=40,
        max_position_embeddings=30,
        initializer_range=0.5,
        **CROSS,
    )
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = 2, 3, 0
    hf.VisionEncoderDecoderModel(config).save_pretrained(folder)
    hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def told(run: Run, *arguments: str | Path) -> dict[str, Any]:
    return dict(json.loads(run("inspect", *arguments, "--json").stdout))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_of_ours(run: Run, tiny: Path) -> None:
    found, model = told(run, tiny), vedcore.load(tiny)
    assert found["format"] == "native"
    assert {kind: part["name"] for kind, part in found["parts"].items()} == {
        "encoder": "vit",
        "projector": "mlp",
        "decoder": "gpt2",
    }
    assert found["parts"]["decoder"]["fields"]["n_embd"] == 16
    assert found["token_ids"] == model.token_ids.model_dump(mode="json")
    assert found["generation"] == {"num_beams": 3, "max_new_tokens": 7}
    assert found["preprocessing"]["image_size"] == [32, 48]
    assert found["tokenizer"] == {"name": "char", "kind": "WordLevel", "tokens": 98}
    numbers = sum(parameter.numel() for parameter in model.parameters())
    weights = found["weights"]
    assert (weights["parameters"], weights["bytes"]) == (numbers, 4 * numbers)
    assert weights["dtypes"] == {"float32": weights["tensors"]}
    assert weights["files"] == sorted(path.name for path in tiny.glob("*.safetensors"))
    assert len(weights["files"]) > 1
    assert found["files"] == {path.name: path.stat().st_size for path in tiny.iterdir()}
    assert set(found["checked"]) == set(found["files"]) - {"manifest.json"}
    assert (found["problems"], found["notes"]) == ([], [])


def test_a_table_for_people(run: Run, tiny: Path) -> None:
    done = run("inspect", tiny)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert {
        "folder",
        "encoder",
        "projector",
        "decoder",
        "token ids",
        "generation",
        "images",
        "tokenizer",
        "weights",
        "files",
    } <= rows.keys()
    assert "hidden_size 24" in rows["encoder"]
    assert "num_beams 3" in rows["generation"]
    assert "problem" not in rows
    assert "plugin" not in rows
    assert max(map(len, done.stdout.splitlines())) < 200


def test_a_folder_of_transformers(run: Run, theirs: Path) -> None:
    found = told(run, theirs)
    assert found["format"] == "transformers"
    assert {kind: part["name"] for kind, part in found["parts"].items()} == {
        "encoder": "vit",
        "decoder": "bert",
        "projector": "linear",
    }
    assert found["token_ids"] == {"start": 2, "eos": [3], "pad": 0}
    assert found["weights"]["tensors"] == len(load_file(theirs / "model.safetensors"))
    assert found["preprocessing"]["interpolation"] == "bilinear"
    assert found["tokenizer"] is None
    assert not found["problems"]
    assert ["a changed byte would not be seen" in note for note in found["notes"]] == [True]


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_part_alone(run: Run, tmp_path: Path, kind: str) -> None:
    if kind == "encoder":
        hf.ViTModel(
            hf.ViTConfig(
                hidden_size=12,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=9,
                image_size=16,
                patch_size=8,
            )
        ).save_pretrained(tmp_path)
    else:
        hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=31, n_layer=1, n_embd=12, n_head=2)).save_pretrained(tmp_path)
    found = told(run, tmp_path)
    assert (found["format"], list(found["parts"])) == ("part", [kind])
    assert found["parts"][kind]["name"] == {"encoder": "vit", "decoder": "gpt2"}[kind]
    assert found["parts"][kind]["model_type"] == {"encoder": "vit", "decoder": "gpt2"}[kind]
    assert found["weights"]["tensors"] == len(load_file(tmp_path / "model.safetensors"))


def test_pickled_weights_of_theirs_and_never_of_ours(run: Run, theirs: Path, tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(theirs, tmp_path / "pickled"))
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    weights = told(run, folder)["weights"]
    assert (weights["files"], weights["tensors"]) == (["pytorch_model.bin"], len(state))
    assert weights["parameters"] == sum(t.numel() for t in state.values() if t.is_floating_point())
    for path in tiny.glob("model*"):
        path.unlink()
    torch.save(state, tiny / "pytorch_model.bin")
    assert told(run, tiny)["weights"] is None


def test_a_model_whose_plugins_are_gone(run: Run, tiny: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    config["encoder"] = {"name": "swirl", "hidden_size": 24}
    edit(
        tiny / "config.json", encoder=config["encoder"], plugins={**config["plugins"], "encoder": "vedcore-swirl==2.1"}
    )
    found = told(run, tiny)
    assert [p for p in found["plugins"] if p["kinds"] == ["encoder"]] == [
        {"requirement": "vedcore-swirl==2.1", "kinds": ["encoder"], "status": "not installed"}
    ]
    assert found["parts"]["encoder"]["name"] == "swirl"
    assert not found["problems"]
    done = run("inspect", tiny)
    assert done.returncode == 0
    assert "pip install vedcore-swirl==2.1" in done.stdout
    assert run("convert", tiny, tiny.with_name("out"), "--format", "native").returncode == 4


def test_a_model_type_that_nothing_opens(run: Run, theirs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(theirs, tmp_path / "odd"))
    edit(folder / "config.json", encoder={"model_type": "dinov9", "hidden_size": 24, "depth": 3})
    done = run("inspect", folder)
    assert done.returncode == 0
    assert "no encoder that is installed opens model_type 'dinov9'" in done.stdout
    (folder / "config.json").write_text(json.dumps({"model_type": "llm", "hidden_size": 4}))
    found = told(run, folder)
    assert found["parts"]["part"] == {"name": None, "model_type": "llm", "variant": None, "fields": {"hidden_size": 4}}


def cut(folder: Path) -> None:
    path = next(folder.glob("*.safetensors"))
    os.truncate(path, path.stat().st_size - 5)


def header(folder: Path) -> None:
    path = next(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:8] + b"!" + path.read_bytes()[9:])


def shard_gone(folder: Path) -> None:
    next(folder.glob("*.safetensors")).unlink()


def index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{")


def link(folder: Path) -> None:
    path = next(folder.glob("*.safetensors"))
    path.unlink()
    path.symlink_to("/dev/zero")


def tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("no")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def generation(folder: Path) -> None:
    edit(folder / "generation_config.json", num_beams="many")


def preprocessing(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", image_std=[0, 0, 0])


def ids(folder: Path) -> None:
    edit(folder / "config.json", token_ids={"start": "first"})


@pytest.mark.parametrize(
    "damage",
    [cut, header, shard_gone, index, link, tokenizer, no_tokenizer, no_manifest, generation, preprocessing, ids],
)
def test_damage_is_a_line_beside_the_rest(run: Run, tiny: Path, damage: Callable[[Path], None]) -> None:
    damage(tiny)
    done = run("inspect", tiny)
    assert (done.returncode, done.stderr) == (1, "")
    assert "\nproblem " in done.stdout
    assert "hidden_size 24" in done.stdout
    with pytest.raises(vedcore.VedcoreError):
        vedcore.load(tiny)


def test_a_changed_byte_is_seen_by_its_hash(run: Run, tiny: Path) -> None:
    path = next(tiny.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert run("inspect", tiny).returncode == 0
    done = run("inspect", tiny, "--verify")
    assert done.returncode == 1
    assert f"{path.name}: does not match its sha256" in done.stdout


def test_a_disk_that_cannot_read_is_told(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes | None:
            if self.tell() > 8 + int.from_bytes(header, "little"):  # beyond the header
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(-1 if size is None else size)

    header = next(tiny.glob("*.safetensors")).read_bytes()[:8]
    monkeypatch.setattr(io, "FileIO", Failing)
    found = json.loads((done := run("inspect", tiny, "--verify", "--json")).stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert any("safetensors: cannot be read: input/output error" in problem for problem in found["problems"])


def test_edited_settings_are_noted(run: Run, tiny: Path) -> None:
    edit(tiny / "generation_config.json", num_beams=5)
    found = told(run, tiny, "--verify")
    assert not found["problems"]
    assert any("generation_config.json" in note for note in found["notes"])
    assert set(found["checked"].values()) == {"sha256"}


@pytest.mark.parametrize(
    ("content", "code"), [(None, 1), ("{", 3), ("[]", 3), ('{"encoder": 1, "encoder": 2}', 3), ("{}", 1)]
)
def test_folders_that_are_not_a_model(run: Run, tmp_path: Path, content: str | None, code: int) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    done = run("inspect", tmp_path)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert run("inspect", tmp_path / "nowhere").returncode == 1
    assert run("inspect", tmp_path, "--revision", "main").returncode == 2


def test_nothing_is_built_and_no_part_imported(tiny: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vedcore.checkpoints.inspection import inspect_folder\n"
        "assert not inspect_folder(Path(sys.argv[1]), verify=True).problems\n"
        "print([m for m in ('timm', 'torchvision', 'transformers', 'vedcore_encoders.vit') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_theirs_to_ours_and_back(run: Run, theirs: Path, tmp_path: Path) -> None:
    ours, back = tmp_path / "ours", tmp_path / "back"
    done = run("convert", theirs, ours, "--format", "native", "--json")
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout)
    assert written["files"] == {path.name: path.stat().st_size for path in ours.iterdir()}
    assert (written["folder"], written["format"]) == (str(ours), "native")
    done = run("convert", ours, back, "--format", "transformers")
    assert (done.returncode, done.stdout) == (0, f"{back}\n")
    assert "wrote model.safetensors" in done.stderr
    before, after = load_file(theirs / "model.safetensors"), load_file(back / "model.safetensors")
    kept = before.keys() - {name for name in before if "pooler" in name}  # of no use to generation, and left behind
    assert kept <= after.keys()
    assert all(torch.equal(before[name], after[name]) for name in kept)
    first, second = (hf.VisionEncoderDecoderModel.from_pretrained(folder).eval() for folder in (theirs, back))
    again = second.state_dict()
    assert all(torch.equal(tensor, again[n]) for n, tensor in first.state_dict().items() if "pooler" not in n)
    pixels, prompt = torch.rand(2, 3, 32, 32), torch.tensor([[2, 7, 9], [2, 1, 5]])
    with torch.inference_mode():
        a, b = (model(pixel_values=pixels, decoder_input_ids=prompt).logits for model in (first, second))
    assert torch.equal(a, b)


def test_types_and_shards(run: Run, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "half"
    assert run("convert", tiny, out, "--format", "native", "--dtype", "bfloat16").returncode == 0
    weights = inspect_folder(out).weights
    assert weights is not None
    assert list(weights["dtypes"]) == ["bfloat16"]
    assert weights["files"] == ["model.safetensors"]
    assert vedcore.load(out).dtype == torch.float32  # the model's own again
    assert run("convert", tiny, out, "--format", "native", "--max-shard-size", "10KB").returncode == 0
    assert len(list(out.glob("*-of-*.safetensors"))) > 1
    assert not (out / "model.safetensors").exists()


def test_the_users_own_files_stay(run: Run, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert run("convert", tiny, out, "--format", "native").returncode == 0
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--format", "nativ"], 3),
        (["--format", "native", "--dtype", "int7"], 2),
        (["--format", "native", "--max-shard-size", "huge"], 2),
        ([], 2),
        (["--format", "transformers"], 3),  # an mlp between the two
    ],
)
def test_an_impossible_conversion_leaves_nothing(run: Run, tiny: Path, options: list[str], code: int) -> None:
    out = tiny.with_name("out")
    done = run("convert", tiny, out, *options)
    assert (done.returncode, done.stdout) == (code, "")
    assert not out.exists()
    assert "Traceback" not in done.stderr


def test_a_folder_is_not_converted_into_itself(run: Run, tiny: Path) -> None:
    before = {path.name: path.read_bytes() for path in tiny.iterdir()}
    (tiny.parent / "alias").symlink_to(tiny)
    for target in (tiny, tiny.parent / "alias", tiny / ".." / "tiny"):
        done = run("convert", tiny, target, "--format", "native")
        assert done.returncode == 2
        assert "another folder" in done.stderr
    assert before == {path.name: path.read_bytes() for path in tiny.iterdir()}


def test_loading_for_a_conversion_is_strict(run: Run, theirs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(theirs, tmp_path / "short"))
    state = load_file(folder / "model.safetensors")
    state.pop("enc_to_dec_proj.bias")
    save_file(state, folder / "model.safetensors")
    done = run("convert", folder, tmp_path / "out", "--format", "native")
    assert done.returncode == 1
    assert "enc_to_dec_proj.bias" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("decoder", ["bert", "roberta", "gpt2", "bart"])
def test_a_tokenizer_comes_back_as_it_was(run: Run, tmp_path: Path, decoder: str) -> None:
    """A decoder's class adds none of its special tokens to a tokenizer that lacks them."""
    small = {
        "bert": {"num_hidden_layers": 1, "hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 9},
        "gpt2": {"n_layer": 1, "n_embd": 24, "n_head": 2},
        "bart": {"decoder_layers": 1, "d_model": 24, "decoder_attention_heads": 2, "decoder_ffn_dim": 9},
    }
    model = vedcore.compose(
        {"name": "vit", "num_hidden_layers": 1, "hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 9},
        {"name": decoder, **small.get(decoder, small["bert"])},
        image_size=16,
        tokenizer="byte",
        seed=1,
    )
    assert model.processor.tokenizer is not None
    model.save_pretrained(tmp_path / "ours")
    assert run("convert", tmp_path / "ours", tmp_path / "theirs", "--format", "transformers").returncode == 0
    assert run("convert", tmp_path / "theirs", tmp_path / "back", "--format", "native").returncode == 0
    again = vedcore.load(tmp_path / "back").processor.tokenizer
    assert again is not None
    assert again.to_str() == model.processor.tokenizer.to_str()
    assert told(run, tmp_path / "theirs")["tokenizer"] == {"name": "tokenizer.json", "kind": "BPE", "tokens": 259}
