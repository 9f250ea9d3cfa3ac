"""vedcore's own folder: a whole model saved and loaded, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vedcore
from vedcore.checkpoints.card import model_card
from vedcore.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointLimitError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointWriteError,
    ConfigError,
    ConfigParseError,
    ConfigSchemaError,
    NonFiniteError,
    PluginMissingError,
    TokenizerError,
    UnknownComponentError,
    UsageError,
    VedcoreError,
)

ENCODER = {
    "name": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "patch_size": 8,
    "image_size": (16, 32),
}
DECODER = {"name": "gpt2", "n_embd": 24, "n_layer": 1, "n_head": 2, "n_positions": 20}


def compose(**options: Any) -> vedcore.VisionEncoderDecoder:
    return vedcore.compose(ENCODER, DECODER, **{"tokenizer": "char", "seed": 3, **options})


@pytest.fixture(scope="module")
def model() -> vedcore.VisionEncoderDecoder:
    return compose()


@pytest.fixture
def saved(model: vedcore.VisionEncoderDecoder, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].reshape(-1).view(torch.uint8).equal(b[name].reshape(-1).view(torch.uint8)), name


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


# -- there and back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("max_shard_size", ["5GB", "10KB"])
def test_round_trip(tmp_path: Path, dtype: str, max_shard_size: str) -> None:
    model = compose(dtype=dtype)
    model.generation_config = model.generation_config.with_options(max_new_tokens=7, num_beams=3)
    model.save_pretrained(tmp_path / "m", max_shard_size=max_shard_size)
    state = torch.get_rng_state()
    back = vedcore.load(tmp_path / "m")
    assert torch.get_rng_state().equal(state)
    assert_same(model, back)
    assert not any(module.training for module in back.modules())
    assert back.config == model.config
    assert back.token_ids == model.token_ids
    assert back.generation_config == model.generation_config
    assert back.processor.preprocessing == model.processor.preprocessing
    assert back.processor.tokenizer.to_str() == model.processor.tokenizer.to_str()
    assert all(p.requires_grad for p in back.parameters())
    pixels = torch.randn(2, 3, 16, 32, dtype=getattr(torch, dtype))
    ids = torch.tensor([[1, 2, 3]] * 2)
    with torch.no_grad():
        assert model(pixels, decoder_input_ids=ids).logits.equal(back(pixels, decoder_input_ids=ids).logits)


def test_the_names_in_the_folder(saved: Path) -> None:
    assert sorted(os.listdir(saved)) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "preprocessor_config.json",
        "provenance.json",
        "tokenizer.json",
    ]


def test_saved_again_over_the_folder_that_it_came_from(saved: Path, model: vedcore.VisionEncoderDecoder) -> None:
    (saved / "notes.txt").write_text("mine")
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    for _ in range(2):
        vedcore.load(saved).save_pretrained(saved)
    after = {p.name: p.read_bytes() for p in saved.iterdir()}
    same = after.keys() - {"model.safetensors", "manifest.json"}  # safetensors orders its metadata at random
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert_same(model, vedcore.load(saved))


def test_fewer_shards_leave_none_behind(saved: Path, model: vedcore.VisionEncoderDecoder) -> None:
    for size in ("10KB", "20KB", "5GB", "10KB"):
        model.save_pretrained(saved, max_shard_size=size)
        assert_same(model, vedcore.load(saved))
    (saved / "manifest.json").unlink()  # as if another library had written them
    model.save_pretrained(saved)
    assert [p.name for p in saved.glob("model*")] == ["model.safetensors"]
    assert_same(model, vedcore.load(saved))


def test_no_tokenizer(tmp_path: Path) -> None:
    model = vedcore.compose(ENCODER, DECODER, decoder_vocab_size=30, token_ids={"start": 1, "eos": (2,), "pad": 0})
    model.save_pretrained(tmp_path / "m")
    back = vedcore.load(tmp_path / "m")
    assert back.processor.tokenizer is None
    assert back.config == model.config
    assert_same(model, back)


def test_a_tokenizer_of_the_users_own(tmp_path: Path) -> None:
    model = compose(tokenizer="byte")
    model.processor.tokenizer.add_tokens(["<new>"])
    model.resize_vocabulary(model.processor.tokenizer.get_vocab_size())
    model.save_pretrained(tmp_path / "m")
    back = vedcore.load(tmp_path / "m")
    assert back.processor.tokenizer.token_to_id("<new>") is not None
    assert_same(model, back)
    again = vedcore.compose(back.config)  # its tokenizer is that of the folder
    assert again.processor.tokenizer.to_str() == back.processor.tokenizer.to_str()
    vedcore.compose(tmp_path / "m" / "config.json")


def test_trained_and_saved(tmp_path: Path) -> None:
    model = compose().train()
    batch = {"pixel_values": torch.randn(1, 3, 16, 32), "labels": torch.tensor([[3, 4, 1]])}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(**batch).loss.backward()
    optimizer.step()
    model.save_pretrained(tmp_path / "m")
    assert model.training
    assert_same(model, vedcore.load(tmp_path / "m"))


def test_ties_stay(tmp_path: Path, saved: Path) -> None:
    back = vedcore.load(saved)
    assert back.decoder.get_output_embeddings().weight is back.decoder.get_input_embeddings().weight
    loose = compose(decoder_tie_word_embeddings=False)
    loose.save_pretrained(tmp_path / "loose")
    back = vedcore.load(tmp_path / "loose")
    assert back.decoder.get_output_embeddings().weight is not back.decoder.get_input_embeddings().weight
    assert_same(loose, back)


def test_another_dtype(saved: Path, model: vedcore.VisionEncoderDecoder) -> None:
    assert_same(compose().to(torch.bfloat16), vedcore.load(saved, dtype="bfloat16"))
    assert vedcore.load(saved, dtype=torch.float16).config.dtype == "float16"
    for dtype in ("float8", torch.int8, 3):
        with pytest.raises(UsageError, match="dtype"):
            vedcore.load(saved, dtype=dtype)  # type: ignore[arg-type]


def test_weights_stored_in_fewer_bits(tmp_path: Path, model: vedcore.VisionEncoderDecoder) -> None:
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "half", weights_dtype="float16")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    back = vedcore.load(tmp_path / "half")
    assert_same(compose().half().float(), back)
    assert back.decoder.get_output_embeddings().weight is back.decoder.get_input_embeddings().weight


def test_the_card(saved: Path, model: vedcore.VisionEncoderDecoder) -> None:
    import yaml

    text = (saved / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["library_name"] == "vedcore"
    assert head["pipeline_tag"] == "image-to-text"
    assert {"vit", "gpt2"} <= set(head["tags"])
    for words in (
        "16 x 32",
        f"{sum(p.numel() for p in model.encoder.parameters()):,}",
        "vedcore.load",
        "start 0, end 1",
    ):
        assert words in body
    config = model.config.model_copy(update={"plugins": {"encoder": "vedcore-x==1.2"}})
    assert "pip install vedcore-x==1.2" in model_card(model, config)


def test_unknown_options_and_formats(tmp_path: Path, model: vedcore.VisionEncoderDecoder) -> None:
    with pytest.raises(UsageError, match="max_shrad_size"):
        model.save_pretrained(tmp_path / "m", max_shrad_size="5GB")
    with pytest.raises(UnknownComponentError, match="native"):
        model.save_pretrained(tmp_path / "m", format="natve")
    assert os.listdir(tmp_path) == []


def test_a_meta_model_is_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = compose()
    with pytest.raises(CheckpointWriteError, match="meta"):
        model.save_pretrained(tmp_path / "m")
    assert os.listdir(tmp_path) == []


# -- paths ------------------------------------------------------------------------------------------------------


def test_paths_that_are_not_a_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved.parent)
    Path("empty").mkdir()
    for path, words in {
        "": "empty path",
        "mm": "did you mean",
        "http://x.y/z": "nothing is downloaded",
        "some/old/model": "no folder some/old",
        "m/config.json": "a file, not a folder",
        "empty": "it is empty",
        ".": "no config.json",
        "a\0b": "no such folder",
    }.items():
        with pytest.raises(CheckpointNotFoundError, match=words) as error:
            vedcore.load(path)
        assert len(str(error.value)) <= 300
    with pytest.raises(CheckpointNotFoundError):
        vedcore.load(Path("missing"))
    with pytest.raises(UsageError):
        vedcore.load(3)  # type: ignore[arg-type]
    assert_same(vedcore.load("m"), vedcore.load(Path("m")))


def test_a_registered_model_by_name(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vedcore.registry import Entry, Owner, ResolvedEntry

    asked = []

    def load_component(kind: str, name: str) -> Any:
        asked.append((kind, name))
        return (lambda: saved), ResolvedEntry(Entry("reader", "x:y", owner=Owner("d")), None)

    from vedcore.checkpoints import formats

    real = formats.load_component
    monkeypatch.setattr(formats, "load_component", lambda k, n: load_component(k, n) if k == "model" else real(k, n))
    assert_same(vedcore.load("reader"), vedcore.load(saved))
    assert asked == [("model", "reader")]


def test_a_transformers_folder_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "zorg", "encoder": {}, "decoder": {}}')
    with pytest.raises(CheckpointError, match=r"config.json.*zorg"):
        vedcore.load(tmp_path)


# -- damage: settings -------------------------------------------------------------------------------------------

SETTINGS: list[tuple[str, Callable[[dict[str, Any]], object], type[VedcoreError], str]] = [
    ("config.json", lambda c: c.pop("decoder"), ConfigSchemaError, "decoder"),
    ("config.json", lambda c: c.update(decodr=1), ConfigSchemaError, "did you mean 'decoder'"),
    ("config.json", lambda c: c["decoder"].update(n_embd="24"), ConfigSchemaError, "decoder.n_embd"),
    ("config.json", lambda c: c["decoder"].update(n_head=5), ConfigError, "n_head"),
    ("config.json", lambda c: c["decoder"].update(n_emdb=24), ConfigSchemaError, "n_embd"),
    ("config.json", lambda c: c["decoder"].update(name="zorg"), UnknownComponentError, "zorg"),
    ("config.json", lambda c: c["decoder"].update(name="os:system"), UnknownComponentError, "os:system"),
    (
        "config.json",
        lambda c: c["plugins"].update(encoder="vedcore-x==1.2"),
        PluginMissingError,
        "pip install vedcore-x==1.2",
    ),
    ("config.json", lambda c: c["decoder"].update(n_positions=48), CheckpointMismatchError, "n_positions is 48"),
    ("config.json", lambda c: c["decoder"].update(n_layer=2), CheckpointMismatchError, "missing"),
    (
        "config.json",
        lambda c: c["preprocessing"].update(image_mean=[0, 0.1, 0]),
        ConfigSchemaError,
        "preprocessor_config.json",
    ),
    ("config.json", lambda c: c["token_ids"].update(start=5000), ConfigError, "5000"),
    ("generation_config.json", lambda c: c.update(num_beams=10**6), ConfigError, "num_beams"),
    ("generation_config.json", lambda c: c.update(max_new_tokns=3), VedcoreError, "max_new_tokens"),
    ("preprocessor_config.json", lambda c: c.update(image_std=[0, 1, 1]), ConfigSchemaError, "image_std"),
    ("tokenizer.json", lambda c: c.update(version="9.9"), TokenizerError, "9.9"),
]


@pytest.mark.parametrize(("name", "change", "error", "words"), SETTINGS, ids=range(len(SETTINGS)))
def test_settings_that_are_wrong(saved: Path, name: str, change: Any, error: type[VedcoreError], words: str) -> None:
    edit(saved / name, change)
    with pytest.raises(error, match=words) as caught:
        vedcore.load(saved)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json"]
)
def test_settings_that_are_missing_or_not_json(saved: Path, name: str) -> None:
    whole = (saved / name).read_bytes()
    for data in (b"", whole[: len(whole) // 2], b"{", b"[]", b"null", b"\xff\xfe{\0}\0", b'{"a":' * 10**5):
        (saved / name).write_bytes(data)
        with pytest.raises((ConfigError, TokenizerError), match=name) as caught:
            vedcore.load(saved)
        assert len(str(caught.value)) <= 300
    (saved / name).unlink()
    with pytest.raises(VedcoreError, match=name):
        vedcore.load(saved)


def test_a_config_error_has_line_and_column(saved: Path) -> None:
    (saved / "config.json").write_text('{\n "encoder": }')
    with pytest.raises(ConfigParseError, match=r"config.json: line 2, column 13"):
        vedcore.load(saved)


def test_a_config_of_50_megabytes(saved: Path) -> None:
    os.truncate(saved / "config.json", 50_000_000)
    with pytest.raises((CheckpointLimitError, ConfigError), match=r"config.json.*50,000,000"):
        vedcore.load(saved)


def test_settings_may_be_edited(saved: Path) -> None:
    edit(saved / "generation_config.json", lambda c: c.update(max_new_tokens=5))
    edit(saved / "config.json", lambda c: (c["decoder"].update(resid_pdrop=0.0), c.pop("preprocessing")))
    back = vedcore.load(saved)
    assert back.generation_config.max_new_tokens == 5
    assert back.config.decoder.fields["resid_pdrop"] == 0.0
    assert back.config.preprocessing == back.processor.preprocessing


def test_pretrained_in_a_folder_downloads_nothing(saved: Path) -> None:
    edit(saved / "config.json", lambda c: c.update(pretrained=True))
    assert vedcore.load(saved).config.pretrained is False


# -- damage: weights --------------------------------------------------------------------------------------------


def test_weights_cut_anywhere(saved: Path) -> None:
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointCorruptError, match=r"model.safetensors"):
            vedcore.load(saved)
    path.write_bytes(whole + bytes(8))
    with pytest.raises(CheckpointCorruptError, match=r"model.safetensors"):
        vedcore.load(saved)


def test_one_flipped_bit_anywhere(saved: Path, model: vedcore.VisionEncoderDecoder) -> None:
    path = saved / "model.safetensors"
    whole = bytearray(path.read_bytes())
    rng = random.Random(0)
    for _ in range(25):
        at, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        whole[at] ^= bit
        path.write_bytes(whole)
        with pytest.raises(CheckpointError):
            vedcore.load(saved)
        whole[at] ^= bit
    path.write_bytes(whole)
    assert_same(model, vedcore.load(saved))


def test_tensors_renamed_deleted_added(saved: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = saved / "model.safetensors"
    tensors = load_file(path)
    name = "decoder.final_norm.weight" if "decoder.final_norm.weight" in tensors else next(iter(tensors))
    for change, words in (
        ({**{n: t for n, t in tensors.items() if n != name}, f"{name}x": tensors[name]}, "1 missing.*1 unexpected"),
        ({n: t for n, t in tensors.items() if n != name}, "1 missing"),
        ({**tensors, "more": torch.ones(1)}, "1 unexpected: more"),
    ):
        save_file(change, path)
        with pytest.raises(CheckpointMismatchError, match=words):
            vedcore.load(saved)
    with pytest.warns(UserWarning, match="not used: more"):
        vedcore.load(saved, strict=False, verify=False)


def test_not_finite(saved: Path) -> None:
    model = vedcore.load(saved)
    with torch.no_grad():
        model.decoder.get_input_embeddings().weight[3, 1] = float("nan")
    model.save_pretrained(saved)
    with pytest.raises(NonFiniteError, match=r"decoder\..*check_finite"):
        vedcore.load(saved)
    with pytest.warns(RuntimeWarning, match="NaN or Inf"):
        assert_same(model, vedcore.load(saved, check_finite="warn"))
    assert_same(model, vedcore.load(saved, check_finite=False))


def test_not_strict_leaves_no_memory_uninitialised(saved: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = saved / "model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if not n.startswith("projector")}, path)
    with pytest.warns(UserWarning, match="left random: projector"):
        back = vedcore.load(saved, strict=False, verify=False)
    weight = back.projector.state_dict()
    assert all(tensor.isfinite().all() for tensor in weight.values())


# -- what loading may not do ------------------------------------------------------------------------------------


def test_nothing_is_executed_imported_or_written(saved: Path) -> None:
    """Python's audit events: loading opens no file for writing and no socket, and starts no process."""
    shutil.copy(saved / "model.safetensors", saved / "pytorch_model.bin")
    script = f"""
        import sys, vedcore
        folder = {str(saved)!r}
        vedcore.load(folder)  # imports are done now
        bad = []
        def hook(event, arguments):
            if event == "open" and isinstance(arguments[2], int) and arguments[2] & 3:
                bad.append((event, arguments))
            if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.re", "pickle.")):
                bad.append((event, arguments))
            if event == "open" and str(arguments[0]).endswith(".bin"):
                bad.append((event, arguments))
        sys.addaudithook(hook)
        vedcore.load(folder)
        assert not bad, bad
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
