"""Adapters that PEFT trained on models of transformers or of ours load into ours: they compute and write the same."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import vedcore
from tests.checkpoints.test_transformers import PAIRS, assert_same, made, opened
from tests.model.tiny import close, ids, spread, tiny

PIXELS = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
LAYERS = (nn.Linear, nn.Conv2d)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::RuntimeWarning:peft")


def randomised(model: Any, **options: Any) -> Any:
    """The model in a PeftModel, with adapters that matter."""
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(init_lora_weights=False, **options)).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
            elif parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    return wrapped


def linear_layers(model: nn.Module, *, other_than: Any = ()) -> list[str]:
    """Names of all layers that LoRA takes, but for an output layer that is tied."""
    out = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    named = [(n, m) for n, m in model.named_modules() if isinstance(m, LAYERS) or type(m).__name__ == "Conv1D"]
    return [n for n, m in named if m is not out and "pooler" not in n and not n.endswith(other_than or "\n")]


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_adapters_of_transformers(encoder: str, decoder: str, tmp_path: Path) -> None:
    theirs = made(encoder, decoder)
    theirs.save_pretrained(tmp_path / "base")
    head = ("predictions.decoder", "lm_head", "lm_head.decoder", "output_projection")
    names = linear_layers(theirs, other_than=head)
    adapted = randomised(theirs, target_modules=names, r=3, lora_alpha=2)
    adapted.save_pretrained(tmp_path / "adapters")
    ours = opened(tmp_path / "base")
    assert ours.load_adapter(tmp_path / "adapters") is ours
    assert_same(ours, adapted.merge_and_unload())


SOME = {
    "bert": ["query", "value"],
    "gpt2": r"decoder\..*\.(c_attn|q_attn|c_proj)",
    "trocr": ["q_proj", "v_proj", "fc1"],
}
VARIETIES: dict[str, dict[str, Any]] = {
    "few": {},
    "rank-stabilised": {"use_rslora": True, "r": 5, "lora_alpha": 3},
    "patterns": {"rank_pattern": {r"layer\.1\..*query": 2, "q_proj": 1}, "alpha_pattern": {r"h\.0\.attn\.c_attn": 20}},
    "all biases": {"bias": "all"},
    "own biases": {"bias": "lora_only"},
    "biases of adapters": {"lora_bias": True},
    "projector": {"modules_to_save": ["enc_to_dec_proj"]},
    "cross-attention": {"modules_to_save": ["crossattention", "encoder_attn"]},
}


@pytest.mark.parametrize("variety", VARIETIES)
@pytest.mark.parametrize("decoder", SOME)
def test_what_peft_can_vary(decoder: str, variety: str, tmp_path: Path) -> None:
    encoder = "vit" if "lora_bias" in VARIETIES[variety] else "vit-wide"  # whose widths differ, and without biases
    theirs = made(encoder, decoder)
    theirs.save_pretrained(tmp_path / "base")
    adapted = randomised(theirs, target_modules=SOME[decoder], **VARIETIES[variety])
    adapted.save_pretrained(tmp_path / "adapters")
    assert_same(opened(tmp_path / "base").load_adapter(tmp_path / "adapters"), adapted.merge_and_unload())


@pytest.mark.parametrize("task", [None, "SEQ_2_SEQ_LM"])
@pytest.mark.parametrize("decoder", ["gpt2", "bert", "trocr"])
def test_adapters_of_ours(decoder: str, task: str | None, tmp_path: Path) -> None:
    base = tiny(decoder)
    spread(base, 3)
    model = copy.deepcopy(base)
    model.prepare_inputs_for_generation = None  # PEFT's class for the task looks for it
    adapted = randomised(model, target_modules=["query", "value", "qkv", "proj"], task_type=task)
    adapted.save_pretrained(tmp_path)
    base.generate(PIXELS, max_new_tokens=2)  # its weights are laid out for writing
    base.load_adapter(tmp_path)
    text = ids(2)
    with torch.no_grad():
        due = model(PIXELS, decoder_input_ids=text).logits
        close(base(PIXELS, decoder_input_ids=text).logits, due)
    assert base.generate(PIXELS, max_new_tokens=9).tolist() == model.generate(PIXELS, max_new_tokens=9).tolist()


def test_peft_itself_opens_what_we_load(tmp_path: Path) -> None:
    base = tiny("bert")
    spread(base, 3)
    randomised(copy.deepcopy(base), target_modules=["query", "dense", "qkv"]).save_pretrained(tmp_path)
    further: Any = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path), is_trainable=True)
    further.train()(pixel_values=PIXELS, labels=ids(2)).loss.backward()
    assert {name for name, p in further.named_parameters() if p.grad is not None and "lora_" in name}
    merged = further.eval().merge_and_unload()
    base.load_adapter(tmp_path)
    for (name, a), b in zip(base.state_dict().items(), merged.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_adapters_of_a_part(part: str, tmp_path: Path) -> None:
    """Of a part alone, whether it is ours or transformers'."""
    theirs = made("vit", "bert")
    theirs.save_pretrained(tmp_path / "base")
    ours, again = opened(tmp_path / "base"), opened(tmp_path / "base")
    names = ["query", "value", "q_proj", "v_proj"]
    wrapped = randomised(getattr(theirs, part), target_modules=names)
    wrapped.save_pretrained(tmp_path / "theirs")
    setattr(theirs, part, wrapped.merge_and_unload())
    assert_same(ours.load_adapter(tmp_path / "theirs"), theirs)

    mine = randomised(copy.deepcopy(getattr(again, part)), target_modules=["query", "qkv"])
    mine.save_pretrained(tmp_path / "ours")
    again.load_adapter(tmp_path / "ours")
    for (name, a), b in zip(
        getattr(again, part).state_dict().items(), mine.merge_and_unload().state_dict().values(), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-6), name


