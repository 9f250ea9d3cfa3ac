"""Every way to say what a model is, what a plan tells, and what is refused, how and how soon."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import tokenizers
import torch
import transformers
from torch import Tensor, nn

import vedcore
from tests.config_text import config_text
from vedcore.composer import resolve
from vedcore.config import DecoderConfig, EncoderConfig, ProjectorConfig
from vedcore.registry import Entry, Owner, Resolved

VIT = {
    "name": "vit",
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "patch_size": 8,
    "image_size": (16, 24),
}
GPT2 = {"name": "gpt2", "n_embd": 24, "n_layer": 1, "n_head": 2, "n_positions": 20, "vocab_size": 50}
BERT = {
    "name": "bert",
    "hidden_size": 36,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "vocab_size": 150,
}
CENTRE = {"image_size": (224, 224), "resize_size": (256, 256), "do_center_crop": True}


def without(section: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in keys}


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(t, theirs[name]) for name, t in ours.items())


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text).lstrip("\n"))
    return path


# -- real sizes -------------------------------------------------------------------------------------------------

ENCODERS = {
    "vit": "vit_base_patch16_224",
    "deit": "deit_base_patch16_224",
    "beit": "beit_base_patch16_224",
    "swin": "swin_base_patch4_window7_224",
    "timm/convnext_tiny": "convnext_tiny",
    "timm/resnet50": "resnet50",
}
CROSS = {"is_decoder": True, "add_cross_attention": True}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {}),
    "bert-large-uncased": (
        "Bert",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    ),
    "roberta": ("Roberta", {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}),
    "gpt2": ("GPT2", {}),
    "gpt2-medium": ("GPT2", {"n_embd": 1024, "n_layer": 24, "n_head": 16}),
    "gpt2-xl": ("GPT2", {"n_embd": 1600, "n_layer": 48, "n_head": 25}),
    "bart": ("Bart", {"d_model": 768, "decoder_layers": 6, "decoder_attention_heads": 12, "decoder_ffn_dim": 3072}),
    "bart-large": ("Bart", {}),
    "mbart": ("MBart", {"vocab_size": 250027}),
    "trocr": ("TrOCR", {"cross_attention_hidden_size": 768}),
    "trocr-large-stage1": (
        "TrOCR",
        {
            "cross_attention_hidden_size": 1024,
            "activation_function": "relu",
            "max_position_embeddings": 1024,
            "scale_embedding": True,
            "use_learned_position_embeddings": False,
            "layernorm_embedding": False,
            "tie_word_embeddings": False,
        },
    ),
}
HEADS = {"Bert": "BertLMHeadModel", "Roberta": "RobertaForCausalLM", "GPT2": "GPT2LMHeadModel"}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("decoder", DECODERS)
def test_decoders_have_the_parameters_of_transformers(decoder: str) -> None:
    prefix, words = DECODERS[decoder]
    with torch.device("meta"):
        config = getattr(transformers, f"{prefix}Config")(**words, **CROSS)
        theirs = count(getattr(transformers, HEADS.get(prefix, f"{prefix}ForCausalLM"))(config))
    assert vedcore.plan("vit_tiny_patch16_224", decoder).decoder.parameters == theirs


def test_distilbert_has_those_of_transformers_and_cross_attention() -> None:
    with torch.device("meta"):
        theirs = count(transformers.DistilBertForMaskedLM(transformers.DistilBertConfig()))
    width = 768
    crossing = 6 * (4 * (width * width + width) + 2 * width)  # a layer: query, key, value, output; a norm
    assert vedcore.plan("vit_tiny_patch16_224", "distilbert").decoder.parameters == theirs + crossing


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders_have_the_parameters_of_timm(encoder: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(ENCODERS[encoder], num_classes=0)
    ours = vedcore.plan(encoder, "distilgpt2").encoder
    unused = sum(count(getattr(theirs, name)) for name in ("fc_norm", "head", "norm") if hasattr(theirs, name))
    assert count(theirs) - unused <= ours.parameters <= count(theirs)
    assert ours.hidden_size == theirs.num_features


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("decoder", ["bert", "roberta", "distilbert", "gpt2", "bart", "mbart", "trocr"])
def test_every_default_pair_is_planned(encoder: str, decoder: str) -> None:
    plan = vedcore.plan(encoder, decoder)
    assert plan.parameters == plan.encoder.parameters + plan.projector.parameters + plan.decoder.parameters
    fits = plan.encoder.hidden_size == plan.projector.hidden_size
    assert plan.projector.name == ("identity" if fits else "linear")
    width = plan.encoder.hidden_size
    assert plan.projector.parameters == (0 if fits else (width + 1) * plan.projector.hidden_size)
    assert plan.weight_bytes == 4 * plan.parameters
    assert plan.image_size == (224, 224)
    assert plan.image_tokens == {"swin": 49, "timm/convnext_tiny": 49, "timm/resnet50": 49}.get(encoder, 197)
    assert not plan.notes or decoder == "roberta"


# -- plans ------------------------------------------------------------------------------------------------------


def test_a_plan_says_it_all() -> None:
    plan = vedcore.plan("vit", "gpt2")
    assert plan.model_dump(include={"parameters", "fresh_parameters", "weight_bytes", "cache_bytes_per_image"}) == {
        "parameters": 238_605_312,
        "fresh_parameters": 238_605_312,
        "weight_bytes": 954_421_248,
        "cache_bytes_per_image": 2 * 12 * 768 * 197 * 4,
    }
    assert plan.cache_bytes_per_token == 2 * 12 * 768 * 4
    assert json.loads(json.dumps(plan.model_dump())) == plan.model_dump(mode="json")
    assert plan.encoder.owner == plan.decoder.owner == f"vedcore=={vedcore.__version__}"
    lines = str(plan).splitlines()
    assert [line.split()[0] for line in lines] == ["encoder", "projector", "decoder", "token", "parameters", "caches"]
    for figure in (
        "vit_base_patch16_224",
        "85,798,656",
        "224 x 224",
        "197 tokens",
        "768 -> 768",
        "152,806,656",
        "50,257",
        "1024",
        "start 50256, eos 50256, pad 50256",
        "238,605,312",
        "954.4 MB",
        "14.5 MB",
        "73.7 kB",
        "float32",
    ):
        assert figure in str(plan)


def test_half_the_bytes_half_the_plan() -> None:
    single, half = (vedcore.plan(VIT, GPT2, dtype=dtype) for dtype in ("float32", torch.bfloat16))
    assert half.dtype == "bfloat16"
    for field in ("weight_bytes", "cache_bytes_per_image", "cache_bytes_per_token"):
        assert getattr(single, field) == 2 * getattr(half, field)


def test_what_is_planned_is_what_is_built() -> None:
    for options in ({}, {"projector": "mlp"}, {"tokenizer": "byte"}, {"image_size": (32, 16)}):
        decoder = without(BERT, "vocab_size")
        plan, model = vedcore.plan(VIT, decoder, **options), vedcore.compose(VIT, decoder, **options)
        assert plan.parameters == count(model)
        assert plan.weight_bytes == sum(t.nbytes for t in model.parameters())
        assert plan.token_ids == model.token_ids
        assert plan.vocab_size == model.decoder.vocab_size
        encoded = model.encode(torch.zeros(1, 3, *plan.image_size))
        assert encoded.last_hidden_state.shape == (1, plan.image_tokens, plan.encoder.hidden_size)
        cache = model(encoder_outputs=encoded, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long)).past_key_values
        assert plan.cache_bytes_per_image == sum(t.nbytes for layer in cache.layers for t in layer.cross)


def test_planning_allocates_nothing_and_draws_nothing() -> None:
    vedcore.plan("vit", "gpt2")
    state = torch.get_rng_state()
    code = """
        import resource, vedcore
        vedcore.plan("vit_tiny_patch16_224", "distilgpt2")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(3):
            vedcore.plan("vit_giant_patch14_224", "gpt2-xl")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 * 1024  # kB, of 10 GB of weights
    vedcore.plan("vit", "gpt2")
    assert torch.equal(torch.get_rng_state(), state)


