"""The classes of transformers whose checkpoints a part opens and writes: their config fields, as data.

A family lists the fields of a class's config in a table, one row a field::

    VIT_MODEL = TransformersClass(
        model_type="vit",
        name="ViTModel",
        fields=(
            ConfigField("hidden_size",       768),
            ConfigField("n_positions",       1024, "max_positions"),
            restricted_field("num_channels", 3),
            *unused_fields("encoder_stride"),
        ),
        key_map=KEY_MAP,
        base_prefix="vit",
    )

Every field that changes the arithmetic has a row. transformers does not read a field without a row either, so
`TransformersClass.read` skips it, and names it in a warning.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vedcore.config_files.plain import short
from vedcore.errors import ConfigSchemaError, IncompatibleError, warn_caller
from vedcore.weights.keymap import Row

__all__ = ["ConfigField", "TransformersClass", "class_for", "restricted_field", "unused_fields"]


@dataclass(frozen=True)
class ConfigField:
    """One field of a config of transformers.

    Args:
        name: transformers' name of it.
        default: transformers' default, for a file that leaves it out.
        vedcore_name: the name in vedcore's config; None where it is the same.
        read: transformers' value to vedcore's.
        write: vedcore's value to transformers'.
    """

    name: str
    default: Any = None
    vedcore_name: str | None = None
    read: Callable[[Any], Any] = field(default=copy.copy, repr=False)
    write: Callable[[Any], Any] = field(default=copy.copy, repr=False)

    @property
    def is_read(self) -> bool:
        """False for a field that has no part in the arithmetic."""
        return not isinstance(self, _UnusedField)


@dataclass(frozen=True)
class _RestrictedField(ConfigField):
    """A field that vedcore's config lacks, and of which only some values can be read; the first is written."""

    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _UnusedField(ConfigField):
    """A field that has no part in the arithmetic."""


def restricted_field(name: str, *values: Any) -> ConfigField:
    """A field that vedcore's config lacks, and that must have one of ``values``.

    Args:
        name: transformers' name of it.
        values: those with vedcore's arithmetic; the first is transformers' default, and is written.
    """
    return _RestrictedField(name, values[0], values=values)


def unused_fields(*names: str) -> tuple[ConfigField, ...]:
    """Fields that have no part in the arithmetic of encoders and decoders: skipped when read, never written."""
    return tuple(_UnusedField(name) for name in names)


COMMON_FIELDS = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_attn_implementation_internal",
        "_commit_hash",
        "_name_or_path",
        "_num_labels",
        "architectures",
        "attn_implementation",
        "attn_implementation_internal",
        "auto_map",
        "bad_words_ids",
        "begin_suppress_tokens",
        "chunk_size_feed_forward",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "is_encoder_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "model_type",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_labels",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "output_scores",
        "prefix",
        "problem_type",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "typical_p",
        "use_bfloat16",
        "use_cache",
    }
)
"""Fields that any config of transformers may hold, and that have no part in a forward pass."""
_DECODER_FIELDS = frozenset(
    {
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "decoder_start_token_id",
        "cross_attention_hidden_size",
        "tie_word_embeddings",
        "tie_encoder_decoder",
    }
)
"""Fields of a decoder that transformers 4 wrote into every section."""


