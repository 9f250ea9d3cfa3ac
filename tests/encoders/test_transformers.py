"""Checkpoints of transformers' encoders open as ours with the same states, and ours open in transformers."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vedcore.components import VisionEncoder
from vedcore.errors import CheckpointMismatchError, ConfigSchemaError, IncompatibleError
from vedcore.transformers_class import TransformersClass, class_for
from vedcore.weights.keymap import to_ours, to_theirs
from vedcore_encoders.beit import BeitEncoder
from vedcore_encoders.deit import DeiTEncoder
from vedcore_encoders.swin import SwinEncoder
from vedcore_encoders.vit import ViTEncoder

OURS: dict[str, Any] = {
    "vit": ViTEncoder,
    "deit": DeiTEncoder,
    "beit": BeitEncoder,
    "swin": SwinEncoder,
    "donut-swin": SwinEncoder,
}
FIELDS = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 37,
    "patch_size": 8,
    "image_size": 24,
}
SWIN = {"embed_dim": 6, "depths": [2, 3], "num_heads": [2, 3], "window_size": 3, "patch_size": 2, "image_size": 24}
ABS, REL = "use_absolute_position_embeddings", "use_relative_position_bias"
SHARED = "use_shared_relative_position_bias"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit", FIELDS),
    "vit, other settings": (
        "vit",
        {
            **FIELDS,
            "num_attention_heads": 4,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-3,
            "qkv_bias": False,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.2,
        },
    ),
    "vit, rectangles": ("vit", {**FIELDS, "image_size": [24, 40], "patch_size": [8, 4], "hidden_act": "quick_gelu"}),
    "vit, one layer": ("vit", {**FIELDS, "num_hidden_layers": 1, "hidden_act": "relu", "image_size": [16, 8]}),
    "deit": ("deit", {**FIELDS, "hidden_act": "silu"}),
    "deit, rectangles": ("deit", {**FIELDS, "image_size": [40, 24], "layer_norm_eps": 1e-4, "qkv_bias": False}),
    "beit": ("beit", FIELDS),
    "beit, absolute": ("beit", {**FIELDS, ABS: True, "hidden_act": "gelu_new", "drop_path_rate": 0.0}),
    "beit, relative": ("beit", {**FIELDS, REL: True, "use_mean_pooling": False, "image_size": 32}),
    "beit, shared": ("beit", {**FIELDS, SHARED: True, "layer_scale_init_value": 0.5, "use_mask_token": True}),
    "beit, everything": (
        "beit",
        {
            **FIELDS,
            ABS: True,
            REL: True,
            SHARED: True,
            "use_mean_pooling": False,
            "num_attention_heads": 2,
        },
    ),
    "beit, no scale": ("beit", {**FIELDS, REL: True, "layer_scale_init_value": 0.0, "layer_norm_eps": 1e-3}),
    "beit, rectangle": ("beit", {**FIELDS, "image_size": [16, 40], "patch_size": [8, 4]}),
    "swin": ("swin", SWIN),
    "swin, odd windows": ("swin", {**SWIN, "window_size": 5, "image_size": [20, 44], "use_absolute_embeddings": True}),
    "swin, other settings": (
        "swin",
        {
            **SWIN,
            "depths": [1, 2, 1],
            "num_heads": [1, 2, 4],
            "mlp_ratio": 2.7,
            "qkv_bias": False,
            "hidden_act": "gelu_fast",
            "layer_norm_eps": 1e-3,
            "drop_path_rate": 0.0,
        },
    ),
    "swin, patches of a rectangle": ("swin", {**SWIN, "image_size": [24, 48], "patch_size": [2, 4]}),
    "donut": ("donut-swin", SWIN),
    "donut, rectangle": ("donut-swin", {**SWIN, "image_size": [36, 20], "window_size": 5, "depths": [2, 2]}),
    "donut, other settings": (
        "donut-swin",
        {
            **SWIN,
            "qkv_bias": False,
            "hidden_act": "relu",
            "layer_norm_eps": 1e-2,
            "mlp_ratio": 3.0,
        },
    ),
}


def mapping(cls: Any, model_type: str) -> TransformersClass:
    found = class_for(cls.transformers, model_type)
    assert found is not None
    return found


def oracle(model_type: str, fields: dict[str, Any]) -> Any:
    """transformers' model as a whole model with a decoder has it, with weights that leave nothing at zero or one."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **fields)
    model = transformers.AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.2, 0.3)
    return model.eval()


