"""Configs: valid settings, refused settings, and the messages of refusals."""

from __future__ import annotations

import ast
import copy
import inspect
import json
import math
import pickle
import textwrap
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vedcore
from vedcore.config import (
    ComponentConfig,
    Config,
    DecoderConfig,
    EncoderConfig,
    Rate,
    Size,
    check_limit,
    token_id_tuple,
)
from vedcore.errors import ConfigSchemaError
from vedcore.registry import Entry
from vedcore_decoders import register_decoders
from vedcore_encoders import register_encoders


class Family(DecoderConfig):
    """A config as a family of decoders has it."""

    attribute_map: ClassVar[dict[str, str]] = {"hidden_size": "n_embd"}

    vocab_size: int = 50
    n_embd: Size = 8
    depths: tuple[Size, ...] = (1, 2)
    dropout: Rate = 0.1


CONFIGS = [Family, *(entry.load().config_class for entry in (*register_encoders(), *register_decoders()))]


def test_a_parsed_config_is_whole_and_frozen() -> None:
    config = Family.parse({"hidden_size": 16, "depths": [3, 4]})
    assert (config.n_embd, config.depths, config.dropout) == (16, (3, 4), 0.1)
    with pytest.raises(vedcore.UsageError, match="n_embd: settings of a Family do not change in place"):
        config.n_embd = 3  # type: ignore[misc]
    assert Family.parse(config.model_dump()) == config
    assert Family.parse(json.loads(json.dumps(config.model_dump(mode="json")))) == config
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config


@pytest.mark.parametrize("value", [-1, "2", [-1], [2, "3"], 2.5])
def test_a_refusal_shows_the_field_without_the_kinds_it_may_be_of(value: Any) -> None:
    with pytest.raises(ConfigSchemaError, match=r"^eos_token_id(\.\d)?: ") as caught:
        vedcore.GenerationConfig.parse({"eos_token_id": value})
    assert "constrained" not in f"{caught.value}{caught.value.details}"