@dataclass(frozen=True)
class TransformersClass:
    """A class of transformers whose checkpoints a part of vedcore opens and writes.

    Args:
        model_type: its name in ``config.json``.
        name: its name in ``architectures``, where the part is saved alone.
        fields: the fields of its config.
        key_map: its tensors; see `vedcore.weights.keymap`.
        base_prefix: the prefix of its tensors in transformers' larger classes (with a classifier); read, never
            written.
        attribute_map: other names that transformers accepts for fields, to the fields' names.
        fixed: settings of vedcore's config that its checkpoints always have, such as ``{"final_norm": False}``.
        extra: given the part, the tensors that the class has and the part lacks (a pooler): names to shapes and a
            value to fill them with, or to the tensors themselves. They are written, as transformers misses them else.
        flags: fields that must be true in the decoder's section of a whole model: without them transformers' class
            has no cross-attention, or sees later tokens. A decoder saved alone may have any values.
        refuses: given the part, the reason why this class cannot hold it, or an empty string.
        unlike: given the settings, the names of those with which transformers computes something else, to the reason.
    """

    model_type: str
    name: str
    fields: tuple[ConfigField, ...]
    key_map: tuple[Row, ...]
    base_prefix: str = ""
    attribute_map: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    extra: Callable[[Any], Mapping[str, tuple[tuple[int, ...], float] | Tensor]] = field(
        default=lambda part: {}, repr=False
    )
    flags: tuple[str, ...] = ()
    refuses: Callable[[Any], str] = field(default=lambda part: "", repr=False)
    unlike: Callable[[Mapping[str, Any]], Mapping[str, str]] = field(default=lambda settings: {}, repr=False)

    def read(self, section: Mapping[str, Any], *, path: object = None, prefix: str = "") -> dict[str, Any]:
        """The settings of vedcore's config for a section of transformers' ``config.json``.

        Args:
            section: the section.
            path: the file, for messages.
            prefix: prepended to a field's name in messages, such as ``"encoder."``.

        Raises:
            ConfigSchemaError: a value that vedcore cannot honour.

        Warns:
            UserWarning: fields that the class does not have.
        """
        given = {self.attribute_map.get(key, key): value for key, value in section.items()}
        settings: dict[str, Any] = dict(self.fixed)
        for each in self.fields:
            value = given.pop(each.name, each.default)
            if isinstance(each, _RestrictedField):
                if not any(value == allowed and type(value) is type(allowed) for allowed in each.values):
                    raise ConfigSchemaError(
                        f"{short(value)} cannot be honoured: vedcore's {self.model_type} has {short(each.values[0])}",
                        path=path,
                        field=prefix + each.name,
                        hint="open another checkpoint",
                    )
            elif not isinstance(each, _UnusedField):
                try:
                    settings[each.vedcore_name or each.name] = each.read(value)
                except (TypeError, ValueError, KeyError, IndexError):
                    raise ConfigSchemaError(
                        f"{short(value)} is not a value for it",
                        path=path,
                        field=prefix + each.name,
                        hint=f"write a value such as transformers' default, {short(each.default)}",
                    ) from None
        if given.get("pruned_heads"):
            raise ConfigSchemaError(
                "pruned heads cannot be honoured", path=path, field=f"{prefix}pruned_heads", hint="save it unpruned"
            )
        try:
            unlike = self.unlike(settings)
        except (TypeError, ValueError, ArithmeticError):  # values of wrong types, which vedcore's config refuses later
            unlike = {}
        for name, reason in unlike.items():
            raise ConfigSchemaError(
                f"{short(settings[name])} cannot be honoured: {reason}",
                path=path,
                field=prefix + name,
                hint="open another checkpoint",
            )
        known = {*COMMON_FIELDS, *_DECODER_FIELDS, "pruned_heads", "is_decoder", "add_cross_attention"}
        unknown = sorted(given.keys() - known)
        if unknown:
            names = ", ".join(short(prefix + name) for name in unknown[:8])
            warn_caller(f"{path}: fields that {self.name} does not have are skipped: {names}")
        return settings

    def write(self, part: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The section of transformers' ``config.json`` for a part of vedcore.

        Args:
            part: the encoder or decoder.
            settings: all of its settings, none of them left to a variant.

        Raises:
            IncompatibleError: this class cannot hold the part; the message has the reason.
        """
        reason = self.refusal(part)
        if reason:
            raise IncompatibleError(
                f"{type(part).__name__} cannot be written as transformers' {self.name}: {reason}",
                hint='save it with format="native"',
            )
        section = {"model_type": self.model_type, "architectures": [self.name]}
        for each in self.fields:
            if isinstance(each, _RestrictedField):
                section[each.name] = each.values[0]
            elif not isinstance(each, _UnusedField):
                section[each.name] = each.write(settings[each.vedcore_name or each.name])
        return section

    def refusal(self, part: Any) -> str:
        """The reason why this class cannot hold the part; an empty string where it can."""
        settings = part.settings()
        others = [name for name, value in self.fixed.items() if name in settings and settings[name] != value]
        if others:
            return f"it always has {others[0]} {short(self.fixed[others[0]])}"
        return next(iter(self.unlike(settings).values()), "") or self.refuses(part)


def class_for(classes: Iterable[TransformersClass], model_type: str) -> TransformersClass | None:
    """The class of that ``model_type``; None if there is none."""
    return next((each for each in classes if each.model_type == model_type), None)