# -- ways to say it ---------------------------------------------------------------------------------------------


def test_names_variants_and_mappings_mean_the_same() -> None:
    plans = [
        vedcore.plan("vit", "gpt2"),
        vedcore.plan("vit_base_patch16_224", "gpt2"),
        vedcore.plan({"name": "vit"}, {"name": "gpt2"}),
        vedcore.plan({"encoder": "vit", "decoder": "gpt2"}),
        vedcore.plan({"encoder": {"name": "vit"}, "decoder": {"name": "gpt2", "n_layer": 12}, "projector": "auto"}),
        vedcore.plan(vedcore.ModelConfig.parse({"encoder": {"name": "vit"}, "decoder": {"name": "gpt2"}})),
        vedcore.plan("vedcore:vit", "vedcore:gpt2"),
        vedcore.plan("vit", {"name": "gpt2-medium", "n_embd": 768, "n_layer": 12, "n_head": 12}),
        vedcore.plan("vit", {"name": "gpt2-medium", "variant": "gpt2"}),
    ]
    assert all(plan == plans[0] for plan in plans)


def test_second_words_for_fields() -> None:
    model = vedcore.compose(VIT, without(GPT2, "n_embd"), decoder_hidden_size=24)
    assert model.decoder.config.n_embd == 24
    with pytest.raises(vedcore.ConfigSchemaError, match="given twice"):
        vedcore.compose(VIT, GPT2, decoder_hidden_size=48)


def test_keywords_change_fields_of_each_side() -> None:
    model = vedcore.compose(
        VIT,
        BERT,
        projector="mlp",
        encoder_num_hidden_layers=2,
        decoder_hidden_dropout_prob=0.0,
        projector_hidden_size=17,
    )
    assert len(model.encoder.model.blocks) == 2
    assert model.decoder.config.hidden_dropout_prob == 0.0
    assert model.projector.layers[0].out_features == 17
    assert model.config.projector.name == "mlp"
    linear = vedcore.compose(VIT, {**BERT, "hidden_size": 24}, projector={"name": "linear"})
    assert linear.projector.proj.weight.shape == (24, 24)


def test_equal_widths_need_no_projector() -> None:
    assert vedcore.compose(VIT, GPT2).config.projector.name == "identity"
    assert vedcore.compose(VIT, BERT).config.projector.name == "linear"
    crossing = vedcore.compose(VIT, BERT, decoder_cross_attention_hidden_size=24)
    assert crossing.config.projector.name == "identity"
    assert crossing.decoder.layers[0].cross_attention.key.in_features == 24