def opened(folder: Path, *, silent: bool = True) -> Any:
    """The folder as one of our encoders."""
    theirs = json.loads((folder / "config.json").read_text())
    cls = OURS[theirs["model_type"]]
    row = mapping(cls, theirs["model_type"])
    with warnings.catch_warnings():
        warnings.simplefilter("error" if silent else "ignore")
        encoder: Any = cls(cls.make_config(None, row.read(theirs))).eval()
    encoder.load_state_dict(to_ours(load_file(folder / "model.safetensors"), row.key_map))
    assert row.refusal(encoder) == ""
    return encoder


def written(encoder: Any, folder: Path) -> TransformersClass:
    """One of our encoders as a folder of transformers."""
    fields = encoder.settings()
    row: TransformersClass = next(each for each in encoder.transformers if not each.refusal(encoder))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(row.write(encoder, fields)))
    state = to_theirs(encoder.state_dict(), row.key_map)
    state |= {n: t if isinstance(t, Tensor) else torch.full(*t) for n, t in row.extra(encoder).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return row


def assert_same(encoder: Any, theirs: Any, *, hidden: bool = True) -> None:
    pixels = torch.randn(2, 3, *encoder.image_size)
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True)
        out = encoder(pixels, output_hidden_states=True)
    states = [(out.last_hidden_state, expected.last_hidden_state)]
    states += zip(out.hidden_states, expected.hidden_states, strict=True) if hidden else []
    for ours, other in states:
        assert ours.shape == other.shape
        assert (ours - other).norm() <= 2e-4 * other.norm()


