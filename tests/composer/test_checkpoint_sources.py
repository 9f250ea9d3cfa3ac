"""Parts from checkpoints: transformers' files of a part, alone or within larger models, become our parts."""

from __future__ import annotations

import copy
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, models

import vedcore
from vedcore.weights.snapshot import Snapshot

VIT = hf.ViTConfig(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=32, patch_size=8
)
GPT2 = hf.GPT2Config(vocab_size=91, n_embd=24, n_layer=2, n_head=3, n_positions=40, bos_token_id=3, eos_token_id=4)
BERT = hf.BertConfig(
    vocab_size=91,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=40,
)
BART = hf.BartConfig(
    vocab_size=91,
    d_model=24,
    encoder_layers=1,
    decoder_layers=2,
    encoder_attention_heads=2,
    decoder_attention_heads=3,
    encoder_ffn_dim=40,
    decoder_ffn_dim=40,
    max_position_embeddings=40,
)
ROBERTA = hf.RobertaConfig(
    vocab_size=91,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=40,
)
DISTILBERT = hf.DistilBertConfig(
    vocab_size=91, dim=24, n_layers=2, n_heads=3, hidden_dim=40, max_position_embeddings=40
)


def saved(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("theirs", "left"),
    [
        (lambda: hf.ViTModel(VIT), {"pooler.dense.weight", "pooler.dense.bias"}),
        (lambda: hf.ViTModel(VIT, add_pooling_layer=False), set()),
        (lambda: hf.ViTForImageClassification(VIT), {"classifier.weight", "classifier.bias"}),
    ],
)
def test_an_encoder(theirs: Any, left: set[str], tmp_path: Path) -> None:
    model = theirs().eval()
    ours = vedcore.compose(saved(model, tmp_path / "vit"), "gpt2", decoder_n_layer=1, decoder_vocab_size=50)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        states = (model if hasattr(model, "embeddings") else model.vit)(images).last_hidden_state
        torch.testing.assert_close(ours.encoder(images).last_hidden_state, states, atol=1e-4, rtol=1e-4)
    report = ours.load_reports["encoder"]
    assert set(report.left) == left
    assert not report.fresh
    assert set(report.loaded) == set(ours.encoder.state_dict())
    assert "left behind" in str(report)


@pytest.mark.parametrize(
    "theirs",
    [
        lambda: hf.GPT2LMHeadModel(GPT2),
        lambda: hf.GPT2Model(GPT2),
        lambda: hf.BertForMaskedLM(BERT),
        lambda: hf.BertForPreTraining(BERT),
        lambda: hf.RobertaForMaskedLM(ROBERTA),
        lambda: hf.DistilBertForMaskedLM(DISTILBERT),
        lambda: hf.BartForConditionalGeneration(BART),
        lambda: hf.BartModel(BART),
    ],
)
def test_a_decoder(theirs: Any, tmp_path: Path) -> None:
    model = theirs().eval()
    folder = saved(model, tmp_path / "part")
    ours = vedcore.compose("vit", folder, encoder_num_hidden_layers=1, seed=0)
    report = ours.load_reports["decoder"]
    names = set(ours.decoder.state_dict())
    crossing = ours.decoder.fresh_parameters()
    has_crossing = "bart" in type(model).__name__.lower()
    assert set(report.fresh) == (set() if has_crossing else crossing)
    assert set(report.loaded) == names - set(report.fresh)
    embedding = model.get_input_embeddings().weight
    assert torch.equal(ours.decoder.get_input_embeddings().weight, embedding)
    again = vedcore.compose("vit", folder, encoder_num_hidden_layers=1, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True))
    assert all(p.isfinite().all() for p in ours.parameters())


def test_halves_of_whole_models(tmp_path: Path) -> None:
    """Whole models of transformers and of vedcore, and the parts that were written from them."""
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(VIT, copy.deepcopy(GPT2))  # it changes them
    folder = saved(hf.VisionEncoderDecoderModel(config), tmp_path / "theirs")
    first = vedcore.compose(folder, folder)
    assert first.load_reports["decoder"].fresh == []
    whole = vedcore.load(folder)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), whole.parameters(), strict=True))
    first.save_pretrained(tmp_path / "native")
    second = vedcore.compose(str(tmp_path / "native"), str(tmp_path / "native"))
    for part in ("encoder", "decoder"):
        second.save_pretrained(tmp_path / part, format="transformers", part=part)
    third = vedcore.compose(str(tmp_path / "encoder"), str(tmp_path / "decoder"))
    assert third.load_reports["decoder"].fresh == []
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True))
    _, info = hf.ViTModel.from_pretrained(tmp_path / "encoder", output_loading_info=True)
    assert not info["missing_keys"]
    _, info = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "decoder", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    folder = saved(hf.GPT2LMHeadModel(GPT2), tmp_path / "gpt2")
    with pytest.raises(vedcore.CheckpointMismatchError, match="n_embd"):
        vedcore.compose("vit", folder, encoder_num_hidden_layers=1, decoder_n_embd=48)
    with pytest.raises(vedcore.UnknownComponentError, match="gpt2"):
        vedcore.compose(folder, "gpt2")
    plan = vedcore.plan("vit", folder)
    assert plan.decoder.hidden_size == 24
    assert plan.vocab_size == 91