@pytest.mark.parametrize(
    ("size", "pixels"), [(32, (32, 32)), ((16, 40), (16, 40)), ([16, 40], (16, 40)), (None, (16, 24))]
)
def test_image_size(size: Any, pixels: tuple[int, int]) -> None:
    model = vedcore.compose(VIT, GPT2, image_size=size)
    assert model.processor.preprocessing.image_size == pixels
    assert model.encode(torch.zeros(1, 3, *pixels)).last_hidden_state.shape[1] == 1 + pixels[0] * pixels[1] // 64
    other = vedcore.compose(vedcore.compose(VIT, GPT2).config, image_size=size)
    assert other.processor.preprocessing == model.processor.preprocessing


def test_preprocessing_that_the_encoder_cannot_see_is_refused() -> None:
    with pytest.raises(vedcore.IncompatibleError, match=r"image_size.*32 x 32.*16 x 24"):
        vedcore.compose(VIT, GPT2, preprocessing={"image_size": (32, 32)})
    model = vedcore.compose(VIT, GPT2, preprocessing={"image_size": [16, 24], "resize_mode": "pad"})
    assert model.processor.preprocessing.resize_mode == "pad"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", torch.float16, torch.float64])
def test_dtype(dtype: Any) -> None:
    model = vedcore.compose(VIT, BERT, dtype=dtype)
    expected = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {p.dtype for p in model.parameters()} == {expected}


def test_eval_mode_all_the_way_down() -> None:
    assert not any(module.training for module in vedcore.compose(VIT, BERT, projector="mlp").modules())


def test_seeds() -> None:
    torch.manual_seed(9)
    state = torch.get_rng_state()
    a, b, c = (vedcore.compose(VIT, BERT, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert same_weights(a, b)
    differ = [n for n, p in a.named_parameters() if p.std() > 0 and torch.equal(p, c.get_parameter(n))]
    assert not differ
    d = vedcore.compose(VIT, BERT)
    assert not torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    assert same_weights(d, vedcore.compose(VIT, BERT))


def test_fresh_weights_are_sane() -> None:
    model = vedcore.compose("vit_tiny_patch16_224", {"name": "gpt2", "n_layer": 2, "vocab_size": 500}, seed=0)
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        assert parameter.abs().max() < 1.1, name
        if parameter.ndim == 2 and "output" not in name and "pos" not in name:
            assert 0.015 < parameter.std() < 0.03, name


# -- tokenizers and token ids -----------------------------------------------------------------------------------


def test_tokenizers_decide_vocabulary_and_ids(tmp_path: Path) -> None:
    decoder = without(BERT, "vocab_size")
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "cat": 3, "[UNK]": 9}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary))
    words.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    words.save(str(tmp_path / "tokenizer.json"))
    for tokenizer in (words, tmp_path / "tokenizer.json", str(tmp_path / "tokenizer.json"), tmp_path):
        model = vedcore.compose(VIT, decoder, tokenizer=tokenizer)
        assert model.decoder.vocab_size == 10  # a gap is a row too
        assert model.token_ids == vedcore.TokenIds(start=1, eos=(2,), pad=0)
        assert model.processor.tokenizer.token_to_id("cat") == 3
    char = vedcore.compose(VIT, decoder, tokenizer="char")
    assert (char.decoder.vocab_size, char.token_ids) == (98, vedcore.TokenIds(start=0, eos=(1,), pad=2))
    assert char.processor(text="ab")["labels"][0].tolist()[-1] == 1
    assert vedcore.compose(VIT, decoder, tokenizer="byte").decoder.vocab_size == 259
    assert vedcore.compose(VIT, BERT, tokenizer="char").decoder.vocab_size == 150
    with pytest.raises(vedcore.IncompatibleError, match=r"98 tokens.*decoder 97"):
        vedcore.compose(VIT, BERT, tokenizer="char", decoder_vocab_size=97)
    for bad in ("chars", 3, tmp_path / "none.json"):
        with pytest.raises(vedcore.VedcoreError):
            vedcore.compose(VIT, decoder, tokenizer=bad)


def test_ids_that_a_tokenizer_lacks_are_not_borrowed_from_the_family() -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "</s>": 2}))
    model = vedcore.compose(VIT, without(BERT, "vocab_size"), tokenizer=words)
    assert model.token_ids == vedcore.TokenIds(start=None, eos=(2,), pad=2)  # BERT's own padding id, 0, is a word here
    notes = vedcore.plan(VIT, without(BERT, "vocab_size"), tokenizer=words).notes
    assert any("no start token id" in note for note in notes)


def test_token_ids_come_from_the_decoder_where_there_is_no_tokenizer() -> None:
    assert vedcore.plan("vit", "gpt2").token_ids == vedcore.TokenIds(start=50256, eos=(50256,), pad=50256)
    assert vedcore.plan("vit", "bert").token_ids == vedcore.TokenIds(start=101, eos=(102,), pad=0)
    assert vedcore.plan("vit", "bart").token_ids == vedcore.TokenIds(start=2, eos=(2,), pad=1)
    given = vedcore.plan(VIT, GPT2, decoder_bos_token_id=4, decoder_eos_token_id=[5, 6])
    assert given.token_ids == vedcore.TokenIds(start=4, eos=(5, 6), pad=5)