@pytest.mark.parametrize("era", [True, False], ids=["names of files", "names in memory"])
@pytest.mark.parametrize("case", CASES)
def test_states_both_ways(case: str, era: bool, tmp_path: Path) -> None:
    model_type, fields = CASES[case]
    theirs = oracle(model_type, fields)
    theirs.save_pretrained(tmp_path / "theirs", save_original_format=era)
    encoder = opened(tmp_path / "theirs")
    assert_same(encoder, theirs)

    row = written(encoder, tmp_path / "ours")
    again, info = getattr(transformers, row.name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    assert_same(encoder, again.eval())
    assert opened(tmp_path / "ours").settings() == encoder.settings()


@pytest.mark.parametrize("case", ["vit", "deit, rectangles", "beit, everything", "swin, other settings", "donut"])
def test_a_whole_model_of_theirs_takes_what_is_written(case: str, tmp_path: Path) -> None:
    model_type, fields = CASES[case]
    oracle(model_type, fields).save_pretrained(tmp_path / "theirs")
    encoder = opened(tmp_path / "theirs")
    row = written(encoder, tmp_path / "ours")
    config = transformers.VisionEncoderDecoderConfig(
        encoder=json.loads((tmp_path / "ours" / "config.json").read_text()),
        decoder={"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 11},
    )
    whole = transformers.VisionEncoderDecoderModel(config)
    assert type(whole.encoder).__name__ == row.name
    whole.save_pretrained(tmp_path / "whole")
    names = {
        n.removeprefix("encoder."): t
        for n, t in load_file(tmp_path / "whole" / "model.safetensors").items()
        if n.startswith("encoder.")
    }
    state = load_file(tmp_path / "ours" / "model.safetensors")
    assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in names.items()}


@pytest.mark.parametrize(
    ("model_type", "task"),
    [
        ("vit", "ViTForImageClassification"),
        ("vit", "ViTForMaskedImageModeling"),
        ("deit", "DeiTForImageClassificationWithTeacher"),
        ("deit", "DeiTForMaskedImageModeling"),
        ("beit", "BeitForImageClassification"),
        ("beit", "BeitForMaskedImageModeling"),
        ("beit", "BeitForSemanticSegmentation"),
        ("swin", "SwinForImageClassification"),
        ("swin", "SwinForMaskedImageModeling"),
        ("donut-swin", "DonutSwinForImageClassification"),
    ],
)
@pytest.mark.parametrize("era", [True, False])
def test_the_encoder_of_a_larger_model(model_type: str, task: str, era: bool, tmp_path: Path) -> None:
    fields: dict[str, Any] = SWIN if "swin" in model_type else FIELDS
    if model_type == "beit":
        fields = {**fields, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "use_mean_pooling": "Mask" not in task}
    if "MaskedImage" in task:
        fields = {**fields, "encoder_stride": 4 if model_type == "swin" else 8}
    config = transformers.AutoConfig.for_model(model_type, **fields)
    larger = getattr(transformers, task)(config).eval()
    larger.save_pretrained(tmp_path, save_original_format=era)
    cls = OURS[model_type]
    row = mapping(cls, model_type)
    assert row.base_prefix == larger.base_model_prefix
    files = load_file(tmp_path / "model.safetensors")
    inner = {n.removeprefix(f"{row.base_prefix}."): t for n, t in files.items() if n.startswith(f"{row.base_prefix}.")}
    heads = {n: t for n, t in files.items() if not n.startswith((f"{row.base_prefix}.", "layernorm."))}
    encoder: Any = cls(cls.make_config(None, row.read(json.loads((tmp_path / "config.json").read_text())))).eval()
    encoder.load_state_dict(to_ours({**inner, **heads}, row.key_map))
    assert_same(encoder, getattr(larger, row.base_prefix if model_type != "donut-swin" else "donut"))


@pytest.mark.parametrize("model_type", OURS)
def test_defaults_are_those_of_transformers(model_type: str) -> None:
    """An empty file reads as one into which transformers has written all defaults."""
    cls = OURS[model_type]
    row = mapping(cls, model_type)
    config = transformers.AutoConfig.for_model(model_type).to_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert row.read(config) == row.read({})
    known = {field.name for field in row.fields}
    fields = set(type(transformers.AutoConfig.for_model(model_type)).__annotations__)
    assert {name.lstrip("_") for name in fields} - {"model_type", "attribute_map"} <= known


def test_donut_has_no_absolute_positions() -> None:
    """transformers makes a table for one patch too many, and fails on every image."""
    fields = {**SWIN, "use_absolute_embeddings": True}
    with pytest.raises(RuntimeError):
        oracle("donut-swin", fields)(torch.zeros(1, 3, 24, 24))
    with pytest.raises(ConfigSchemaError, match="use_absolute_embeddings"):
        mapping(SwinEncoder, "donut-swin").read(fields)
    encoder = SwinEncoder(SwinEncoder.make_config(None, {**fields, "final_norm": False}))  # type: ignore[arg-type]
    for row in SwinEncoder.transformers:
        with pytest.raises(IncompatibleError, match="it always has"):
            row.write(encoder, encoder.settings())


@pytest.mark.parametrize(
    ("fields", "field"), [({"num_channels": 4}, "num_channels"), ({"pruned_heads": {"0": [1]}}, "pruned_heads")]
)
@pytest.mark.parametrize("model_type", OURS)
def test_what_cannot_be_honoured(model_type: str, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigSchemaError) as caught:
        mapping(OURS[model_type], model_type).read(fields)
    assert caught.value.field == field


def test_a_deit_without_distillation_is_written_as_a_vit(tmp_path: Path) -> None:
    cls: Any = DeiTEncoder
    encoder = cls(cls.make_config("deit_tiny_patch16_224", FIELDS)).eval()
    assert written(encoder, tmp_path / "ours").name == "ViTModel"
    assert_same(encoder, transformers.AutoModel.from_pretrained(tmp_path / "ours").eval())
    assert_same(opened(tmp_path / "ours"), transformers.AutoModel.from_pretrained(tmp_path / "ours").eval())


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        ("vit", "vit_base_patch16_224_miil"),
        ("vit", "vit_giant_patch14_224"),
        ("vit", "test_vit"),
        ("deit", "deit_small_distilled_patch16_224"),
        ("beit", "beitv2_large_patch16_224"),
        ("beit", "beit_large_patch16_512"),
        ("swin", "swin_base_patch4_window12_384"),
    ],
)
def test_variants_of_timm_give_the_same_there(family: str, variant: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small: dict[str, Any] = {"embed_dim": 8, "depths": (1, 2, 1), "num_heads": (1, 2, 4), "image_size": (192, 288)}
    if family != "swin":
        small = {name: FIELDS[name] for name in FIELDS if name != "intermediate_size"}
    encoder = OURS[family](OURS[family].make_config(variant, small)).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0.2, 0.3)
    written(encoder, tmp_path / "ours")
    theirs, info = transformers.AutoModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    assert_same(encoder, theirs.eval())


SMALLER: dict[str, dict[str, Any]] = {
    "swin": {"depths": (1, 1, 1, 1)},
    "vit": {"num_hidden_layers": 2},
    "deit": {"num_hidden_layers": 2},
    "beit": {"num_hidden_layers": 2},
}
VARIANTS = [
    (family, name)
    for family in SMALLER
    for module in OURS[family].timm_modules
    for name in timm.list_models(module=module)
]