def test_a_plan_counts_what_is_fresh(tmp_path: Path) -> None:
    vit, gpt2 = saved(hf.ViTModel(VIT), tmp_path / "vit"), saved(hf.GPT2LMHeadModel(GPT2), tmp_path / "gpt2")
    plan, model = vedcore.plan(vit, gpt2), vedcore.compose(vit, gpt2)
    fresh = set(model.load_reports["decoder"].fresh)
    assert plan.fresh_parameters == sum(p.numel() for name, p in model.decoder.named_parameters() if name in fresh)
    own = vedcore.plan(vit, "gpt2", decoder_n_layer=1)
    assert own.fresh_parameters == own.parameters - own.encoder.parameters
    random = vedcore.plan("vit", "gpt2")
    assert random.fresh_parameters == random.parameters


@pytest.mark.parametrize("format", ["native", "transformers"])
def test_a_plan_counts_what_a_whole_checkpoint_lacks(tmp_path: Path, format: str) -> None:
    """Its trained cross-attention is not fresh; without weights to look at, it is."""
    vit = saved(hf.ViTModel(VIT), tmp_path / "vit")
    made = vedcore.compose(vit, saved(hf.GPT2LMHeadModel(GPT2), tmp_path / "gpt2"))
    folder = str(tmp_path / "whole")
    made.save_pretrained(folder, format=format)
    assert vedcore.plan(folder, folder).fresh_parameters == 0
    assert vedcore.plan(vit, folder).fresh_parameters == vedcore.plan(vit, folder).projector.parameters
    (tmp_path / "whole" / "model.safetensors").unlink()
    fresh = made.decoder.fresh_parameters()
    left = vedcore.plan(vit, folder)
    crossing = sum(p.numel() for name, p in made.decoder.named_parameters() if name in fresh)
    assert left.fresh_parameters == crossing + left.projector.parameters