def test_the_familys_ids_that_do_not_fit_are_unset_with_a_note() -> None:
    plan = vedcore.plan(VIT, GPT2)
    assert plan.token_ids == vedcore.TokenIds()
    assert len(plan.notes) == 3
    assert "gpt2's own bos_token_id 50256 is outside a vocabulary of 50: unset" in plan.notes
    assert "note        no start or eos or pad token id" in str(plan)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"decoder_bos_token_id": 50}, r"decoder\.bos_token_id: id 50 is not below vocab_size 50"),
        ({"decoder_eos_token_id": [1, 77]}, r"decoder\.eos_token_id: id 77"),
        ({"token_ids": {"start": 1, "eos": [2, 50], "pad": 0}}, r"token_ids\.eos: id 50"),
        ({"token_ids": {"begin": 1}}, "begin"),
        ({"token_ids": {"start": -1}}, r"token_ids\.start"),
        ({"token_ids": 3}, "token_ids"),
    ],
)
def test_ids_of_ones_own_must_fit(options: dict[str, Any], says: str) -> None:
    with pytest.raises(vedcore.ConfigError, match=says):
        vedcore.plan(VIT, GPT2, **options)


def test_a_new_tokenizer_brings_its_ids() -> None:
    old = vedcore.compose(VIT, BERT, token_ids={"start": 7, "eos": (8,), "pad": 9})
    assert vedcore.compose(old.config, tokenizer="char").token_ids == vedcore.TokenIds(start=0, eos=(1,), pad=2)
    both = vedcore.compose(old.config, tokenizer="char", token_ids={"start": 3, "eos": (8,), "pad": 9})
    assert both.token_ids.start == 3


# -- config files -----------------------------------------------------------------------------------------------

YAML = """
    encoder:
      name: vit
      hidden_size: 24
      num_hidden_layers: 1
      num_attention_heads: 2
      intermediate_size: 40
      patch_size: 8
      image_size: [16, 24]
    decoder:
      name: bert
      hidden_size: 36
      num_hidden_layers: 1
      num_attention_heads: 3
      intermediate_size: 40
      max_position_embeddings: 20
    tokenizer: char
    seed: 3
"""


@pytest.mark.parametrize("suffix", ["yaml", "yml", "toml", "json"])
def test_config_files(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / "model.yaml", YAML)
    expected = vedcore.compose(path)
    data = {"encoder": VIT, "decoder": without(BERT, "vocab_size"), "tokenizer": "char", "seed": 3}
    path = tmp_path / f"model.{suffix}"
    path.write_text(config_text(data, {"yml": "yaml"}.get(suffix, suffix)))
    for given in (path, str(path), data, vedcore.ModelConfig.parse(data)):
        assert same_weights(vedcore.compose(given), expected)
        assert vedcore.plan(given) == vedcore.plan(data)
    changed = vedcore.compose(path, decoder_num_hidden_layers=2, seed=4)
    assert len(changed.decoder.layers) == 2
    assert not torch.equal(changed.projector.proj.weight, expected.projector.proj.weight)


@pytest.mark.parametrize("format", ["yaml", "json", "toml"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"projector": "mlp", "projector_dropout": 0.1},
        {"dtype": "bfloat16"},
        {"tokenizer": "byte"},
        {"token_ids": {"start": 3, "eos": (4, 5), "pad": 6}},
        {"decoder": GPT2},
        {"image_size": (32, 8)},
        {
            "encoder": {
                "name": "swin",
                "embed_dim": 12,
                "depths": (1, 1),
                "num_heads": (1, 2),
                "window_size": 4,
                "patch_size": 2,
            },
            "image_size": 16,
        },
        {"preprocessing": {"image_size": (16, 24), "image_mean": (0.1, 0.2, 0.3), "resize_mode": "crop"}},
    ],
    ids=lambda options: ",".join(options) or "plain",
)
def test_the_config_written_back_gives_the_same_model(tmp_path: Path, options: dict[str, Any], format: str) -> None:
    sides = {"encoder": VIT, "decoder": without(BERT, "vocab_size"), **options}
    model = vedcore.compose(sides.pop("encoder"), sides.pop("decoder"), seed=5, **sides)
    data = model.config.model_dump(mode="json", exclude_none=format == "toml")
    path = tmp_path / f"again.{format}"
    path.write_text(config_text(data, format))
    again = vedcore.compose(path)
    assert again.config == model.config
    assert same_weights(again, model)
    assert again.token_ids == model.token_ids
    assert again.processor.preprocessing == model.processor.preprocessing
    assert (again.processor.tokenizer is None) == (model.processor.tokenizer is None)
    assert vedcore.plan(path).parameters == count(model)