def test_injected_adapters(tmp_path: Path) -> None:
    base = tiny("bert")
    config = peft.LoraConfig(target_modules=["query"], init_lora_weights=False)
    adapted: Any = peft.inject_adapter_in_model(config, copy.deepcopy(base)).eval()
    config.save_pretrained(tmp_path)
    save_file(peft.get_peft_model_state_dict(adapted), tmp_path / "adapter_model.safetensors")
    base.load_adapter(tmp_path)
    with torch.no_grad():
        due = adapted(PIXELS, decoder_input_ids=ids(2)).logits
        close(base(PIXELS, decoder_input_ids=ids(2)).logits, due)


TABLES = {"bert": "word_embeddings", "gpt2": "wte", "trocr": "embed_tokens"}
HEADS = {"bert": "predictions.decoder", "gpt2": "lm_head", "trocr": "output_projection"}


@pytest.mark.filterwarnings("ignore")  # PEFT warns of tied layers
@pytest.mark.parametrize("which", [TABLES, HEADS], ids=["embedding", "output"])
@pytest.mark.parametrize("decoder", TABLES)
def test_a_tied_weight_is_adapted_in_one_place(decoder: str, which: Any, tmp_path: Path) -> None:
    theirs = made("vit", decoder)
    theirs.save_pretrained(tmp_path / "base")
    adapted = randomised(theirs, target_modules=[which[decoder]])
    adapted.save_pretrained(tmp_path / "adapters")
    ours = opened(tmp_path / "base")
    before = ours.decoder.get_input_embeddings().weight.clone()
    ours.load_adapter(tmp_path / "adapters")
    assert torch.equal(ours.decoder.get_input_embeddings().weight, before) == (which is HEADS)
    assert_same(ours, adapted)  # not merged: merging changes both in transformers
    assert ours.decoder.config.tie_word_embeddings is False
    for format in ("native", "transformers"):
        ours.save_pretrained(tmp_path / format, format=format)
        assert_same(opened(tmp_path / format), adapted)