def test_changes_are_checked_like_new_ones() -> None:
    config = Family.parse({})
    assert config.changed(n_embd=4).n_embd == 4
    assert config.n_embd == 8
    with pytest.raises(vedcore.ConfigSchemaError, match=r"n_embd"):
        config.changed(n_embd=0)
    with pytest.raises(vedcore.ConfigSchemaError, match="n_emb: unknown key; did you mean 'n_embd'"):
        config.changed(n_emb=4)


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        ({"n_emb": 3}, vedcore.ConfigSchemaError, r"f\.json: decoder\.n_emb: unknown key; did you mean 'n_embd'"),
        ({"hiden_size": 3}, vedcore.ConfigSchemaError, "unknown key; did you mean 'hidden_size'"),
        ({"zorg": 3}, vedcore.ConfigSchemaError, "unknown key; valid keys: bos_token_id, "),
        ({3: 3}, vedcore.ConfigSchemaError, r"decoder\.3: unknown key"),
        ({"n_embd": 3, "hidden_size": 4}, vedcore.ConfigSchemaError, "given twice, as 'hidden_size' and as 'n_embd'"),
        ({"bos_token_id": 10**5000}, vedcore.ConfigSchemaError, r"decoder\.bos_token_id: .*less than 16777216"),
        ({"n_embd": "3"}, vedcore.ConfigSchemaError, r"decoder\.n_embd: .*integer.*got '3'"),
        ({"n_embd": 3.0}, vedcore.ConfigSchemaError, r"n_embd: .*integer.*got 3\.0"),
        ({"n_embd": True}, vedcore.ConfigSchemaError, "n_embd: .*integer.*got True"),
        ({"n_embd": None}, vedcore.ConfigSchemaError, "n_embd: .*integer.*got None"),
        ({"n_embd": []}, vedcore.ConfigSchemaError, "n_embd: .*integer"),
        ({"n_embd": -32}, vedcore.ConfigSchemaError, r"n_embd: .*1.*got -32"),
        ({"n_embd": 10**9}, vedcore.ConfigLimitError, "n_embd: .*1048576.*got 1000000000"),
        ({"n_embd": 2**63}, vedcore.ConfigLimitError, "n_embd"),
        ({"n_embd": 10**5000}, vedcore.ConfigLimitError, "n_embd: .*thousands of digits"),
        ({"dropout": 1.5}, vedcore.ConfigSchemaError, "dropout: .*less than 1"),
        ({"dropout": math.nan}, vedcore.ConfigSchemaError, "dropout"),
        ({"dropout": math.inf}, vedcore.ConfigSchemaError, "dropout"),
        ({"depths": [1, 0]}, vedcore.ConfigSchemaError, r"depths\.1: "),
        ({"depths": "12"}, vedcore.ConfigSchemaError, "depths"),
        ({"n_embd": 0, "dropout": 2.0}, vedcore.ConfigSchemaError, "n_embd.*and 1 more"),
        ({"tie_word_embeddings": "yes"}, vedcore.ConfigSchemaError, "tie_word_embeddings: .*boolean"),
        ({"eos_token_id": -1}, vedcore.ConfigSchemaError, "eos_token_id"),
        ({"\x1b[31mred\n": 1}, vedcore.ConfigSchemaError, r"\\x1b\[31mred\\n: unknown key"),
        ({"n_embd": "\x1b[31m\u202e\n\0"}, vedcore.ConfigSchemaError, "n_embd"),
        ({"x" * 11_000: 1}, vedcore.ConfigSchemaError, "unknown key"),
        ([1], vedcore.ConfigSchemaError, "decoder: object expected, got list"),
    ],
)
def test_refusals_say_file_key_and_reason(data: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as refused:
        Family.parse(data, path="f.json", prefix="decoder.")
    assert str(refused.value).startswith("f.json: decoder")
    assert len(str(refused.value)) <= 300
    assert str(refused.value).isprintable()


def test_more_problems_stand_in_the_details() -> None:
    with pytest.raises(vedcore.ConfigSchemaError) as refused:
        Family.parse({"n_embd": 0, "dropout": 2.0, "depths": [0]})
    assert [line.split(":")[0] for line in refused.value.details.splitlines()] == ["depths.0", "dropout"]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def parse_or_refuse(config: type[Config], data: dict[str, Any]) -> str:
    """The message of our error; empty where the data are valid and survive a round trip."""
    try:
        parsed = config.parse(data)
    except vedcore.ConfigError as error:
        return str(error)
    assert config.parse(parsed.model_dump()) == parsed
    return ""


@settings(max_examples=150, deadline=None)
@given(config=st.sampled_from([*CONFIGS, vedcore.ModelConfig]), data=st.data())
def test_any_value_of_a_field_is_taken_or_refused_by_our_error(config: type[Config], data: st.DataObject) -> None:
    fields = data.draw(st.dictionaries(st.sampled_from([*config.model_fields, "n_emb"]), plain, max_size=5))
    message = parse_or_refuse(config, fields)
    assert len(message) <= 300
    assert message.isprintable()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_field_says_what_it_is(config: type[Config]) -> None:
    for cls in config.__mro__:
        if not issubclass(cls, Config) or cls is Config or cls is Family:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
                assert isinstance(after, ast.Expr), f"{cls.__name__}.{ast.unparse(node.target)}"
                assert isinstance(after.value, ast.Constant)


@pytest.mark.parametrize("entry", [*register_encoders(), *register_decoders()], ids=lambda entry: entry.name)
def test_every_variant_is_a_sane_config(entry: Entry) -> None:
    cls = entry.load()
    for variant in cls.variants:
        config = cls.make_config(variant, {})
        assert cls.config_class.parse(config.model_dump()) == config
        assert cls.make_config(None, config.model_dump()) == config


def test_image_sizes_are_one_number_or_two() -> None:
    assert EncoderConfig.parse({"image_size": 32}).image_size == (32, 32)
    assert EncoderConfig.parse({"image_size": [32, 64]}).image_size == (32, 64)
    for bad in (True, "32", [32], [32, 64, 3], 32.0, [0, 4]):
        with pytest.raises(vedcore.ConfigSchemaError, match="image_size"):
            EncoderConfig.parse({"image_size": bad})


@pytest.mark.parametrize(
    "data",
    [
        {"image_size": 0},
        {"image_size": (0, 4)},
        {},
        {"image_size": (4, 4), "image_std": (0.0, 1.0, 1.0)},
        {"image_size": (4, 4), "image_std": (-1.0, 1.0, 1.0)},
        {"image_size": (4, 4), "image_std": (math.nan, 1.0, 1.0)},
        {"image_size": (4, 4), "image_mean": (math.inf, 1.0, 1.0)},
        {"image_size": (4, 4), "image_mean": (1.0, 1.0)},
        {"image_size": (4, 4), "image_mean": (1.0,)},
        {"image_size": (4, 4), "image_std": (1.0,)},
        {"image_size": (4, 4), "image_mean": (), "image_std": ()},
        {"image_size": (4, 4), "interpolation": "magic"},
        {"image_size": (4, 4), "resize_mode": "os.system"},
        {"image_size": (4, 4), "do_resize": True},
    ],
    ids=str,
)
def test_preprocessing_that_makes_no_sense(data: dict[str, Any]) -> None:
    with pytest.raises(vedcore.ConfigSchemaError):
        vedcore.Preprocessing.parse(data)


def test_token_ids_are_checked_against_the_vocabulary() -> None:
    ids = vedcore.TokenIds(start=1, eos=(2, 9), pad=0)
    ids.check(10)
    with pytest.raises(vedcore.ConfigSchemaError, match=r"token_ids\.eos: id 9 is not below vocab_size 9"):
        ids.check(9)
    vedcore.TokenIds().check(1)
    assert [token_id_tuple(value) for value in (None, 0, (1, 2), [])] == [(), (0,), (1, 2), ()]


def test_sections_are_names_or_mappings() -> None:
    config = vedcore.ModelConfig.parse({"encoder": "vit", "decoder": {"name": "gpt2", "n_embd": 3, "x": [1]}})
    assert config.encoder == ComponentConfig(name="vit")
    assert config.decoder.fields == {"n_embd": 3, "x": [1]}
    assert config.projector.name == "auto"
    for bad in ("", "x" * 301, {}, {"name": 3}, 3, None):
        with pytest.raises(vedcore.ConfigSchemaError, match="encoder"):
            vedcore.ModelConfig.parse({"encoder": bad, "decoder": "gpt2"})
    with pytest.raises(vedcore.ConfigSchemaError, match="format_version"):
        vedcore.ModelConfig.parse({"encoder": "vit", "decoder": "gpt2", "format_version": 2})


def test_limits() -> None:
    check_limit(10, 10, "hidden_size", "the width")
    for value, shown in ((11, "11"), (10**12, "1,000,000,000,000"), (10**5000, "thousands of digits")):
        with pytest.raises(vedcore.ConfigLimitError, match=f"hidden_size: the width .*{shown}.* limit of 10"):
            check_limit(value, 10, "hidden_size", "the width")
