"""Checkpoints of transformers: the fields and tensors that all families have, and rotary positions in each version.

transformers 5 has one field for rotary positions, ``rope_parameters``. Earlier versions have ``rope_theta`` and
``rope_scaling``, which are read and written too: they would take other frequencies without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vedcore.transformers_checkpoints import ConfigField, Row, TransformersClass, ignored, never_theirs, unused_fields

__all__ = ["RotaryClass", "key_map", "shared_fields"]

_UNUSED = ("finetuned", "mrope_section")
"""Keys of rotary positions that files have, and that have no part in the arithmetic."""
_ORIGINAL = "original_max_position_embeddings"


def key_map(*more: Row) -> tuple[Row, ...]:
    """Names of tensors in ``LlamaForCausalLM``, which all families share; ``more`` are a family's own."""
    return (
        Row("[model.]embed_tokens",                        "embedding"),
        Row("[model.]layers.{}.input_layernorm",           "layers.{}.layer.self_attention_norm"),
        Row("[model.]layers.{}.self_attn.q_proj",          "layers.{}.layer.self_attention.query"),
        Row("[model.]layers.{}.self_attn.k_proj",          "layers.{}.layer.self_attention.key"),
        Row("[model.]layers.{}.self_attn.v_proj",          "layers.{}.layer.self_attention.value"),
        Row("[model.]layers.{}.self_attn.o_proj",          "layers.{}.layer.self_attention.output"),
        *more,
        Row("[model.]layers.{}.post_attention_layernorm",  "layers.{}.layer.mlp_norm"),
        Row("[model.]layers.{}.mlp.gate_proj",             "layers.{}.layer.mlp.gate"),
        Row("[model.]layers.{}.mlp.up_proj",               "layers.{}.layer.mlp.input"),
        Row("[model.]layers.{}.mlp.down_proj",             "layers.{}.layer.mlp.output"),
        Row("[model.]norm",                                "final_norm"),
        Row("lm_head",                                     "output", optional=True),
        ignored("[model.]layers.{}.self_attn.rotary_emb.inv_freq"),  # in old files
        never_theirs("layers.{}.cross_attention*"),
    )  # fmt: skip


def _read_ids(value: Any) -> Any:
    """One id, or several as a tuple; None for a negative id, by which old files mean none."""
    if isinstance(value, list | tuple):
        return tuple(value) or None
    return None if isinstance(value, int) and value < 0 else value


def _write_ids(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _write_rope(value: Mapping[str, Any]) -> dict[str, Any]:
    written = {name: _write_ids(given) for name, given in value.items() if given is not None}
    return {name: given for name, given in written.items() if given != _UNWRITTEN.get(name)}


_UNWRITTEN = {"truncate": True, "partial_rotary_factor": 1.0}
"""Values that transformers takes too where they are left out, and names in a warning for kinds without them."""


def shared_fields(
    *,
    vocab_size: int,
    intermediate_size: int,
    max_position_embeddings: int,
    num_key_value_heads: int = 32,
    head_dim: int = 128,
    bos: int | None = None,
    eos: int | None = None,
) -> tuple[ConfigField, ...]:
    """The fields that all families have; the arguments are those of transformers' defaults that differ."""
    return (
        ConfigField("vocab_size",              vocab_size),
        ConfigField("hidden_size",             4096),
        ConfigField("intermediate_size",       intermediate_size),
        ConfigField("num_hidden_layers",       32),
        ConfigField("num_attention_heads",     32),
        ConfigField("num_key_value_heads",     num_key_value_heads),
        ConfigField("head_dim",                head_dim),
        ConfigField("hidden_act",              "silu"),
        ConfigField("max_position_embeddings", max_position_embeddings),
        ConfigField("initializer_range",       0.02),
        ConfigField("rms_norm_eps",            1e-6),
        ConfigField("attention_dropout",       0.0,  read=lambda value: 0.0 if value is None else value),
        ConfigField("rope_parameters",         {"rope_theta": 10000.0, "rope_type": "default"}, write=_write_rope),
        ConfigField("tie_word_embeddings",     False),
        ConfigField("bos_token_id",            bos,  read=_read_ids),
        ConfigField("eos_token_id",            eos,  read=_read_ids, write=_write_ids),
        ConfigField("pad_token_id",            None, read=_read_ids),
        ConfigField("decoder_start_token_id",  None, read=_read_ids),
        ConfigField("cross_attention_hidden_size", None),  # this and the next are ours: transformers keeps them unread
        ConfigField("cross_attention_every",   1),
        ConfigField("cross_attention_gate",    False),
        *unused_fields("pretraining_tp"),
    )  # fmt: skip


@dataclass(frozen=True)
class RotaryClass(TransformersClass):
    """A class of transformers with rotary positions.

    Args:
        derived: fields that follow from others where a file leaves them out.
    """

    derived: tuple[str, ...] = ("head_dim",)

    def read(self, section: Mapping[str, Any], *, path: object = None, prefix: str = "") -> dict[str, Any]:
        """As `TransformersClass.read`, with the rotary positions of any version of transformers."""
        section = {**dict.fromkeys(self.derived), **section}
        older = [section.pop(name, None) for name in ("rope_scaling", "rope_theta", "partial_rotary_factor", _ORIGINAL)]
        scaling, theta, partial, original = older
        both = [section.get("rope_parameters") or {}, scaling or {}]
        given = next((each for each in both if not isinstance(each, Mapping)), None)  # which the config refuses
        if given is None:
            given = {**both[0], **both[1]}
            kind = given.get("rope_type", given.get("type", "default"))
            given = {name: value for name, value in given.items() if value is not None and name != "type"}
            given = {"rope_theta": 10000.0 if theta is None else theta, **given, "rope_type": kind}
            if partial is not None:
                given.setdefault("partial_rotary_factor", partial)
            if original is not None and kind in ("llama3", "yarn", "longrope"):
                given[_ORIGINAL] = original
            given = {name: value for name, value in given.items() if name not in _UNUSED}
        return super().read({**section, "rope_parameters": given}, path=path, prefix=prefix)

    def write(self, part: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
        """As `TransformersClass.write`, with the fields of earlier versions of transformers too."""
        section = super().write(part, {**settings, "head_dim": part.config.head_width})  # Qwen2's class takes no null
        scaling = {name: value for name, value in section["rope_parameters"].items() if name != "rope_theta"}
        section["rope_theta"] = section["rope_parameters"]["rope_theta"]
        section["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
        return section