def test_settings_of_images_that_are_assumed_are_told_once(tmp_path: Path) -> None:
    """In a warning of ``compose``, and in the notes of a plan; not where a file or the caller has them."""
    vit, gpt2 = saved(hf.ViTModel(VIT), tmp_path / "run" / "vit"), saved(hf.GPT2LMHeadModel(GPT2), tmp_path / "gpt2")
    said = r"vit: no preprocessor_config\.json: images are stretched to 32 x 32, with mean \(0\.5, 0\.5, 0\.5\); give "
    with pytest.warns(UserWarning, match=said) as caught:
        model = vedcore.compose(vit, gpt2)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert str(caught[0].message) in vedcore.plan(vit, gpt2).notes
    hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "run")
    assert any(f"{tmp_path / 'run'} has it" in note for note in vedcore.plan(vit, gpt2).notes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vedcore.compose(vit, gpt2, preprocessing=model.processor.preprocessing)
        vedcore.compose("vit", gpt2, image_size=32, encoder_num_hidden_layers=1, encoder_hidden_size=24)
        hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(vit)
        vedcore.compose(vit, gpt2)


def test_a_checkpoint_comes_first_but_for_what_is_given(tmp_path: Path) -> None:
    """Settings are given under either name; ids that the checkpoint leaves open are those of its tokenizer."""
    gpt2, bert = saved(hf.GPT2LMHeadModel(GPT2), tmp_path / "gpt2"), saved(hf.BertForMaskedLM(BERT), tmp_path / "bert")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(names[:5])
    tokenizer.save(str(tmp_path / "bert" / "tokenizer.json"))
    small = {"encoder_num_hidden_layers": 1}
    ids = vedcore.compose("vit", bert, **small).token_ids
    assert (ids.start, ids.eos, ids.pad) == (2, (3,), 0)
    assert vedcore.compose("vit", bert, **small, decoder_eos_token_id=5).token_ids.eos == (5,)
    assert vedcore.compose("vit", gpt2, **small, decoder_hidden_size=24).decoder.hidden_size == 24
    with pytest.raises(vedcore.CheckpointMismatchError, match="n_embd"):
        vedcore.compose("vit", gpt2, **small, decoder_hidden_size=48)
    for variant in ("gpt2-huge", [1], 5):
        with pytest.raises(vedcore.UnknownComponentError, match="no variant"):
            vedcore.compose("vit", {"name": "gpt2", "variant": variant})
    (tmp_path / "gpt2" / "config.json").write_text(hf.GPT2Config(**{**GPT2.to_dict(), "n_head": 5}).to_json_string())
    with pytest.raises(vedcore.ConfigError, match=r"gpt2/config\.json: decoder\.n_head"):
        vedcore.compose("vit", gpt2)
    with pytest.raises(vedcore.ConfigError, match=r"^decoder\.n_head"):
        vedcore.compose("vit", gpt2, decoder_num_attention_heads=7)


# -- a folder that is exchanged for another save ----------------------------------------------------------------

SIDES: tuple[dict[str, Any], dict[str, Any]] = (
    {
        "name": "vit",
        "hidden_size": 24,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "patch_size": 8,
        "image_size": 16,
    },
    {"name": "gpt2", "n_embd": 24, "n_head": 2, "n_positions": 20},
)


@pytest.fixture(params=["native", "transformers"])
def saves(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """Folders of two models that differ in tokenizer, layers, weights and preprocessing."""
    for number, tokenizer in enumerate(("char", "byte")):
        encoder, decoder = SIDES
        model = vedcore.compose(
            encoder,
            decoder,
            tokenizer=tokenizer,
            encoder_num_hidden_layers=1 + number,
            decoder_n_layer=2 - number,
            preprocessing={"image_size": (16, 16), "image_mean": (number, 0.0, 0.0)},
            seed=number,
        )
        model.save_pretrained(tmp_path / tokenizer, format=request.param)
    return tmp_path / "char", tmp_path / "byte"


def exchanges(
    saves: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, make: Callable[[str], Any], dropped: str
) -> Iterator[Any]:
    """The results of ``make`` where the first save is exchanged for the second before the n-th look at the folder.

    One result for each n, from 0 on; ``dropped`` of the old folder is removed with the exchange.
    """
    target, steps = saves[0].with_name("model"), 0

    def exchange() -> None:
        aside = target.with_name("old")
        os.rename(target, aside)
        shutil.copytree(saves[1], target)
        for path in list(aside.iterdir()):
            if dropped == "all" or (dropped == "small files" and path.suffix != ".safetensors"):
                path.unlink()

    def watched(method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            if steps == 0:
                exchange()
            steps -= 1
            return method(*args, **kwargs)

        return call

    for name in ("__init__", "open", "has"):
        monkeypatch.setattr(Snapshot, name, watched(getattr(Snapshot, name)))
    for step in range(1000):
        for folder in (target, target.with_name("old")):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(saves[0], target)
        steps = step
        yield make(str(target))
        if steps >= 0:  # it was done before that many
            assert step > 5
            return


def content(model: vedcore.VisionEncoderDecoder) -> Any:
    tokenizer = model.processor.tokenizer
    return {
        "tokenizer": None if tokenizer is None else tokenizer.to_str(),
        "images": model.processor.preprocessing,
        "ids": model.token_ids,
        "weights": {name: tensor.tolist() for name, tensor in model.state_dict().items()},
    }


@pytest.mark.parametrize("dropped", ["nothing", "small files", "all"])
def test_a_folder_that_is_exchanged_meanwhile_is_one_save(
    saves: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, dropped: str
) -> None:
    def composed(folder: str) -> Any:
        return content(vedcore.compose(folder, folder))

    old, new = (composed(str(folder)) for folder in saves)
    results = list(exchanges(saves, monkeypatch, composed, dropped))
    assert all(result in (old, new) for result in results)
    assert results[0] == new
    assert results[-1] == old


def test_a_plan_of_a_folder_that_is_exchanged_meanwhile_is_of_one_save(
    saves: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(folder: str) -> Any:
        return vedcore.plan(SIDES[0], folder, encoder_num_hidden_layers=1)

    old, new = (planned(str(folder)) for folder in saves)
    results = list(exchanges(saves, monkeypatch, planned, "all"))
    assert all(result in (old, new) for result in results)
    assert results[0] == new
    assert results[-1] == old
