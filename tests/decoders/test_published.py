"""Published weights: what the hub has of a language model, into a decoder with fresh cross-attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vedcore
from vedcore_decoders import published
from vedcore_decoders.bert import BertDecoder
from vedcore_decoders.gpt2 import GPT2Decoder

TINY = {
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 12,
    "vocab_size": 40,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VIT = {
    "name": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "patch_size": 8, "image_size": 16,
}  # fmt: skip


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A hub with one tiny GPT2, as transformers writes it; returns that model."""
    from transformers import GPT2Config, GPT2LMHeadModel

    theirs = GPT2LMHeadModel(GPT2Config(**TINY)).eval()
    theirs.save_pretrained(tmp_path / "tiny")
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append(repository)
        if repository != "someone/tiny":
            raise OSError(f"{repository} cannot be reached\nand more")
        return str(tmp_path / "tiny" / name)

    monkeypatch.setattr(published, "hf_hub_download", download)
    monkeypatch.setattr(GPT2Decoder, "variants", {"gpt2": TINY, "lost": TINY})
    monkeypatch.setattr(GPT2Decoder, "hub_repos", {"gpt2": "someone/tiny", "lost": "someone/lost"})
    return theirs


def test_the_language_model_is_theirs_and_cross_attention_fresh(hub: Any) -> None:
    decoder = GPT2Decoder(GPT2Decoder.make_config("gpt2", {}))
    crossing = {n: p.clone() for n, p in decoder.named_parameters() if n in decoder.fresh_parameters()}
    decoder.load_pretrained("gpt2")
    ids = torch.randint(40, (2, 7))
    with torch.no_grad():
        torch.testing.assert_close(decoder.eval()(ids).logits, hub(ids).logits, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(p, dict(decoder.named_parameters())[n]) for n, p in crossing.items())
    assert decoder.output.weight is decoder.embedding.weight


def test_compose_takes_them(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vedcore_encoders.vit import ViTEncoder

    build = ViTEncoder.__init__  # timm's own weights would have to come from the network
    monkeypatch.setattr(ViTEncoder, "__init__", lambda self, config, pretrained=False: build(self, config))
    model = vedcore.compose(VIT, "gpt2", pretrained=True)
    assert torch.equal(model.decoder.embedding.weight, hub.transformer.wte.weight)
    assert model.config.pretrained is False


def test_settings_must_be_those_of_the_file(hub: Any) -> None:
    decoder = GPT2Decoder(GPT2Decoder.make_config("gpt2", {"vocab_size": 50, "n_layer": 3}))
    before = decoder.embedding.weight.clone()
    with pytest.raises(
        vedcore.CheckpointMismatchError, match=r"embedding.weight is \(40, 16\) there and \(50, 16\) here"
    ) as caught:
        decoder.load_pretrained("gpt2")
    assert "layers.2.mlp.input.weight is missing" in caught.value.details
    assert torch.equal(decoder.embedding.weight, before)


def test_what_the_hub_does_not_give(hub: Any) -> None:
    decoder = GPT2Decoder(GPT2Decoder.make_config("gpt2", {}))
    with pytest.raises(vedcore.HubError, match="someone/lost cannot be reached"):
        decoder.load_pretrained("lost")
    with pytest.raises(vedcore.UsageError, match="no published weights for 'mine'.*gpt2"):
        decoder.load_pretrained("mine")
    assert set(BertDecoder.hub_repos) == set(BertDecoder.variants)
