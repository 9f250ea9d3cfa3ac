"""``pretrained=True``: a decoder's variant loads its checkpoint from the hub, as every checkpoint is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from huggingface_hub import constants
from tokenizers import Tokenizer, models, pre_tokenizers

import vedcore
from tests.hub.server import Hub
from vedcore.plugins import load_component

VIT = hf.ViTConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20, image_size=16, patch_size=8
)
BERT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 30,
    "initializer_range": 0.5,
}
BART = {
    "vocab_size": 40,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 30,
    "init_std": 0.5,
}
GPT2 = {
    "vocab_size": 40,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 30,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "initializer_range": 0.5,
}


def trocr() -> Any:
    decoder = {key: value for key, value in BART.items() if "encoder" not in key}
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(VIT, hf.TrOCRConfig(**decoder))
    return hf.VisionEncoderDecoderModel(config)


THEIRS = {
    "bert-base-cased": lambda: hf.BertForMaskedLM(hf.BertConfig(**BERT)),
    "roberta-base": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**BERT)),
    "xlm-roberta-base": lambda: hf.XLMRobertaForMaskedLM(hf.XLMRobertaConfig(**BERT)),
    "camembert-base": lambda: hf.CamembertForMaskedLM(hf.CamembertConfig(**BERT)),
    "distilbert-base-cased": lambda: hf.DistilBertForMaskedLM(
        hf.DistilBertConfig(vocab_size=40, dim=16, n_layers=2, n_heads=2, hidden_dim=20, max_position_embeddings=30)
    ),
    "gpt2-medium": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)),
    "bart-base": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**BART)),
    "mbart-large-50": lambda: hf.MBartForConditionalGeneration(hf.MBartConfig(**BART)),
    "trocr-small-printed": trocr,
}
"""Contents of the repositories of these variants, at a small size."""


def words(size: int) -> Tokenizer:
    """A tokenizer whose special tokens have other ids than those of the families."""
    special = ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]
    names = [*special, *(f"w{i}" for i in range(size - len(special)))]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    return tokenizer


def publish(hub: Hub, variant: str) -> Any:
    """Put a small model of transformers into the variant's repository, and return it."""
    cls, _ = load_component("decoder", variant)
    folder = hub.folder / cls.hub_repos[variant]
    theirs = THEIRS[variant]().eval()
    theirs.save_pretrained(folder)
    words(30).save(str(folder / "tokenizer.json"))
    hf.ViTModel(VIT).save_pretrained(hub.folder / "a" / "vit")
    return theirs


@pytest.mark.parametrize("variant", THEIRS)
def test_it_is_the_checkpoint(hub: Hub, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = publish(hub, variant)
    repository = load_component("decoder", variant)[0].hub_repos[variant]
    model = vedcore.compose("hub:a/vit", variant, pretrained=True, seed=1)
    assert model.config.pretrained is False
    named = vedcore.compose("hub:a/vit", f"hub:{repository}", seed=1)
    assert model.config == named.config
    assert model.token_ids == named.token_ids
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), named.parameters(), strict=True))
    report = model.load_reports["decoder"]
    has_crossing = variant.startswith(("bart", "mbart", "trocr"))
    assert set(report.fresh) == (set() if has_crossing else model.decoder.fresh_parameters())
    assert set(report.loaded) | set(report.fresh) == set(model.decoder.state_dict())
    tokenizer = model.processor.tokenizer
    assert tokenizer is not None
    assert tokenizer.encode("w3 w5", add_special_tokens=False).ids == [7, 9]
    assert all(p.isfinite().all() for p in model.parameters())
    assert torch.equal(model.decoder.get_input_embeddings().weight, decoder_of(theirs).get_input_embeddings().weight)


def decoder_of(theirs: Any) -> Any:
    return theirs.decoder if isinstance(theirs, hf.VisionEncoderDecoderModel) else theirs