@pytest.mark.filterwarnings("ignore")
def test_a_tied_weight_that_is_adapted_in_both_places_alike_stays_tied(tmp_path: Path) -> None:
    base = tiny("gpt2")
    spread(base, 1)
    adapted = randomised(copy.deepcopy(base), target_modules=["embedding", "query"])
    adapted.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    down, up = (tensors[f"base_model.model.decoder.embedding.lora_embedding_{end}"] for end in "AB")
    prefix = "base_model.model.decoder.output.lora_"
    save_file({**tensors, f"{prefix}A.weight": up.t().contiguous(), f"{prefix}B.weight": down.t().contiguous()}, file)
    base.load_adapter(tmp_path)
    assert base.decoder.output.weight is base.decoder.embedding.weight
    assert base.decoder.config.tie_word_embeddings
    merged = adapted.merge_and_unload()
    assert torch.allclose(base.decoder.embedding.weight, merged.decoder.embedding.weight, atol=1e-6)


def test_a_pickle(tmp_path: Path) -> None:
    base = tiny("bert")
    adapted = randomised(copy.deepcopy(base), target_modules=["query"])
    adapted.save_pretrained(tmp_path, safe_serialization=False)
    assert not (tmp_path / "adapter_model.safetensors").exists()
    base.load_adapter(tmp_path)
    due = adapted.merge_and_unload().state_dict()
    assert all(torch.allclose(due[name], tensor, atol=1e-6) for name, tensor in base.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_types_stay(dtype: torch.dtype, tmp_path: Path) -> None:
    base = tiny("bert")
    adapted = randomised(copy.deepcopy(base), target_modules=["query"])
    adapted.save_pretrained(tmp_path)
    base.to(dtype).load_adapter(tmp_path)
    assert {p.dtype for p in base.parameters()} == {dtype}
    due = adapted.merge_and_unload().state_dict()
    tolerance = 1e-6 if dtype == torch.float64 else 0.02
    assert all(torch.allclose(due[n], t.float(), atol=tolerance) for n, t in base.state_dict().items())


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    randomised(tiny("bert"), target_modules=["query", "value"]).save_pretrained(tmp_path)
    return tmp_path


def edit(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "peft_type: .*IA3"),
        ({"peft_type": None}, "peft_type"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights.*pissa"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"later_field": 3}, "later_field"),
        ({"r": "8"}, "r: "),
        ({"rank_pattern": {"query": 0}}, "rank_pattern"),
        ({"target_modules": "("}, "not a regular expression"),
        ({"target_modules": "(?!encoder).*"}, "negative lookahead"),
        ({"rank_pattern": {"(.*a){9000}": 4}}, "states|deeply|large"),
        ({"r": 4}, r"wrong shape.*\[8, 36\] instead of \[4, 36\]"),
    ],
)
def test_other_adapters_are_refused_by_name(adapters: Path, fields: dict[str, Any], match: str) -> None:
    model = tiny("bert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    edit(adapters, **fields)
    with pytest.raises(vedcore.VedcoreError, match=match):
        model.load_adapter(adapters)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", ["IA3Config", "LoHaConfig", "LoKrConfig", "VeraConfig", "OFTConfig"])
def test_other_methods_of_peft(kind: str, tmp_path: Path) -> None:
    more = {"feedforward_modules": []} if kind == "IA3Config" else {}
    config = getattr(peft, kind)(target_modules=["self_attention.query"], **more)
    peft.get_peft_model(tiny("bert"), config).save_pretrained(tmp_path)
    with pytest.raises(vedcore.IncompatibleError, match=f"peft_type.*{config.peft_type.value}"):
        tiny("bert").load_adapter(tmp_path)


def test_dora(tmp_path: Path) -> None:
    randomised(tiny("bert"), target_modules=["query"], use_dora=True).save_pretrained(tmp_path)
    with pytest.raises(vedcore.IncompatibleError, match="use_dora"):
        tiny("bert").load_adapter(tmp_path)


def test_tensors_are_all_found(adapters: Path) -> None:
    file = adapters / "adapter_model.safetensors"
    tensors = load_file(file)
    model = tiny("bert")
    name = "base_model.model.decoder.layers.1.cross_attention.query.lora_A.weight"
    pair = (name, name.replace("lora_A", "lora_B"))
    for lacking in ((name,), pair):
        save_file({key: tensor for key, tensor in tensors.items() if key not in lacking}, file)
        with pytest.raises(vedcore.CheckpointMismatchError, match=r"1 missing.*layers\.1\.cross_attention"):
            model.load_adapter(adapters)
    save_file({key.replace("layers.1.", "layer.1."): tensor for key, tensor in tensors.items()}, file)
    with pytest.raises(vedcore.CheckpointMismatchError, match=r"missing.*unexpected.*nearest"):
        model.load_adapter(adapters)
    save_file({**tensors, "base_model.model.decoder.layers.7.mlp.input.lora_A.weight": torch.zeros(8, 36)}, file)
    with pytest.raises(vedcore.CheckpointMismatchError, match=r"1 unexpected: .*layers\.7\.mlp"):
        model.load_adapter(adapters)
    save_file({}, file)
    with pytest.raises(vedcore.CheckpointMismatchError, match="missing"):
        model.load_adapter(adapters)
    save_file({**tensors, name: tensors[name] * float("nan")}, file)
    with pytest.raises(vedcore.NonFiniteError, match=r"layers\.1"):
        model.load_adapter(adapters)
    save_file(tensors, file)
    with pytest.raises(vedcore.CheckpointMismatchError, match="of a wrong shape"):
        tiny("gpt2").load_adapter(adapters)


@pytest.mark.parametrize(("encoder", "decoder"), [("vit", "bert"), ("swin", "gpt2"), ("beit", "trocr")])
def test_a_layer_of_transformers_that_is_missing(encoder: str, decoder: str, tmp_path: Path) -> None:
    theirs = made(encoder, decoder)
    theirs.save_pretrained(tmp_path / "base")
    adapted = randomised(theirs, target_modules=["query", "q_proj", "c_attn"])
    adapted.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    for lost in {name.partition(".lora_")[0] for name in tensors}:
        save_file({name: t for name, t in tensors.items() if not name.startswith(f"{lost}.lora")}, file)
        with pytest.raises(vedcore.CheckpointMismatchError, match="1 missing"):
            opened(tmp_path / "base").load_adapter(tmp_path)


def test_a_folder_without_adapters(tmp_path: Path) -> None:
    model = tiny("bert")
    with pytest.raises(vedcore.CheckpointNotFoundError, match="no such folder"):
        model.load_adapter(tmp_path / "none")
    with pytest.raises(vedcore.CheckpointNotFoundError, match=r"no adapter_config\.json"):
        model.load_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(vedcore.CheckpointNotFoundError, match=r"adapter_model\.safetensors"):
        model.load_adapter(tmp_path)


def test_a_model_with_adapters_takes_no_others(adapters: Path) -> None:
    wrapped = peft.get_peft_model(tiny("bert"), peft.LoraConfig(target_modules=["query"]))
    with pytest.raises(vedcore.IncompatibleError, match="not merged.*merge_and_unload"):
        wrapped.base_model.model.load_adapter(adapters)


def test_two_adapters_add_up(adapters: Path) -> None:
    once, twice = tiny("bert").load_adapter(adapters), tiny("bert").load_adapter(adapters).load_adapter(adapters)
    plain = tiny("bert").state_dict()
    for name, tensor in once.state_dict().items():
        assert torch.allclose(twice.state_dict()[name] - plain[name], 2 * (tensor - plain[name]), atol=1e-5)
