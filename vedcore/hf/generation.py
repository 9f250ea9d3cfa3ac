"""Generation options and token ids of a transformers folder, read and written.

transformers reads ``generation_config.json`` where there is one. Before 4.25 there was none: the options were in
``config.json``, at its top, else in its decoder's section. There transformers 4 wrote its default ``max_length`` of 20
by itself, so that number in the decoder's section is not taken. In both cases training reads the ids at the top of
``config.json``. Where these differ from the ids of generation, vedcore keeps both: as the model's token ids, and in
`GenerationConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vedcore.config import MAX_VOCAB_SIZE, TOKEN_ID_FIELDS, Config, TokenId, TokenIds, token_id_tuple
from vedcore.config_files.plain import short
from vedcore.errors import ConfigError, ConfigSchemaError, UsageError, warn_caller
from vedcore.generation.options.config import DEFAULT_MAX_LENGTH, MAX_LENGTH, GenerationConfig
from vedcore.generation.options.option_rules import SYNONYMS, without_idle

__all__ = [
    "is_generation_config",
    "read_generation",
    "read_generation_config",
    "within_positions",
    "write_generation",
    "write_ids",
]

OLD_MAX_LENGTH = 20
"""The default that transformers 4 wrote into every section of ``config.json``."""
VEDCORE_OPTIONS = ("seed", "allowed_chars", "pattern", "lexicon", "repetition_stop")
"""Options that transformers does not have."""
CALL_OPTIONS = {
    "use_cache",
    "compile",
    "draft",
    "return_dict_in_generate",
    "output_scores",
    "output_logits",
    "output_attentions",
    "output_hidden_states",
}
"""Options of a call that do not change the text, so that a folder does not hold them."""
SHARED_OPTIONS = [name for name in GenerationConfig.model_fields if name not in {*VEDCORE_OPTIONS, *CALL_OPTIONS}]
"""Options that transformers has under the same names."""
UNSUPPORTED_OPTIONS: dict[str, Any] = {
    "constraints": None,
    "dola_layers": None,
    "guidance_scale": 1,
    "token_healing": False,
    "watermarking_config": None,
}
"""Options of transformers that change the text and that vedcore lacks, with the values at which they do nothing."""
UNSUPPORTED_SAMPLING_OPTIONS: dict[str, Any] = {"top_h": None}
"""Those that change the text only when tokens are sampled."""
IGNORED_OPTIONS = {
    *CALL_OPTIONS,
    "_commit_hash",
    "_from_model_config",
    "assistant_early_exit",
    "assistant_ensemble_weight",
    "assistant_lookbehind",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "continuous_batching_config",
    "disable_compile",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "is_assistant",
    "is_encoder_decoder",
    "low_memory",
    "max_cache_len",
    "prefill_chunk_size",
    "speculation_type",
    "target_lookbehind",
    "transformers_version",
    "use_mtp",
}
"""Options of transformers that do not change the text of an image."""


class _Ids(Config):
    """The token ids of a file or of a section of it."""

    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | tuple[TokenId, ...] | None = None
    pad_token_id: TokenId | None = None
    decoder_start_token_id: TokenId | tuple[TokenId, ...] | None = None

    @classmethod
    def of(cls, section: Mapping[str, Any], path: Path, prefix: str = "") -> _Ids:
        return cls.parse({name: section.get(name) for name in TOKEN_ID_FIELDS}, path=path, prefix=prefix)

    def over(self, other: _Ids) -> _Ids:
        """These ids, and those of ``other`` where an id is not set."""
        own = {name: value for name, value in self if value is not None}
        return other.model_copy(update=own)

    @property
    def start(self) -> int | None:
        """The start id; the first one if each text of a batch has its own."""
        return _first(*token_id_tuple(self.decoder_start_token_id), self.bos_token_id)


def read_generation(
    generation_config: Mapping[str, Any] | None,
    top: Mapping[str, Any],
    decoder: Mapping[str, Any],
    *,
    path: object,
) -> tuple[TokenIds, GenerationConfig]:
    """The token ids and options of transformers' ``generate`` for a folder.

    Options that have no effect beside the others are left out, as they are common: ``length_penalty`` without beams,
    ``temperature`` without sampling, ``max_length`` beside ``max_new_tokens``.

    Args:
        generation_config: ``generation_config.json``; None where there is none.
        top: ``config.json``.
        decoder: its decoder's section.
        path: the folder, for messages.

    Returns:
        The token ids of training, and the options. The options hold those ids that differ in generation. If the files
        set no length, the options have none either: transformers' default of 20 tokens is not taken.

    Raises:
        ConfigSchemaError, ConfigLimitError: a value of a wrong type or out of bounds, with file and field.
        UsageError: options that contradict each other, which transformers refuses too.

    Warns:
        UserWarning: options with an effect that vedcore lacks; a single warning names all of them. A ``max_length`` of
            20 in the decoder's section that is not taken.
    """
    file = Path(str(path)) / "config.json"
    top_ids, decoder_ids = _Ids.of(top, file), _Ids.of(decoder, file, "decoder.")
    inner, outer = _given(decoder), _given(top)
    old_length = inner.get("max_length") == OLD_MAX_LENGTH and "max_length" not in outer
    if old_length:
        del inner["max_length"]
    given = {**inner, **outer}
    ids = top_ids.over(decoder_ids)
    if generation_config is not None:
        file = file.with_name("generation_config.json")
        if not isinstance(generation_config, Mapping):
            raise ConfigSchemaError(f"object expected, got {type(generation_config).__name__}", path=file)
        given = {name: value for name, value in generation_config.items() if value is not None}
        ids = _Ids.of(given, file)
    else:
        if top.get("force_bos_token_to_be_generated") and top_ids.bos_token_id is not None:  # before 4.1
            given.setdefault("forced_bos_token_id", top_ids.bos_token_id)
        if old_length and "max_new_tokens" not in given:
            warn_caller(
                f"{file}: decoder.max_length: {OLD_MAX_LENGTH} is what transformers 4 wrote there by itself, and is "
                "not taken: texts may fill the decoder's positions; pass max_length to generate for shorter ones"
            )
    _warn_of_unsupported(given, file)

    options = {name: given[name] for name in SHARED_OPTIONS if name in given and name not in TOKEN_ID_FIELDS}
    try:
        config = GenerationConfig.parse(_with_effect(options))
    except ConfigError as error:
        name = (error.field or "").partition(".")[0]
        in_decoder = generation_config is None and name in decoder and top.get(name) is None
        raise error.at(file, f"decoder.{error.field}" if in_decoder else None) from None

    eos = token_id_tuple(ids.eos_token_id)
    pad = ids.pad_token_id if ids.pad_token_id is not None or not eos else eos[0]
    token_ids = TokenIds(
        start=_first(*token_id_tuple(top_ids.decoder_start_token_id), ids.start, top_ids.bos_token_id),
        eos=eos or token_id_tuple(top_ids.eos_token_id),
        pad=_first(top_ids.pad_token_id, pad),
    )
    changes: dict[str, Any] = {}
    if isinstance(ids.decoder_start_token_id, tuple) and len(ids.decoder_start_token_id) > 1:
        changes["decoder_start_token_id"] = ids.decoder_start_token_id
    elif ids.start not in (None, token_ids.start):
        changes["decoder_start_token_id"] = ids.start
    if pad not in (None, token_ids.pad):
        changes["pad_token_id"] = pad
    if eos != token_ids.eos:
        changes["eos_token_id"] = eos
    return token_ids, config.model_copy(update=changes)


def is_generation_config(given: object) -> bool:
    """Whether an object is a ``GenerationConfig`` of transformers', by its methods."""
    return any(callable(getattr(given, name, None)) for name in ("to_diff_dict", "to_dict"))


