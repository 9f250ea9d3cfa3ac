"""Folders of transformers' VisionEncoderDecoderModel open as the same model, and are written back as such folders."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from torch import Tensor

import vedcore

ENCODERS: dict[str, Any] = {
    "vit": lambda: hf.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        image_size=32,
        patch_size=8,
        hidden_act="gelu_new",
        layer_norm_eps=1e-3,
    ),
    "vit-wide": lambda: hf.ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=17,
        image_size=[16, 48],
        patch_size=[8, 16],
        qkv_bias=False,
    ),
    "deit": lambda: hf.DeiTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        image_size=32,
        patch_size=16,
    ),
    "beit": lambda: hf.BeitConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        image_size=32,
        patch_size=8,
        use_relative_position_bias=True,
        use_mean_pooling=True,
        layer_scale_init_value=0.3,
    ),
    "beit-shared": lambda: hf.BeitConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=40,
        image_size=32,
        patch_size=8,
        use_absolute_position_embeddings=True,
        use_shared_relative_position_bias=True,
        use_mean_pooling=False,
        layer_scale_init_value=0.0,
    ),
    "swin": lambda: hf.SwinConfig(
        image_size=32,
        patch_size=2,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=3,
        mlp_ratio=2.0,
        use_absolute_embeddings=True,
    ),
    "donut": lambda: hf.DonutSwinConfig(
        image_size=[40, 24],
        patch_size=4,
        embed_dim=8,
        depths=[2, 1],
        num_heads=[1, 2],
        window_size=3,
    ),
}

CROSS = {"is_decoder": True, "add_cross_attention": True}
IDS = {"bos_token_id": 3, "eos_token_id": 4, "pad_token_id": 1}
BERT = {
    "vocab_size": 91,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
    **IDS,
    **CROSS,
}
BART = {
    "vocab_size": 91,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 40,
    **IDS,
    **CROSS,
    "max_position_embeddings": 40,
    "decoder_start_token_id": 4,
    "forced_eos_token_id": None,
}
DECODERS: dict[str, Any] = {
    "bert": lambda: hf.BertConfig(hidden_size=24, num_attention_heads=3, **BERT),
    "bert-relu": lambda: hf.BertConfig(
        hidden_size=20, num_attention_heads=2, hidden_act="relu", **BERT, tie_word_embeddings=False
    ),
    "roberta": lambda: hf.RobertaConfig(hidden_size=24, num_attention_heads=2, type_vocab_size=1, **BERT),
    "gpt2": lambda: hf.GPT2Config(vocab_size=91, n_embd=24, n_layer=2, n_head=3, n_positions=40, **IDS, **CROSS),
    "gpt2-scaled": lambda: hf.GPT2Config(
        vocab_size=91,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=40,
        n_inner=50,
        activation_function="relu",
        scale_attn_by_inverse_layer_idx=True,
        reorder_and_upcast_attn=True,
        **IDS,
        **CROSS,
    ),
    "bart": lambda: hf.BartConfig(d_model=24, scale_embedding=True, encoder_layers=2, **BART),
    "mbart": lambda: hf.MBartConfig(d_model=32, encoder_layers=2, activation_function="relu", **BART),
    "trocr": lambda: hf.TrOCRConfig(d_model=24, cross_attention_hidden_size=None, **BART),
    "trocr-cross": lambda: hf.TrOCRConfig(
        d_model=20, scale_embedding=True, layernorm_embedding=False, **BART, tie_word_embeddings=False
    ),
    "xlm-roberta": lambda: hf.XLMRobertaConfig(hidden_size=24, num_attention_heads=2, type_vocab_size=1, **BERT),
    "camembert": lambda: hf.CamembertConfig(
        hidden_size=24, num_attention_heads=3, tie_word_embeddings=False, layer_norm_eps=1e-5, **BERT
    ),
}

PAIRS = [
    *((encoder, decoder) for i, encoder in enumerate(ENCODERS) for decoder in [*DECODERS][i % 3 :: 3]),
    ("vit", "gpt2"),
    ("donut", "mbart"),
    ("swin", "gpt2"),
    ("swin", "bert"),
    ("deit", "roberta"),
    ("vit", "xlm-roberta"),
    ("vit", "camembert"),
]


def widen(model: torch.nn.Module, seed: int) -> None:
    """Draw parameters so large that logits do not tie."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            norm = "norm" in name.lower() or ".ln_" in name
            parameter.copy_(0.3 * noise + (1.0 if norm and name.endswith("weight") else 0.0))


def made(encoder: str, decoder: str, seed: int = 0) -> Any:
    """A tiny random model of transformers."""
    parts = ENCODERS[encoder](), DECODERS[decoder]()
    if decoder == "trocr-cross":
        parts[1].cross_attention_hidden_size = parts[0].hidden_size
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 3, 1, 4
    model = hf.VisionEncoderDecoderModel(config).eval()
    widen(model, seed)
    model.generation_config.decoder_start_token_id, model.generation_config.pad_token_id = 3, 1
    model.generation_config.eos_token_id = 4
    return model