def test_the_language_model_is_theirs(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = publish(hub, "gpt2-medium")
    model = vedcore.compose("hub:a/vit", {"name": "gpt2", "variant": "gpt2-medium"}, pretrained=True)
    ids = torch.randint(40, (2, 7))
    with torch.no_grad():
        torch.testing.assert_close(model.decoder(ids).logits, theirs(ids).logits, atol=1e-4, rtol=1e-4)


def test_ids_that_it_leaves_open_are_those_of_its_tokenizer(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub, "bert-base-cased")
    model = vedcore.compose("hub:a/vit", "bert-base-cased", pretrained=True)
    assert (model.token_ids.start, model.token_ids.eos, model.token_ids.pad) == (2, (3,), 0)


def test_given_options_count_first(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub, "gpt2-medium")
    model = vedcore.compose(
        "hub:a/vit",
        "gpt2-medium",
        pretrained=True,
        tokenizer=words(25),
        decoder_resid_pdrop=0.3,
        decoder_eos_token_id=5,
    )
    assert model.processor.tokenizer is not None
    assert model.processor.tokenizer.get_vocab_size() == 25
    assert model.decoder.config.resid_pdrop == 0.3
    assert model.decoder.vocab_size == 40
    assert model.token_ids.eos == (5,)
    for change, word in (
        ({"decoder_n_layer": 3}, r"missing: transformer\.h\.2"),
        ({"decoder_hidden_size": 32}, "n_embd"),
    ):
        with pytest.raises(vedcore.CheckpointMismatchError, match=word):
            vedcore.compose("hub:a/vit", "gpt2-medium", pretrained=True, **change)
    with pytest.raises(vedcore.IncompatibleError, match="vocab_size"):
        vedcore.compose("hub:a/vit", "gpt2-medium", pretrained=True, tokenizer=words(50))


def test_cross_attention_alone_is_fresh_in_a_plan(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub, "gpt2-medium")
    plan = vedcore.plan("vit", "gpt2-medium", pretrained=True, projector="linear")
    assert plan.decoder.config["n_layer"] == 2
    assert plan.fresh_parameters == plan.projector.parameters + 2 * (4 * (16 * 16 + 16) + 2 * 16)


def test_weights_of_the_cache_are_checked(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub, "gpt2-medium")
    vedcore.compose("hub:a/vit", "gpt2-medium", pretrained=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    vedcore.compose("hub:a/vit", "gpt2-medium", pretrained=True)
    blob = next(cache.glob("*gpt2-medium/snapshots/*/model.safetensors")).resolve()
    data = bytearray(blob.read_bytes())
    data[-3] ^= 4
    blob.write_bytes(bytes(data))
    with pytest.raises((vedcore.HubError, vedcore.CheckpointCorruptError), match=r"model\.safetensors"):
        vedcore.compose("hub:a/vit", "gpt2-medium", pretrained=True)


def test_variants_that_the_hub_does_not_have(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub, "gpt2-medium")
    with pytest.raises(vedcore.HubError, match="openai-community/gpt2-large"):
        vedcore.compose("hub:a/vit", "gpt2-large", pretrained=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(vedcore.HubError, match="HF_HUB_OFFLINE"):
        vedcore.compose("hub:a/vit", "gpt2", pretrained=True)


def test_variants_that_are_not_published(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub, "gpt2-medium")
    cls, _ = load_component("decoder", "gpt2")
    monkeypatch.setattr(cls, "hub_repos", {"gpt2-medium": cls.hub_repos["gpt2-medium"]})
    for decoder in ("gpt2", {"name": "gpt2", "variant": "mine"}, {"name": "gpt2", "variant": [1]}):
        with pytest.raises(vedcore.UsageError, match=r"pretrained.*gpt2-medium"):
            vedcore.compose("hub:a/vit", decoder, pretrained=True)
    monkeypatch.setattr(cls, "hub_repos", {})
    with pytest.raises(vedcore.UsageError, match=r"no published weights.*leave it out"):
        vedcore.compose("hub:a/vit", "gpt2", pretrained=True)