@pytest.mark.parametrize(
    ("format", "lines", "says"),
    [
        ("yaml", "encoder: vit|decoder:|  name: gpt2|  n_head: 5", r":4: decoder\.n_head: 5 heads.*768"),
        (
            "yaml", "encoder: vit||decoder:|  name: bert|  hiden_size: 32",
            r":5: decoder\.hiden_size: unknown key; did you mean 'hidden_size'",
        ),
        (
            "json", '{"encoder": "vit",| "decoder": {"name": "bert",| "hidden_size": "32"}}',
            r": decoder\.hidden_size: .*integer",
        ),
        ("toml", 'encoder = "vit"|seed = -1|decoder = "gpt2"', r": seed: "),
        ("toml", 'encoder = "vit"|[decoder]|name = "gpt2"|n_layer = 0', r": decoder\.n_layer: .*1"),
        ("yaml", "encoder: vit|decodr: gpt2", r":2: decodr: unknown key; did you mean 'decoder'"),
        ("yaml", "encoder: vit", r": decoder: field required"),
        ("yaml", "decoder: gpt2", r": encoder: field required"),
        ("yaml", "encoder:|  hidden_size: 24|decoder: gpt2", r":1: encoder\.name: field required"),
        ("yaml", "encoder: zorg|decoder: gpt2", r":1: encoder: no encoder named 'zorg'"),
        ("yaml", "encoder: vit|decoder:|  name: gpt3", r":2: decoder: no decoder named 'gpt3'; did you mean 'gpt2'"),
        ("yaml", "encoder: vit_tinyy|decoder: gpt2", r":1: encoder: timm has no model 'vit_tinyy'; did you mean"),
        ("yaml", "encoder:|  name: vit|  image_size: 225|decoder: gpt2", r":3: encoder\.image_size: .*225.*16"),
        ("yaml", "encoder: 3|decoder: gpt2", r":1: encoder: a name or a mapping expected, got int"),
        ("yaml", "encoder: vit|decoder: gpt2|projector: {name: mlp, hiden: 3}", r":3: projector\.hiden: unknown key"),
        ("yaml", "encoder: vit|decoder: bert|projector:|  name: identity|  x: 1", r":5: projector\.x: unknown"),
        ("yaml", "encoder: vit|decoder: gpt2-medium|projector: identity", r":3: projector: .*768.*1024"),
        ("yaml", "encoder: vit|decoder: gpt2|token_ids:|  start: 1|  eos: [2, 60000]", r":5: token_ids\.eos: id 60000"),
        (
            "yaml", "encoder: vit|decoder: gpt2|preprocessing:|  image_size: [224, 224]|  image_std: [0, 1, 1]",
            r":5: preprocessing\.image_std: ",
        ),
        (
            "yaml", "encoder: vit|decoder: gpt2|preprocessing:|  image_size: [0, 224]",
            r":4: preprocessing\.image_size\.0: ",
        ),
        (
            "yaml", "encoder: vit|decoder:|  name: bert|  vocab_size: 90|tokenizer: char",
            r":4: decoder\.vocab_size: .*98.*90",
        ),
        ("yaml", "encoder: vit|decoder: gpt2|dtype: load", r":3: dtype: .*'float32'.*got 'load'"),
        ("yaml", "encoder: vit|decoder: {name: bert, hidden_act: os.system}", r":2: decoder\.hidden_act: .*'gelu'"),
        ("yaml", "encoder: vit|decoder: {name: bert, vocab_size: 10000000000}", r":2: decoder\.vocab_size: "),
    ],
    ids=lambda value: value if "|" in value else "",
)  # fmt: skip
def test_errors_name_file_line_and_key(tmp_path: Path, format: str, lines: str, says: str) -> None:
    path = tmp_path / f"m.{format}"
    path.write_text(lines.replace("|", "\n"))
    for make in (vedcore.plan, vedcore.compose):
        with pytest.raises(vedcore.ConfigError, match=rf"m\.{format}{says}") as refused:
            make(path)
        message = str(refused.value)
        assert len(message) <= 300
        assert "\n" not in message
        assert refused.value.path == str(path)


def test_extended_files_are_named_where_the_key_stands(tmp_path: Path) -> None:
    base = write(tmp_path / "parts" / "base.yaml", YAML.replace("name: bert", "name: bert\n      hiden: 3"))
    path = write(tmp_path / "mine.yaml", "extends: parts/base.yaml\ndecoder:\n  num_hidden_layers: 2\n")
    with pytest.raises(vedcore.ConfigSchemaError, match=r"base\.yaml:11: decoder\.hiden: unknown key"):
        vedcore.compose(path)
    write(base, YAML)
    model = vedcore.compose(path)
    assert len(model.decoder.layers) == 2
    assert model.config.seed == 3


def test_errors_about_options_do_not_blame_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "m.yaml", YAML)
    with pytest.raises(vedcore.ConfigSchemaError, match=r"^decoder\.hiden_size: unknown key; did you mean"):
        vedcore.compose(path, decoder_hiden_size=3)
    with pytest.raises(vedcore.UsageError, match="^tokeniser: unknown argument; did you mean 'tokenizer'"):
        vedcore.compose(path, tokeniser="char")


def test_a_tokenizer_file_is_meant_from_the_folder_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1, "<pad>": 2, "cat": 3}))
    path = write(tmp_path / "deep" / "m.yaml", YAML.replace("char", "words.json"))
    words.save(str(tmp_path / "deep" / "words.json"))
    monkeypatch.chdir(tmp_path)
    for given in (path, "deep/m.yaml"):
        model = vedcore.compose(given)
        assert model.decoder.vocab_size == 4
        assert vedcore.compose(model.config).processor.tokenizer.token_to_id("cat") == 3


