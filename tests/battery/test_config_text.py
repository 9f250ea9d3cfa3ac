"""Section A of the battery through the front door: settings in a file, and a plan or a model that is asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import vedcore
from tests.composer.tiny import GPT2, VIT
from vedcore.errors import (
    ConfigError,
    ConfigLimitError,
    ConfigSchemaError,
    IncompatibleError,
    UnknownComponentError,
    VedcoreError,
)

S, L, U, I = ConfigSchemaError, ConfigLimitError, UnknownComponentError, IncompatibleError  # noqa: E741
HOSTILE = "\x1b[31m\u202e\n\0"
NUMBERS: list[tuple[str, Any, type[ConfigError]]] = [
    *((f"14 {value!r}", value, S) for value in ("32", 32.0, True, [], {}, "x" * 9999, HOSTILE)),
    *((f"15 {value!r}", value, S) for value in (-32, 0, -(10**30))),
    *((f"17 {value!r}", value, L) for value in (10**9, 2**40, 2**62, 2**63 - 1, 2**63, 10**300)),
]
SIZES = {
    "encoder": ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size"),
    "decoder": ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"),
}
ROWS: list[tuple[str, str, str, Any, type[ConfigError]]] = [
    *((row, part, name, value, kind) for part in SIZES for name in SIZES[part] for row, value, kind in NUMBERS),
    ("14 null", "decoder", "n_embd", None, S),
    ("15 heads", "encoder", "num_attention_heads", 5, I),
    ("15 heads", "decoder", "n_head", 5, I),
    ("15 dropout", "encoder", "hidden_dropout_prob", 1.5, S),
    ("15 dropout", "decoder", "attn_pdrop", -0.1, S),
    ("15 epsilon", "decoder", "layer_norm_epsilon", 0, S),
    ("16 typo", "encoder", "hiden_size", 32, S),
    ("16 typo", "decoder", "n_emdb", 32, S),
    ("17 image", "encoder", "image_size", 10**7, L),
    ("17 image", "encoder", "image_size", [16, 2**40], L),
    ("19 product", "decoder", "vocab_size", 2**40, L),
    ("20 activation", "encoder", "hidden_act", "os.system", S),
    ("20 activation", "decoder", "activation_function", "__import__", S),
    ("20 norm", "encoder", "norm", "__import__", S),
    ("23 name", "encoder", "name", "zorg", U),
    ("23 name", "decoder", "name", "zorg" * 70, U),
    ("26 name", "decoder", "name", HOSTILE, U),
    ("26 key", "encoder", HOSTILE, 1, S),
    ("26 key", "decoder", "k" * 100_000, 1, S),
]


def told(kind: type[VedcoreError], path: Path, call: Any) -> VedcoreError:
    """The error of a call: of that type, and one line that names the file."""
    with pytest.raises(VedcoreError) as caught:
        call(path)
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert len(message) <= 300
    assert message.isprintable()
    assert str(caught.value.path).startswith(str(path))
    return caught.value


@pytest.mark.parametrize(("row", "part", "name", "value", "kind"), ROWS, ids=[f"{r[0]}-{r[2]}"[:40] for r in ROWS])
def test_a_setting_in_a_file(
    tmp_path: Path, row: str, part: str, name: str, value: Any, kind: type[ConfigError]
) -> None:
    data = {"encoder": dict(VIT), "decoder": {**GPT2, "vocab_size": 64}}
    data[part][name] = value
    (path := tmp_path / "a.json").write_text(json.dumps(data))
    error = told(kind, path, vedcore.plan)
    if name != "name":
        assert str(error.field).startswith(f"{part}.{name}"[:40])


@pytest.mark.parametrize(
    ("row", "change", "kind"),
    [
        ("17", {"hidden_size": 32768, "num_hidden_layers": 1024, "intermediate_size": 1 << 20}, L),
        ("19", {"hidden_size": 2**40, "num_attention_heads": 2**40}, L),
    ],
)
def test_a_product_of_sizes(tmp_path: Path, row: str, change: dict[str, int], kind: type[ConfigError]) -> None:
    (path := tmp_path / "a.json").write_text(json.dumps({"encoder": {**VIT, **change}, "decoder": "gpt2"}))
    told(kind, path, vedcore.plan)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers."""
    folder = tmp_path_factory.mktemp("theirs")
    vedcore.compose(VIT, {**GPT2, "vocab_size": 64}, seed=0).save_pretrained(folder, format="transformers")
    return folder


@pytest.mark.parametrize("section", ["", "encoder", "decoder"])
@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", ["load", "evil", "__class__", HOSTILE, 3, ["float32"]])
def test_row_20_a_type_in_their_config(theirs: Path, tmp_path: Path, section: str, name: str, value: Any) -> None:
    shutil.copytree(theirs, folder := tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (config[section] if section else config)[name] = value
    (folder / "config.json").write_text(json.dumps(config))
    error = told(ConfigSchemaError, folder / "config.json", lambda _: vedcore.load(folder))
    assert error.field == f"{section}.{name}".lstrip(".")
    assert "float16" in error.hint
