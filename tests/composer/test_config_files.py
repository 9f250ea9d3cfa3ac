"""Models from configuration files; errors that name the file, the line and the key."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import tokenizers
import torch

import vedcore
from tests.composer.tiny import BERT, GPT2, VIT, count, same_weights, without
from tests.config_text import config_text

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


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text).lstrip("\n"))
    return path


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
