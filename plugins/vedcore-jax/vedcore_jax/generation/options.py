"""The options of `generate` that are here, checked as the core checks them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vedcore import CheckpointError, GenerationConfig, TokenIds, UsageError
from vedcore.config import token_id_tuple
from vedcore.export import Graphs
from vedcore.model_files import GENERATION_CONFIG

__all__ = ["SUPPORTED", "Search", "read_options", "search_of"]

SUPPORTED = (
    "max_new_tokens",
    "max_length",
    "min_new_tokens",
    "min_length",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "seed",
    "num_beams",
    "early_stopping",
    "length_penalty",
    "num_return_sequences",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
)
"""By transformers' names and with their meaning: those of `GenerationConfig`."""
_NO_SEARCH = {"use_cache", "compile", "return_dict_in_generate"}
"""Say how the core works or answers, and change no text."""


class Search(NamedTuple):
    """How texts are written: numbers alone, so that `jax.jit` compiles once for each."""

    prompt_length: int
    max_length: int
    """Tokens at which a text is cut, prompt included."""
    min_length: int
    start: int
    """-1 where the model has none."""
    eos: tuple[int, ...]
    pad: int
    """Follows behind an end."""
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    num_beams: int
    early_stopping: bool | Literal["never"]
    length_penalty: float
    returned: int
    """Texts for each image."""
    repetition_penalty: float
    no_repeat_ngram_size: int
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]
    forced_first: tuple[int, ...]
    forced_last: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows of text that grow for each image."""
        return self.num_beams if self.num_beams > 1 else self.returned

    @property
    def least_kept(self) -> int:
        """Tokens that are left to draw from at least."""
        return max(2, len(self.eos) + 1) if self.num_beams > 1 else 1


def read_options(folder: Path) -> GenerationConfig:
    """The options of an export's generation_config.json, or the usual ones where it has none.

    Raises:
        CheckpointError: not JSON.
        ConfigError: an option or a value that cannot be used.
    """
    path = folder / GENERATION_CONFIG
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return GenerationConfig()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            str(error), path=path, hint="export the model anew: vedcore export MODEL FOLDER"
        ) from None
    return GenerationConfig.parse(data, path=path)


def search_of(
    stored: GenerationConfig, options: Mapping[str, Any], graphs: Graphs, prompt_length: int
) -> tuple[Search, int]:
    """The search that options ask for, those stored with a model the defaults; and the seed of its draws.

    Raises:
        UsageError: an unknown option, one that is not here, or options that contradict each other.
    """
    asked = stored.with_options(**options)
    for name in GenerationConfig.model_fields:
        if name not in SUPPORTED and name not in _NO_SEARCH and asked.asks_for(name):
            hint = "leave it out, or generate with torch; vedcore_jax.generation.options.SUPPORTED has those of JAX"
            raise UsageError("not an option of vedcore-jax", field=name, hint=hint)
    ids = asked.token_ids(TokenIds.parse(dict(graphs.token_ids)), graphs.vocab_size)
    limits = asked.limits(prompt_length, graphs.max_positions)
    ends = ids.eos if asked.num_beams > 1 else ()
    search = Search(
        prompt_length,
        limits.max_length,
        limits.min_length,
        -1 if ids.start is None else ids.start,
        ids.eos,
        ids.pad or (ends[0] if ends else 0),
        asked.do_sample,
        asked.temperature,
        asked.top_k,
        asked.top_p,
        asked.min_p,
        asked.num_beams,
        asked.early_stopping,
        asked.length_penalty,
        asked.num_return_sequences,
        asked.repetition_penalty,
        asked.no_repeat_ngram_size,
        asked.suppress_tokens,
        asked.begin_suppress_tokens,
        token_id_tuple(asked.forced_bos_token_id),
        token_id_tuple(asked.forced_eos_token_id),
    )
    return search, asked.seed or 0
