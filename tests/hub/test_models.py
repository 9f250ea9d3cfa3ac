"""Models by the names of repositories: loaded, taken apart, and written back, through the real client."""

from __future__ import annotations

import shutil
import traceback
from pathlib import Path

import peft
import pytest
import torch
import transformers as hf
from huggingface_hub import constants

import vedcore
from tests.hub.server import Hub

SMALL = {
    "encoder_num_hidden_layers": 1,
    "encoder_hidden_size": 16,
    "encoder_num_attention_heads": 2,
    "image_size": 32,
    "decoder_n_layer": 1,
    "decoder_n_embd": 24,
    "decoder_n_head": 2,
    "decoder_n_positions": 20,
}


def small() -> vedcore.VisionEncoderDecoder:
    return vedcore.compose("vit", "gpt2", tokenizer="byte", seed=0, **SMALL)


def assert_same(a: vedcore.VisionEncoderDecoder, b: vedcore.VisionEncoderDecoder) -> None:
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(torch.equal(a.state_dict()[name], b.state_dict()[name]) for name in a.state_dict())


@pytest.mark.usefixtures("no_xet")
@pytest.mark.parametrize("format", ["native", "transformers", "flax"])
def test_pushed_loaded_and_taken_apart(hub: Hub, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    model.generation_config = vedcore.GenerationConfig(num_beams=2, max_length=9)
    url = model.push_to_hub("me/captioner", private=True, commit_message="First", format=format)
    assert "me/captioner" in url
    assert hub.asked("/commit/", "POST") == 1
    loaded = vedcore.load("me/captioner")
    assert_same(model, loaded)
    assert_same(model, vedcore.load("hub:me/captioner@main"))
    assert_same(model, vedcore.load("me/captioner", revision=hub.head("me/captioner")))
    assert loaded.processor.tokenizer is not None
    composed = vedcore.compose("hub:me/captioner", "hub:me/captioner@main")  # one commit by two names
    assert_same(model, composed)
    assert composed.processor.tokenizer is not None
    assert composed.processor.preprocessing == model.processor.preprocessing
    assert (composed.token_ids, composed.generation_config) == (model.token_ids, model.generation_config)
    assert_same(model, vedcore.VisionEncoderDecoder.from_pretrained("me/captioner", revision="main", dtype="auto"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same(model, vedcore.load("me/captioner"))


def test_parts_of_transformers(hub: Hub, tmp_path: Path) -> None:
    vit = hf.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20, image_size=32, patch_size=8
    )
    gpt2 = hf.GPT2Config(vocab_size=60, n_embd=24, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    hf.ViTModel(vit).save_pretrained(tmp_path / "repos" / "a" / "vit")
    hf.GPT2LMHeadModel(gpt2).save_pretrained(tmp_path / "repos" / "a" / "gpt2")
    model = vedcore.compose("hub:a/vit", "hub:a/gpt2")
    assert model.config.projector.name == "linear"
    assert model.load_reports["decoder"].fresh
    assert not model.load_reports["encoder"].fresh


def test_a_name_that_is_a_folder_stays_one(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small().save_pretrained(tmp_path / "model")
    (tmp_path / "org").mkdir()
    for name in ("org/model", "./org/model", "org/other/model", "model/nothing", str(tmp_path / "nothing")):
        with pytest.raises(vedcore.CheckpointNotFoundError):
            vedcore.load(name)
    vedcore.load("model")
    with pytest.raises(vedcore.UsageError, match="revision"):
        vedcore.load("model", revision="main")
    assert hub.requests == []


def test_a_subfolder_and_another_cache_folder(hub: Hub, cache: Path, tmp_path: Path) -> None:
    model = small()
    (hub.folder / "me/many/a").mkdir(parents=True)
    model.save_pretrained(hub.folder / "me/many/a/captioner")
    mine, token = tmp_path / "mine", "hf_" + "Mine" * 9
    options = {"subfolder": "a/captioner", "cache_dir": mine}
    assert_same(model, vedcore.load("hub:me/many", token=token, **options))
    assert hub.tokens == {f"Bearer {token}"}
    assert not cache.exists()
    asked = len(hub.requests)
    assert_same(model, vedcore.load("me/many", local_files_only=True, **options))
    with pytest.raises(vedcore.HubError, match="local_files_only"):
        vedcore.load("me/many", local_files_only=True, subfolder="a/captioner")
    assert len(hub.requests) == asked
    blob = next(mine.rglob("model.safetensors")).resolve()
    blob.write_bytes(blob.read_bytes()[:-3] + b"abc")
    with pytest.raises(vedcore.HubError) as caught:
        vedcore.load("me/many", **options)
    assert str(caught.value.path).endswith("/a/captioner/model.safetensors")
    assert f"HF_HUB_CACHE={mine}" in caught.value.hint


def test_a_subfolder_of_a_folder(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    small().save_pretrained(folder / "a")
    options = {"token": "hf_none", "cache_dir": tmp_path / "none", "local_files_only": True}
    assert_same(small(), vedcore.load(folder, subfolder="a", **options))
    assert_same(small(), vedcore.load(str(folder / "a"), subfolder=None, **options))
    for subfolder in ("../models/a", str(folder / "a"), "a/../../models/a"):
        with pytest.raises(vedcore.CheckpointUnsafeError, match="subfolder="):
            vedcore.load(folder, subfolder=subfolder)
    with pytest.raises(vedcore.CheckpointNotFoundError, match="no such folder"):
        vedcore.load(folder, subfolder="b")
    assert hub.requests == []


def test_the_token_is_in_no_frame_of_load(hub: Hub) -> None:
    token = "hf_" + "Mine" * 9
    for name in ("hub:org/none", "org/none"):
        with pytest.raises(vedcore.HubError) as caught:
            vedcore.load(name, token=token)
        frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        ours = [frame for frame in frames.stack if Path(frame.filename).is_relative_to(Path(vedcore.__file__).parent)]
        assert "load" in [frame.name for frame in ours]
        assert token not in repr([frame.locals for frame in ours]) + str(caught.value)


def test_repos_that_the_hub_does_not_have(hub: Hub) -> None:
    for name in ("org/none", "hub:org/none", "hub:org/model@nowhere"):
        with pytest.raises(vedcore.HubError) as error:
            vedcore.load(name)
        assert len(str(error.value)) <= 300
        with pytest.raises(vedcore.HubError):
            vedcore.compose(name if ":" in name else f"hub:{name}", "gpt2")
    with pytest.raises(vedcore.HubError):
        vedcore.load("hub:no repository")


@pytest.mark.usefixtures("no_xet")
@pytest.mark.parametrize("format", ["native", "transformers"])
def test_a_flipped_bit_in_the_cache(hub: Hub, cache: Path, format: str) -> None:
    small().push_to_hub("me/m", format=format)
    vedcore.load("me/m")
    link = next(cache.rglob("model.safetensors"))
    blob = link.resolve()
    data = bytearray(blob.read_bytes())
    data[-3] ^= 4
    blob.write_bytes(bytes(data))
    with pytest.raises((vedcore.HubError, vedcore.CheckpointCorruptError), match=r"model\.safetensors"):
        vedcore.load("me/m")
    shutil.rmtree(cache)
    vedcore.load("me/m")


def test_adapters(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository of PEFT's has no config.json."""
    model = small()
    folder = hub.folder / "me" / "adapters"
    peft.get_peft_model(small(), peft.LoraConfig(target_modules=["query"], init_lora_weights=False)).save_pretrained(
        folder
    )
    due = small().load_adapter(folder)
    assert_same(model.load_adapter("me/adapters"), due)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same(small().load_adapter("hub:me/adapters", revision="main"), due)
    with pytest.raises(vedcore.CheckpointNotFoundError, match=r"model\.load_adapter"):
        vedcore.load("me/adapters")