def batch(model: Any, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images and labels for the model."""
    size = model.config.encoder.image_size
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, height, width, generator=generator)
    labels = torch.randint(5, 91, (2, 7), generator=generator)
    labels[1, 5:] = -100
    return images, labels


def opened(folder: Path) -> vedcore.VisionEncoderDecoder:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*no preprocessor_config.json")
        return vedcore.load(folder)


def assert_same(ours: vedcore.VisionEncoderDecoder, theirs: Any) -> None:
    """Encoder states, logits, loss and greedy ids are the same."""
    images, labels = batch(theirs)
    with torch.no_grad():
        mine, other = ours(images, labels=labels), theirs(pixel_values=images, labels=labels)
    scale = other.logits.abs().max()
    assert mine.encoder_last_hidden_state is not None
    states = other.encoder_last_hidden_state
    torch.testing.assert_close(
        mine.encoder_last_hidden_state / states.abs().max(), states / states.abs().max(), atol=2e-4, rtol=0
    )
    torch.testing.assert_close(mine.logits / scale, other.logits / scale, atol=2e-4, rtol=0)
    torch.testing.assert_close(mine.loss, other.loss, atol=0, rtol=2e-4)
    ids = theirs.generate(images, max_new_tokens=12, do_sample=False, num_beams=1)
    assert ours.generate(images, max_new_tokens=12).tolist() == ids.tolist()


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_open_and_write_back(encoder: str, decoder: str, tmp_path: Path) -> None:
    theirs = made(encoder, decoder)
    theirs.save_pretrained(tmp_path / "old")
    ours = opened(tmp_path / "old")
    assert_same(ours, theirs)

    theirs.save_pretrained(tmp_path / "new", save_original_format=False)
    again = opened(tmp_path / "new")
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True))

    ours.save_pretrained(tmp_path / "back", format="transformers")
    back, info = hf.VisionEncoderDecoderModel.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not info["missing_keys"], info["missing_keys"]
    assert not info["unexpected_keys"], info["unexpected_keys"]
    assert_same(ours, back.eval())

    ours.save_pretrained(tmp_path / "native")
    native = vedcore.load(tmp_path / "native")
    for (name, a), (other, b) in zip(ours.state_dict().items(), native.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b)
    assert native.token_ids == ours.token_ids == vedcore.TokenIds(start=3, eos=(4,), pad=1)


DUMPED = {  # transformers 4.23 wrote these into both sections
    "_name_or_path": "",
    "add_cross_attention": False,
    "architectures": None,
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "bos_token_id": None,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "decoder_start_token_id": None,
    "diversity_penalty": 0.0,
    "do_sample": False,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "finetuning_task": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_decoder": False,
    "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "length_penalty": 1.0,
    "max_length": 20,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "pad_token_id": None,
    "prefix": None,
    "problem_type": None,
    "pruned_heads": {},
    "remove_invalid_values": False,
    "repetition_penalty": 1.0,
    "return_dict": True,
    "return_dict_in_generate": False,
    "sep_token_id": None,
    "suppress_tokens": None,
    "task_specific_params": None,
    "temperature": 1.0,
    "tf_legacy_loss": False,
    "tie_encoder_decoder": False,
    "tie_word_embeddings": True,
    "tokenizer_class": None,
    "top_k": 50,
    "top_p": 1.0,
    "torch_dtype": None,
    "torchscript": False,
    "transformers_version": "4.23.1",
    "typical_p": 1.0,
    "use_bfloat16": False,
}


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        ("vit", "trocr"),
        ("deit", "gpt2"),
        ("beit", "roberta"),
        ("swin", "bert"),
        ("donut", "mbart"),
        ("vit-wide", "bart"),
    ],
)
def test_sections_with_all_that_4_x_wrote_open_without_a_warning(encoder: str, decoder: str, tmp_path: Path) -> None:
    theirs = made(encoder, decoder)
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for section in ("encoder", "decoder"):
        config[section] = {**DUMPED, **config[section]}
    config |= {"_commit_hash": None, "torch_dtype": "float32", "transformers_version": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same(opened(tmp_path), theirs)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("decoder", ["bert", "roberta", "camembert", "gpt2", "bart"])
def test_stored_tensors_have_transformers_names(decoder: str, tied: bool, tmp_path: Path) -> None:
    """Whole models and parts alone are stored with no tensor twice and none left out."""
    config = DECODERS[decoder]()
    config.tie_word_embeddings = tied
    whole = hf.VisionEncoderDecoderModel(
        hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(ENCODERS["vit"](), config)
    )
    widen(whole, 3)
    whole.save_pretrained(tmp_path / "theirs")
    whole.decoder.save_pretrained(tmp_path / "their-part")
    ours = opened(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours", format="transformers")
    ours.save_pretrained(tmp_path / "our-part", format="transformers", part="decoder")
    for mine, theirs in (("ours", "theirs"), ("our-part", "their-part")):
        stored, expected = (load_file(tmp_path / each / "model.safetensors") for each in (mine, theirs))
        assert stored.keys() == expected.keys()
    part, info = type(whole.decoder).from_pretrained(tmp_path / "our-part", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    head, expected = part.get_output_embeddings().state_dict(), whole.decoder.get_output_embeddings().state_dict()
    assert all(torch.equal(head[name], expected[name]) for name in expected)
    assert all(
        torch.equal(a, b) for a, b in zip(opened(tmp_path / "ours").parameters(), ours.parameters(), strict=True)
    )


def test_roberta_without_a_padding_id_is_refused(tmp_path: Path) -> None:
    """transformers cannot run it either: positions are counted from that id."""
    config = DECODERS["roberta"]()
    config.pad_token_id = None
    theirs = hf.VisionEncoderDecoderModel(
        hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(ENCODERS["vit"](), config)
    )
    with pytest.raises(TypeError):
        theirs(pixel_values=torch.zeros(1, 3, 32, 32), decoder_input_ids=torch.tensor([[3]]))
    theirs.save_pretrained(tmp_path / "whole")
    theirs.decoder.save_pretrained(tmp_path / "part")
    for call in (
        lambda: vedcore.load(tmp_path / "whole"),
        lambda: vedcore.compose("vit", str(tmp_path / "part"), encoder_num_hidden_layers=1),
    ):
        with pytest.raises(vedcore.ConfigSchemaError, match=r"config\.json: decoder\.pad_token_id.*positions") as error:
            call()
        assert len(str(error.value)) <= 300
        assert error.value.hint
    part = vedcore.compose("vit", str(tmp_path / "part"), encoder_num_hidden_layers=1, decoder_pad_token_id=1)
    assert part.token_ids.pad == 1


def test_settings_that_cannot_be_honoured_are_named(tmp_path: Path) -> None:
    made("vit", "bert").save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    for section, word, value in (
        ("encoder", "num_channels", 4),
        ("decoder", "is_decoder", False),
        ("decoder", "add_cross_attention", False),
        ("decoder", "position_embedding_type", "relative_key"),
        ("encoder", "hidden_act", "os.system"),
        ("decoder", "model_type", "zorg"),
        ("encoder", "model_type", "bertt"),
    ):
        changed = json.loads(json.dumps(config))
        changed[section][word] = value
        (tmp_path / "m" / "config.json").write_text(json.dumps(changed))
        with pytest.raises(vedcore.ConfigError) as error:
            vedcore.load(tmp_path / "m")
        assert word in str(error.value)
        assert "config.json" in str(error.value)
        assert len(str(error.value)) <= 300
    del config["decoder"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(vedcore.ConfigSchemaError, match="decoder"):
        vedcore.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("size", "positions"),
    [
        ([32, 8], "use_relative_position_bias"),
        ([8, 24], "use_shared_relative_position_bias"),
        ([8, 32], "use_absolute_position_embeddings"),
    ],
)
def test_positions_that_transformers_mixes_up_are_refused(size: list[int], positions: str, tmp_path: Path) -> None:
    """transformers runs, but as another model: it reads tables of positions with rows for columns."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40}
    encoder = hf.BeitConfig(**sizes, image_size=size, patch_size=8, **{positions: True})
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, DECODERS["gpt2"]())
    theirs = hf.VisionEncoderDecoderModel(config).eval()
    theirs(pixel_values=torch.zeros(1, 3, *size), decoder_input_ids=torch.tensor([[3]]))
    theirs.save_pretrained(tmp_path / "m")
    with pytest.raises(vedcore.ConfigSchemaError, match=r"config\.json: encoder\.image_size: .*positions") as error:
        vedcore.load(tmp_path / "m")
    assert error.value.hint
    ours = vedcore.compose(
        {"name": "beit", **sizes, "image_size": size, "patch_size": 8, positions: True},
        "gpt2",
        decoder_n_layer=1,
        decoder_n_embd=24,
        decoder_n_head=2,
    )
    with pytest.raises(vedcore.IncompatibleError, match="positions"):
        ours.save_pretrained(tmp_path / "back", format="transformers")


def test_missing_cross_attention_is_an_error(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    made("vit", "gpt2").save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    tensors = {name: t for name, t in load_file(path).items() if "cross" not in name}
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(vedcore.CheckpointMismatchError, match=r"decoder\.transformer\.h\.0\.crossattention"):
        vedcore.load(tmp_path / "m")