def read_generation_config(given: Any, base: GenerationConfig) -> GenerationConfig:
    """The options of a ``GenerationConfig`` of transformers', over those of ``base``.

    Args:
        given: the object; what is not set in it, or at its default, is that of ``base``.
        base: our options.

    Raises:
        ConfigSchemaError, ConfigLimitError, UsageError: as for ``generation_config.json``.

    Warns:
        UserWarning: options with an effect that vedcore lacks; a single warning names all of them.
    """
    data = (given.to_diff_dict if callable(getattr(given, "to_diff_dict", None)) else given.to_dict)()
    if not isinstance(data, Mapping):
        raise UsageError(
            f"{type(given).__name__} does not give its options as a mapping",
            field="generation_config",
            hint="give them as keywords: num_beams=4",
        )
    found = {name: value for name, value in data.items() if value is not None}
    _warn_of_unsupported(found, "generation_config")
    options = {name: found[name] for name in (*SHARED_OPTIONS, *CALL_OPTIONS) if name in found}
    kept = base.model_dump(exclude_unset=True)
    for pair in SYNONYMS:
        if any(name in options for name in pair):
            kept = {name: value for name, value in kept.items() if name not in pair}
    return GenerationConfig.parse(_with_effect({**kept, **options}))


def within_positions(config: GenerationConfig, max_positions: int | None) -> GenerationConfig:
    """The options with lengths limited to the positions of a decoder; None is a decoder without a limit."""
    lengths = {name: value for pair in SYNONYMS for name in pair if (value := getattr(config, name)) is not None}
    if max_positions is None or not lengths:
        return config
    # the last token takes no position, as it is not read again; options without a length fill the positions
    longest = max_positions + ("max_length" in lengths or "max_new_tokens" in lengths)
    fitting = {name: min(value, longest - name.endswith("_new_tokens")) for name, value in lengths.items()}
    return config.model_copy(update=fitting)