@pytest.mark.parametrize("family", SMALLER)
def test_every_variant_is_refused_or_has_exactly_the_tensors_of_theirs(family: str) -> None:
    names = [name for each, name in VARIANTS if each == family]
    taken = []
    for name in names:
        with torch.device("meta"):
            encoder: Any = OURS[family](OURS[family].make_config(name, SMALLER[family]))
        fields = encoder.settings()
        row = next((r for r in encoder.transformers if not r.refusal(encoder)), None)
        if row is None:
            with pytest.raises(IncompatibleError, match="native"):
                encoder.transformers[0].write(encoder, fields)
            continue
        taken.append(name)
        assert None not in fields.values()
        config = row.write(encoder, fields)
        assert json.loads(json.dumps(config)) == config
        with torch.device("meta"):
            theirs = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**copy.deepcopy(config)))
        assert type(theirs).__name__ == row.name
        state = {n: torch.empty_like(t, device="meta") for n, t in encoder.state_dict().items()}
        ours: dict[str, tuple[int, ...]] = {n: tuple(t.shape) for n, t in to_theirs(state, row.key_map).items()}
        ours |= {n: t[0] for n, t in row.extra(encoder).items() if not isinstance(t, Tensor)}
        assert ours == shapes(theirs, row), name
        # what was written opens as the same model
        again = OURS[config["model_type"]].make_config(None, row.read(config))
        assert {**again.model_dump(), "variant": ""} == {**fields, "variant": ""}
    assert taken


def shapes(theirs: nn.Module, row: TransformersClass) -> dict[str, tuple[int, ...]]:
    """Names, as in files, and shapes of the tensors of transformers' model on the meta device."""
    from transformers.core_model_loading import revert_weight_conversion

    state: dict[str, Tensor] = revert_weight_conversion(theirs, theirs.state_dict())
    return {name: tuple(tensor.shape) for name, tensor in state.items() if "relative_position_index" not in name}


@pytest.mark.parametrize(
    ("cls", "variant", "fields", "reason"),
    [
        (ViTEncoder, "vit_base_patch16_reg4_gap_256", {}, "register tokens|class token"),
        (ViTEncoder, "vit_base_patch16_clip_224", {}, "norm before"),
        (ViTEncoder, "vit_base_patch16_gap_224", {}, "no class token"),
        (ViTEncoder, "vit_base_patch14_dinov2", {}, "scaled"),
        (ViTEncoder, "vit_base_patch16_rpn_224", {}, "class token|kind"),
        (ViTEncoder, "vit_base_r50_s16_224", {}, "convolution"),
        (ViTEncoder, "vit_giant_patch14_dinov2", {}, "scaled"),
        (ViTEncoder, "vit_giantopt_patch16_siglip_256", {}, "class token"),
        (ViTEncoder, "vit_base_patch16_224", {"drop_path_rate": 0.1}, "drop_path_rate"),
        (DeiTEncoder, "deit3_small_patch16_224", {}, "position"),
        (BeitEncoder, "beit_base_patch16_224", {"image_size": (32, 64)}, "rows of patches"),
        (BeitEncoder, "beit_base_patch16_224", {"qkv_bias": False}, "qkv_bias|others"),
        (SwinEncoder, "swin_s3_tiny_224", {}, "windows"),
        (SwinEncoder, "swin_tiny_patch4_window7_224", {"image_size": 64}, "windows"),
    ],
)
def test_reasons_why_an_encoder_is_not_written(
    cls: type[VisionEncoder], variant: str, fields: dict[str, Any], reason: str
) -> None:
    small = {"depths": (1, 1, 1, 1)} if cls is SwinEncoder else {"num_hidden_layers": 1}
    with torch.device("meta"):
        encoder = cls(cls.make_config(variant, {**small, **fields}))
    with pytest.raises(IncompatibleError, match=reason) as caught:
        encoder.transformers[0].write(encoder, encoder.settings())
    assert "format=" in str(caught.value)


def test_a_name_that_timm_moves_is_noticed() -> None:
    """The key maps are total: in every family, a tensor that no row names is refused."""
    for family, case in (("vit", "vit"), ("deit", "deit"), ("beit", "beit, everything"), ("swin", "swin")):
        cls, fields = OURS[family], CASES[case][1]
        row = mapping(cls, family)
        with torch.device("meta"):
            encoder = cls(cls.make_config(None, row.read(fields)))
        state = encoder.state_dict()
        theirs = to_theirs(state, row.key_map)
        assert to_ours(theirs, row.key_map).keys() == state.keys()
        for name in state:
            moved = {(f"{n}_moved" if n == name else n): t for n, t in state.items()}
            with pytest.raises(CheckpointMismatchError):
                to_theirs(moved, row.key_map)