# -- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sides", "options", "error", "says"),
    [
        (("vit",), {}, vedcore.UsageError, "names no decoder.*'gpt2'"),
        ((), {}, TypeError, "encoder"),
        (({"name": "vit"},), {}, vedcore.ConfigSchemaError, "name: unknown key"),
        (({"encoder": "vit"},), {}, vedcore.ConfigSchemaError, "decoder: field required"),
        (({"encoder": "vit", "decoder": "gpt2"}, "bert"), {}, vedcore.UsageError, "has a decoder already"),
        ((None, "gpt2"), {}, vedcore.ConfigSchemaError, "encoder: a name or a mapping expected, got NoneType"),
        (("vit", 3), {}, vedcore.ConfigSchemaError, "decoder: a name or a mapping expected, got int"),
        (("vit", "gpt2"), {"projector": None}, vedcore.ConfigSchemaError, "projector: a name or"),
        (("vit", "gpt2"), {"sed": 3}, vedcore.UsageError, "sed: unknown argument; did you mean 'seed'"),
        (("vit", "gpt2"), {"zorg": 1}, vedcore.UsageError, "zorg: unknown argument; there are: "),
        (("vit", "gpt2"), {"encoder_zorg": 1}, vedcore.ConfigSchemaError, r"encoder\.zorg: unknown key"),
        (("vit", "gpt2"), {"decoder_n_layers": 1}, vedcore.ConfigSchemaError, "unknown key; did you mean 'n_layer'"),
        (("missing.yaml",), {}, vedcore.ConfigParseError, r"missing\.yaml: no such file"),
        (("vit", "gpt2"), {"device": "cudaa"}, vedcore.UsageError, "device"),
        (("vit", "gpt2"), {"device": [1]}, vedcore.UsageError, "device"),
        (("vit", "gpt2"), {"token_ids": {"strat": 1}}, vedcore.ConfigSchemaError, "did you mean 'start'"),
        (("vit", "gpt2"), {"preprocessing": {}}, vedcore.ConfigSchemaError, "image_size: field required; add it"),
        (({"name": "swin", "mlp_ratio": 1e-9}, "gpt2"), {}, vedcore.ConfigSchemaError, "mlp_ratio"),
        (("vit", "gpt2"), {"dtype": "float8"}, vedcore.ConfigSchemaError, "dtype.*float32"),
        (("vit", "gpt2"), {"dtype": torch.int8}, vedcore.ConfigSchemaError, "dtype.*got 'int8'"),
        (("vit", "gpt2"), {"seed": -1}, vedcore.ConfigSchemaError, "seed"),
        (("vit", "gpt2"), {"seed": 1.5}, vedcore.ConfigSchemaError, "seed"),
        (("vit", "gpt2"), {"pretrained": "yes"}, vedcore.ConfigSchemaError, "pretrained"),
        (("vit", "gpt2"), {"image_size": 225}, vedcore.IncompatibleError, r"encoder\.image_size.*225.*16.*224"),
        (("vit", "gpt2"), {"image_size": (224, 230)}, vedcore.IncompatibleError, "width 230.*16"),
        (("vit", "gpt2"), {"image_size": 0}, vedcore.ConfigSchemaError, r"encoder\.image_size"),
        (("vit", "gpt2"), {"image_size": "224"}, vedcore.ConfigSchemaError, r"encoder\.image_size"),
        *(
            (("vit", "gpt2"), {"image_size": bad, "preprocessing": CENTRE}, vedcore.ConfigSchemaError, "image_size")
            for bad in ("224", 2.5, (1, 2, 3))
        ),
        (("vit", "gpt2"), {"encoder_patch_size": 0}, vedcore.ConfigSchemaError, r"encoder\.patch_size"),
        (("vit", "gpt2"), {"encoder_num_attention_heads": 7}, vedcore.IncompatibleError, "num_attention_heads.*768"),
        (("vit", "gpt2"), {"decoder_n_head": 5}, vedcore.IncompatibleError, r"decoder\.n_head: 5 heads.*n_embd 768"),
        (("vit", "bert"), {"decoder_num_attention_heads": 5}, vedcore.IncompatibleError, "num_attention_heads.*768"),
        (("vit", "bart"), {"decoder_decoder_attention_heads": 5}, vedcore.IncompatibleError, "5 heads.*768"),
        (("vit", "gpt2"), {"decoder_n_embd": -32}, vedcore.ConfigSchemaError, r"decoder\.n_embd: .*1.*got -32"),
        (("vit", "gpt2"), {"decoder_n_embd": 0}, vedcore.ConfigSchemaError, r"decoder\.n_embd"),
        (("vit", "gpt2"), {"decoder_n_layer": -1}, vedcore.ConfigSchemaError, r"decoder\.n_layer"),
        (("vit", "gpt2"), {"decoder_vocab_size": 0}, vedcore.ConfigSchemaError, r"decoder\.vocab_size"),
        (("vit", "gpt2"), {"decoder_resid_pdrop": 1.5}, vedcore.ConfigSchemaError, r"decoder\.resid_pdrop"),
        (("vit", "gpt2"), {"decoder_resid_pdrop": float("nan")}, vedcore.ConfigSchemaError, r"decoder\.resid_pdrop"),
        (("vit", "gpt2"), {"decoder_activation_function": "__import__"}, vedcore.ConfigSchemaError, "gelu"),
        *(
            (("vit", "gpt2"), {"decoder_n_embd": bad}, vedcore.ConfigSchemaError, r"decoder\.n_embd")
            for bad in ("32", 32.0, True, None, [], {})
        ),
        (("vit", "gpt2-medium"), {"projector": "identity"}, vedcore.IncompatibleError, "projector.*768.*1024"),
        (("vit", "gpt2"), {"projector": "identity", "projector_x": 1}, vedcore.ConfigSchemaError, r"projector\.x"),
        (("vit", "gpt2"), {"projector": "perceiver"}, vedcore.UnknownComponentError, "no projector named 'perceiver'"),
        (("vitt", "gpt2"), {}, vedcore.UnknownComponentError, "no encoder named 'vitt'; did you mean 'vit'"),
        (("vit", "zorg"), {}, vedcore.UnknownComponentError, "decoder: no decoder named 'zorg'"),
        (("vit", {"name": "gpt2", "variant": "gpt2-huge"}), {}, vedcore.UnknownComponentError, "gpt2-huge"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_refused_with_a_reason(sides: Any, options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as refused:
        vedcore.compose(*sides, **options)
    assert len(str(refused.value)) <= 300
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def warm() -> None:
    for encoder in ("vit", "swin", "timm/resnet18"):
        vedcore.plan(encoder, "gpt2")
    vedcore.plan("vit", "bert")


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    ("encoder", "decoder", "options"),
    [
        ("vit", "gpt2", {"encoder_hidden_size": 10**9}),
        ("vit", "gpt2", {"image_size": 10**7}),
        ("swin", "gpt2", {"image_size": 10**7}),
        ("timm/resnet18", "gpt2", {"image_size": 10**7}),
        ("vit", "gpt2", {"image_size": (16000, 16000), "encoder_patch_size": 1}),
        ("vit", "gpt2", {"decoder_n_positions": 2**62}),
        ("vit", "gpt2", {"decoder_vocab_size": 10**10}),
        ("vit", "gpt2", {"decoder_vocab_size": 2**63 - 1}),
        ("vit", "gpt2", {"decoder_vocab_size": 10**5000}),
        ("vit", "gpt2", {"decoder_n_embd": 2**40, "decoder_vocab_size": 2**40}),
        ("vit", "gpt2", {"decoder_n_embd": 2**20, "decoder_vocab_size": 2**24, "decoder_n_head": 1}),
        ("vit", "gpt2", {"decoder_n_embd": 2**20, "decoder_n_layer": 1024, "decoder_n_head": 1}),
        ("vit", "gpt2", {"decoder_n_head": 10**9}),
        ("vit", "gpt2", {"decoder_n_layer": 10**9}),
        ("vit", "bert", {"decoder_hidden_size": 2**20, "decoder_num_attention_heads": 1}),
        ("vit", "bert", {"decoder_hidden_size": 2**20 * 3, "decoder_num_attention_heads": 1}),
        ("vit", "bert", {"decoder_type_vocab_size": 2**40}),
        ("vit", "gpt2", {"projector": "mlp", "projector_hidden_size": 2**40}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_absurd_sizes_are_refused_at_once(encoder: str, decoder: str, options: dict[str, Any]) -> None:
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(vedcore.ConfigLimitError) as refused:
        vedcore.compose(encoder, decoder, **options)
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(str(refused.value)) <= 300
    assert seconds < 5  # 0.1 on its own; building what was asked for would take minutes
    assert peak < 8e6


def test_names_import_nothing_and_are_shown_short() -> None:
    vedcore.plan("vit", "gpt2")
    modules = set(sys.modules)
    for name in (
        "os:system",
        "a.b.C",
        "",
        "subprocess",
        "vedcore.composer:compose",
        "../../x",
        "__class__",
        "timm/__class__",
        "timm/os.system",
        "vit:os",
        "x" * 11_000,
        "\x1b[31mred",
        "a\nb",
        "vit\0",
        "timm/",
        "/etc/passwd",
        "timm/hf-hub:nobody/nothing",
        "timm/local-dir:/etc",
    ):
        for sides in ((name, "gpt2"), ("vit", name)):
            with pytest.raises(vedcore.ConfigError) as refused:
                vedcore.compose(*sides)
            assert len(str(refused.value)) <= 300
            assert str(refused.value).isprintable()
    assert {m for m in set(sys.modules) - modules if m.partition(".")[0] not in ("timm", "torch")} == set()


# -- parts of third parties -------------------------------------------------------------------------------------


class Encoder(vedcore.VisionEncoder):
    """The smallest encoder: one token an image."""

    config_class = EncoderConfig
    loose = False
    width = 6
    gives: Any = None

    def __init__(self, config: EncoderConfig, pretrained: bool = False) -> None:
        super().__init__()
        self.config, self.hidden_size = config, self.width
        self.preprocessing = vedcore.Preprocessing(image_size=(4, 4))
        self.proj = nn.Linear(3, 6)
        if self.loose:
            self.table = torch.zeros(3)

    def num_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        return 1

    def forward(self, pixel_values: Tensor, *args: Any, **kwargs: Any) -> Any:
        states = self.proj(pixel_values.mean((2, 3)))[:, None]
        return vedcore.EncoderOutput(states) if self.gives is None else self.gives(states)


class Blind(vedcore.TextDecoder):
    """A language model that cannot see."""

    config_class = DecoderConfig
    cross_attention_size = 0

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config, self.hidden_size, self.vocab_size, self.max_positions = config, 6, config.vocab_size, None
        self.table = nn.Embedding(config.vocab_size, 6)
        self.output = nn.Linear(6, config.vocab_size)

    def embed(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        return embeddings

    def head(self, hidden_states: Tensor) -> Tensor:
        out: Tensor = self.output(hidden_states)
        return out

    def get_input_embeddings(self) -> nn.Embedding:
        return self.table

    def get_output_embeddings(self) -> nn.Linear:
        return self.output


class Pool(vedcore.Projector):
    """Half as many tokens, or so it says."""

    config_class = ProjectorConfig
    says = 2

    def __init__(self, config: ProjectorConfig, in_features: int, out_features: int) -> None:
        super().__init__()
        self.config, self.in_features, self.out_features = config, in_features, out_features
        self.proj = nn.Linear(in_features, out_features)

    def forward(self, hidden_states: Tensor) -> Tensor:
        out: Tensor = self.proj(hidden_states[:, ::2])
        return out

    def num_tokens(self, tokens: int) -> int:
        return -(-tokens // self.says)

    def project_mask(self, attention_mask: Tensor) -> Tensor:
        return attention_mask[:, ::2]


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``foreign(Encoder, loose=True)``: a class of another distribution, found as ``theirs``."""
    real = resolve.load_component

    def register(base: type, **attributes: Any) -> None:
        cls = type(base.__name__, (base,), attributes)
        entry = Entry("theirs", "their_package:Part", owner=Owner("vedcore-theirs", "1.2"))

        def load(kind: Any, name: str, recorded: str | None = None) -> tuple[Any, Resolved]:
            return (cls, Resolved(entry, None)) if name == "theirs" else real(kind, name, recorded)

        monkeypatch.setattr(resolve, "load_component", load)
        monkeypatch.setattr(resolve, "registry", lambda: SimpleNamespace(shown_name=lambda kind, entry: entry.name))

    return register


def test_parts_of_others_compose(foreign: Any) -> None:
    foreign(Encoder)
    model = vedcore.compose("theirs", GPT2)
    assert model.config.plugins["encoder"] == "vedcore-theirs==1.2"
    ids = torch.zeros(2, 3, dtype=torch.long)
    assert model(torch.zeros(2, 3, 4, 4), decoder_input_ids=ids).logits.shape == (2, 3, 50)
    foreign(Pool)
    plan, model = (make(VIT, GPT2, projector="theirs") for make in (vedcore.plan, vedcore.compose))
    assert plan.image_tokens == 4  # of 7
    mask = torch.ones(1, 7)
    mask[0, 3:] = 0
    given = {"decoder_input_ids": torch.zeros(1, 2, dtype=torch.long), "encoder_attention_mask": mask}
    out = model(torch.zeros(1, 3, 16, 24), **given, output_attentions=True)
    assert out.cross_attentions[0].shape[-1] == 4
    assert out.cross_attentions[0][..., 2:].abs().max() == 0


@pytest.mark.parametrize(
    ("base", "attributes", "says"),
    [
        (Encoder, {"loose": True}, "tensor table is neither a parameter nor a buffer; use register_buffer"),
        (Encoder, {"width": 7}, r"gives \(1, 1, 6\), but publishes \(1, 1, 7\)"),
        (Encoder, {"gives": lambda self, x: x}, "AttributeError"),
        (Encoder, {"gives": lambda self, x: vedcore.EncoderOutput(x @ x)}, "forward fails: "),
        (Encoder, {"forward": nn.Module.forward}, "has no forward"),
        (Encoder, {"__init__": lambda self, config, pretrained=False: 1 / 0}, "does not build: ZeroDivisionError"),
        (Blind, {}, "no cross-attention: it would not see the image"),
        (Blind, {"cross_attention_size": 6}, "forward fails: "),
        (Pool, {"says": 3}, r"gives \(1, 8, 24\), but publishes \(1, 6, 24\)"),
    ],
)
def test_bad_parts_of_others_are_refused_by_name(
    foreign: Any, base: type, attributes: dict[str, Any], says: str
) -> None:
    foreign(base, **attributes)
    sides = {Encoder: ("theirs", GPT2), Blind: (VIT, {"name": "theirs", "vocab_size": 9}), Pool: (VIT, GPT2)}[base]
    with pytest.raises(vedcore.VedcoreError, match=says) as refused:
        vedcore.compose(*sides, projector="theirs" if base is Pool else "auto")
    assert isinstance(refused.value, (vedcore.IncompatibleError, vedcore.PluginContractError))
    assert "theirs" in str(refused.value)
    assert len(str(refused.value)) <= 300


def test_parts_that_need_numbers_are_not_refused(foreign: Any) -> None:
    def gives(self: Any, states: Tensor) -> Any:
        return vedcore.EncoderOutput(states if states.sum().item() < 1e9 else -states)

    foreign(Encoder, gives=gives)
    assert vedcore.compose("theirs", GPT2).encoder.hidden_size == 6