def write_generation(config: GenerationConfig, ids: TokenIds, *, max_positions: int | None = None) -> dict[str, Any]:
    """The ``generation_config.json`` with which transformers' ``generate`` gives the same texts.

    Args:
        config: the model's options.
        ids: the model's token ids.
        max_positions: positions of the decoder; None for a decoder without a limit. If ``config`` has no length, texts
            may fill them, and the file says so: transformers' default is 20 tokens.

    Warns:
        UserWarning: options that transformers lacks, such as a seed; there, call ``torch.manual_seed``.
    """
    if lost := config.model_dump(exclude_defaults=True, include=set(VEDCORE_OPTIONS)):
        shown = ", ".join(f"{name}={short(value)}" for name, value in lost.items())
        warn_caller(f"not written, as transformers has no such options: {shown}")
    kept = config.model_dump(mode="json", exclude_defaults=True, include=set(SHARED_OPTIONS) - set(TOKEN_ID_FIELDS))
    written = {name: value for name, value in kept.items() if value not in (None, [])}
    if not {"max_length", "max_new_tokens"} & written.keys():
        # with one position vedcore still generates one token after the start id
        written |= {"max_length": max(max_positions, 2)} if max_positions else {"max_new_tokens": DEFAULT_MAX_LENGTH}
    written |= write_ids(config.token_ids(ids, MAX_VOCAB_SIZE))
    if isinstance(config.decoder_start_token_id, tuple):
        written["decoder_start_token_id"] = list(config.decoder_start_token_id)
    return written


def write_ids(ids: TokenIds) -> dict[str, Any]:
    """The token ids at the top of transformers' ``config.json``; ids that are not set are left out."""
    eos: int | list[int] | None = ids.eos[0] if len(ids.eos) == 1 else list(ids.eos) or None
    named = {"decoder_start_token_id": ids.start, "eos_token_id": eos, "pad_token_id": ids.pad}
    return {name: value for name, value in named.items() if value is not None}


def _given(section: Mapping[str, Any]) -> dict[str, Any]:
    """The generation options in a section of ``config.json``, which has other settings too."""
    known = [*SHARED_OPTIONS, *UNSUPPORTED_OPTIONS, *UNSUPPORTED_SAMPLING_OPTIONS]
    return {name: section[name] for name in known if section.get(name) is not None}


def _with_effect(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those that have no effect, and with lengths that fit each other."""
    # kept without beams too: GenerationConfig refuses them, and does not ignore them silently
    forced = {name: options[name] for name in ("force_words_ids",) if name in options}
    kept = {**without_idle(options, forced), **forced}
    lengths = {name: _length(name, kept[name]) for pair in SYNONYMS for name in pair if name in kept}
    longest = lengths.get("max_length", lengths.get("max_new_tokens", MAX_LENGTH) + 1)
    for name in lengths:  # as in transformers: a minimum above the maximum means the maximum
        kept[name] = min(lengths[name], longest - name.endswith("_new_tokens"))
    return kept


def _length(name: str, value: Any) -> int:
    length: int = getattr(GenerationConfig.parse({name: value}), name)
    return length


def _warn_of_unsupported(given: Mapping[str, Any], file: object) -> None:
    known = {*SHARED_OPTIONS, *TOKEN_ID_FIELDS, *IGNORED_OPTIONS}
    if given.get("do_sample") is not True:
        known |= UNSUPPORTED_SAMPLING_OPTIONS.keys()
    off = {**UNSUPPORTED_OPTIONS, **UNSUPPORTED_SAMPLING_OPTIONS}
    names = [name for name, value in given.items() if name not in known and value not in (off.get(name), [], {})]
    if names:
        shown = ", ".join(short(name) for name in names[:8]) + (", …" if len(names) > 8 else "")
        warn_caller(f"{file}: vedcore does not have these options, and generates without them: {shown}")


def _first(*ids: int | None) -> int | None:
    return next((each for each in ids if each is not None), None)
