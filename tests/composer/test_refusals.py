"""Requests that are refused: by which error, with which reason, and before anything large is built."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import pytest
import torch

import vedcore
from tests.counting import steps

CENTRE = {"image_size": (224, 224), "resize_size": (256, 256), "do_center_crop": True}


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
def plan_steps() -> dict[tuple[str, str], int]:
    """Steps of planning a pair in its default sizes, once all that it needs is imported."""
    pairs = [("vit", "gpt2"), ("swin", "gpt2"), ("timm/resnet18", "gpt2"), ("vit", "bert")]
    for pair in pairs:
        vedcore.plan(*pair)
    return {pair: steps(lambda pair=pair: vedcore.plan(*pair)) for pair in pairs}


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
def test_absurd_sizes_are_refused_before_anything_is_built(
    plan_steps: dict[tuple[str, str], int], encoder: str, decoder: str, options: dict[str, Any]
) -> None:
    """In less memory than a small model, and in fewer steps than a plan of the default sizes."""

    def refuse() -> None:
        with pytest.raises(vedcore.ConfigLimitError) as refused:
            vedcore.compose(encoder, decoder, **options)
        assert len(str(refused.value)) <= 300

    tracemalloc.start()
    try:
        refuse()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6
    assert steps(refuse) < plan_steps[encoder, decoder]


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
