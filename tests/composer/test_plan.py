"""Plans: sizes of the real variants, the figures of a plan, and that `compose` builds what was planned."""

from __future__ import annotations

import json
import subprocess
import sys
from textwrap import dedent
from typing import Any

import pytest
import timm
import torch
import transformers

import vedcore
from tests.composer.tiny import BERT, GPT2, VIT, count, without

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
    "xlm-roberta": ("XLMRoberta", {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1}),
    "camembert": ("Camembert", {"vocab_size": 32005, "max_position_embeddings": 514, "type_vocab_size": 1}),
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
@pytest.mark.parametrize(
    "decoder", ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "gpt2", "bart", "mbart", "trocr"]
)
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


def test_the_figures_of_a_plan() -> None:
    plan = vedcore.plan("vit", "gpt2")
    assert plan.model_dump(include={"parameters", "fresh_parameters", "weight_bytes", "cache_bytes_per_image"}) == {
        "parameters": 238_605_312,
        "fresh_parameters": 238_605_312,
        "weight_bytes": 954_421_248,
        "cache_bytes_per_image": 2 * 12 * 768 * 197 * 4,
    }
    assert plan.cache_bytes_per_token == 2 * 12 * 768 * 4
    assert plan.draft_bytes == 768 * (50257 + 12 * (3 + 1 + 2 + 8) * 768)
    assert json.loads(json.dumps(plan.model_dump())) == plan.model_dump(mode="json")
    assert plan.encoder.owner == plan.decoder.owner == f"vedcore=={vedcore.__version__}"
    lines = str(plan).splitlines()
    assert [line.split()[0] for line in lines] == [
        "encoder",
        "projector",
        "decoder",
        "token",
        "parameters",
        "caches",
        "drafts",
    ]
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
        "137.7 MB",
        "float32",
    ):
        assert figure in str(plan)


def test_half_the_bytes_half_the_plan() -> None:
    single, half = (vedcore.plan(VIT, GPT2, dtype=dtype) for dtype in ("float32", torch.bfloat16))
    assert half.dtype == "bfloat16"
    for field in ("weight_bytes", "cache_bytes_per_image", "cache_bytes_per_token"):
        assert getattr(single, field) == 2 * getattr(half, field)
    assert not half.draft_bytes


def test_a_plan_is_what_compose_builds() -> None:
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
