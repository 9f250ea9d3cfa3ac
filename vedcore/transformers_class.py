"""The classes of transformers that a part of ours stands for: their settings in our words, and back, as data.

A family writes its settings as a table, one row a word of theirs::

    VIT_MODEL = TransformersClass(
        model_type="vit", name="ViTModel", key_map=KEY_MAP, base_prefix="vit",
        words=(
            Word("hidden_size",    768),
            Word("n_positions",    1024, "max_positions"),
            only("num_channels",   3),
            unused("encoder_stride"),
        ),
    )

Every word of theirs that changes the arithmetic has a row. A word that no row has is one that transformers does not
read either, so it is passed over, and named in a warning.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vedcore.config_files.plain import short
from vedcore.errors import ConfigSchemaError, IncompatibleError
from vedcore.weights.keymap import Row

__all__ = ["TransformersClass", "Word", "only", "unused"]


@dataclass(frozen=True)
class Word:
    """One setting of theirs.

    Args:
        theirs: its name.
        default: transformers' own value, where a file does not say.
        ours: our name of it; None where it is the same.
        read: their value to ours.
        write: our value to theirs.
    """

    theirs: str
    default: Any = None
    ours: str | None = None
    read: Callable[[Any], Any] = field(default=copy.copy, repr=False)
    write: Callable[[Any], Any] = field(default=copy.copy, repr=False)


@dataclass(frozen=True)
class _Only(Word):
    """A setting of theirs that may have some values only; the first is what ours is."""

    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _Unused(Word):
    """A setting of theirs that has no part in the arithmetic."""


def only(theirs: str, *values: Any) -> Word:
    """A setting that must have one of ``values``, as ours has no such thing.

    Args:
        theirs: its name.
        values: those that are the same arithmetic as ours; the first is transformers' own value, and what is written.
    """
    return _Only(theirs, values[0], values=values)


def unused(theirs: str) -> Word:
    """A setting that has no part in the arithmetic of what we take: read over, never written."""
    return _Unused(theirs)


# What every config of transformers may hold, and what has no part in a forward pass
COMMON = frozenset(
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
_ANYWHERE = frozenset(
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
"""Settings of a decoder that 4.x wrote into every section."""


@dataclass(frozen=True)
class TransformersClass:
    """A class of transformers whose checkpoints a part of ours opens and writes.

    Args:
        model_type: what ``config.json`` calls it.
        name: the class, as ``architectures`` names it for a part saved alone.
        words: its settings.
        key_map: its tensors; see `vedcore.weights.keymap`.
        base_prefix: what larger classes of theirs (with a classifier) put before its names; read, never written.
        attribute_map: second words of theirs for settings, second to first.
        fixed: settings of ours that such a checkpoint always has, such as ``{"final_norm": False}``.
        extra: tensors that the class has and ours has no use for (a pooler): names, shapes and what they are filled
            with, or the tensors themselves, given our part; written so that nothing is missing.
        flags: settings that must be true in a decoder's section of a whole model, as without them transformers' class
            has no cross-attention, or sees the words to come; in a part of its own they may be anything.
        refuses: why a part of ours cannot be one of these, or an empty string.
        unlike: of the fields of our config, those whose values are other arithmetic in transformers, to why.
    """

    model_type: str
    name: str
    words: tuple[Word, ...]
    key_map: tuple[Row, ...]
    base_prefix: str = ""
    attribute_map: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    extra: Callable[[Any], Mapping[str, tuple[tuple[int, ...], float] | Tensor]] = field(
        default=lambda part: {}, repr=False
    )
    flags: tuple[str, ...] = ()
    refuses: Callable[[Any], str] = field(default=lambda part: "", repr=False)
    unlike: Callable[[Mapping[str, Any]], Mapping[str, str]] = field(default=lambda fields: {}, repr=False)

    def read(self, theirs: Mapping[str, Any], *, path: object = None, prefix: str = "") -> dict[str, Any]:
        """The fields of our config for a config of theirs.

        Args:
            theirs: the section of ``config.json``.
            path: that file, for messages.
            prefix: what to put before a word in messages, such as ``"encoder."``.

        Raises:
            ConfigSchemaError: a setting that cannot be honoured.
        """
        given = {self.attribute_map.get(key, key): value for key, value in theirs.items()}
        fields: dict[str, Any] = dict(self.fixed)
        for word in self.words:
            value = given.pop(word.theirs, word.default)
            if isinstance(word, _Only):
                if not any(value == allowed and type(value) is type(allowed) for allowed in word.values):
                    raise ConfigSchemaError(
                        f"{short(value)} cannot be honoured: vedcore's {self.model_type} has {short(word.values[0])}",
                        path=path,
                        field=prefix + word.theirs,
                        hint="open it with another checkpoint",
                    )
            elif not isinstance(word, _Unused):
                try:
                    fields[word.ours or word.theirs] = word.read(value)
                except (TypeError, ValueError, KeyError, IndexError):
                    raise ConfigSchemaError(
                        f"{short(value)} is no value for it",
                        path=path,
                        field=prefix + word.theirs,
                        hint=f"transformers' default is {short(word.default)}",
                    ) from None
        if given.get("pruned_heads"):
            raise ConfigSchemaError(
                "pruned heads cannot be honoured", path=path, field=f"{prefix}pruned_heads", hint="save it unpruned"
            )
        try:
            unlike = self.unlike(fields)
        except (TypeError, ValueError, ArithmeticError):  # no such values; our config says what they should be
            unlike = {}
        for name, reason in unlike.items():
            raise ConfigSchemaError(
                f"{short(fields[name])} cannot be honoured: {reason}",
                path=path,
                field=prefix + name,
                hint="open it with another checkpoint",
            )
        strange = sorted(given.keys() - COMMON - _ANYWHERE - {"pruned_heads", "is_decoder", "add_cross_attention"})
        if strange:
            names = ", ".join(short(prefix + name) for name in strange[:8])
            warnings.warn(
                f"{path}: settings that {self.name} does not have are passed over: {names}", UserWarning, stacklevel=3
            )
        return fields

    def write(self, part: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The config of theirs for our part.

        Args:
            part: the encoder or decoder.
            fields: all of its settings, none of them left to a variant.

        Raises:
            IncompatibleError: transformers has no such thing; says what and why.
        """
        reason = self.refusal(part)
        if reason:
            raise IncompatibleError(
                f"{type(part).__name__} is not to be written as transformers' {self.name}: {reason}",
                hint='save it with format="native"',
            )
        theirs = {"model_type": self.model_type, "architectures": [self.name]}
        for word in self.words:
            if isinstance(word, _Only):
                theirs[word.theirs] = word.values[0]
            elif not isinstance(word, _Unused):
                theirs[word.theirs] = word.write(fields[word.ours or word.theirs])
        return theirs

    def refusal(self, part: Any) -> str:
        """Why our part cannot be one of these; an empty string where it can."""
        settings = part.settings()
        odd = [name for name, value in self.fixed.items() if name in settings and settings[name] != value]
        if odd:
            return f"it always has {odd[0]} {short(self.fixed[odd[0]])}"
        return next(iter(self.unlike(settings).values()), "") or self.refuses(part)


def class_for(classes: Iterable[TransformersClass], model_type: str) -> TransformersClass | None:
    """The class of that ``model_type``."""
    return next((each for each in classes if each.model_type == model_type), None)
