"""Tokenizers of transformers' folders: read from whichever files are there, written as a tokenizer.json.

``tokenizer.json`` is read as it is. Older folders have the vocabulary alone, in the files of one of the classes below,
and the class says what is done before and after it; what they make is what transformers makes of the same files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer, decoders, models

from vedcore.config import TokenIds
from vedcore.config_files.plain import short
from vedcore.errors import CheckpointLimitError, IncompatibleError, TokenizerError
from vedcore.hf.tokenizer_classes import CLASS_OF, CLASSES, GENERIC
from vedcore.hf.tokenizer_files import SAVE_HINT, SENTENCEPIECE_FILES, Folder, add_tokens, declare
from vedcore.processing.tokenizers import MAX_FILE_BYTES, foreign_errors, parse_tokenizer

__all__ = ["TOKENIZER_FILES", "read_tokenizer", "write_tokenizer"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    *SENTENCEPIECE_FILES,
)
"""Names of the files that `read_tokenizer` may look at, all of them optional."""

# What transformers strips the spaces from where a config asks for it, in its order
_CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def read_tokenizer(files: Mapping[str, bytes], *, folder: object, model_type: str | None = None) -> Tokenizer | None:
    """The tokenizer of a folder of transformers; None where no file of one is there.

    Args:
        files: contents by name, of `TOKENIZER_FILES`.
        folder: where they came from, for messages.
        model_type: the decoder's, as its config says: it decides where ``tokenizer_class`` does not.

    Raises:
        TokenizerError: damaged, a needed file is missing, a class that cannot be read; names the file.
        IncompatibleError: ids that contradict each other.
        ConfigLimitError: padding or truncation beyond 100,000 tokens.
        CheckpointLimitError: a file of more than 256 MB, pieces past what is sane.
    """
    here = open_folder(files, folder, model_type)
    if here is None:
        return None
    if "tokenizer.json" in files:
        tokenizer = parse_tokenizer(files["tokenizer.json"], path=here.path("tokenizer.json"))
        declare(here, tokenizer)
        add_tokens(here, tokenizer)
    else:
        declare(here, None)
        name = next(name for name in ("vocab.json", "vocab.txt", *SENTENCEPIECE_FILES) if name in files)
        with foreign_errors("not a tokenizer", here.path(name), SAVE_HINT):
            tokenizer = here.kind.build(here)
        add_tokens(here, tokenizer)
        with foreign_errors("the special tokens do not fit the vocabulary", here.folder, SAVE_HINT):
            tokenizer.post_processor = here.kind.around(here, tokenizer)
    clean_up(here, tokenizer)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, token_ids: TokenIds, *, model_max_length: int | None) -> dict[str, bytes]:
    """The files from which transformers' ``AutoTokenizer`` makes the same tokenizer.

    Args:
        tokenizer: any.
        token_ids: what starts, ends and fills a text: transformers' ``bos``, (the first) ``eos`` and ``pad`` token.
        model_max_length: the most tokens that the decoder takes; None for no limit.

    Returns:
        Contents by name: ``tokenizer.json``, ``tokenizer_config.json`` and ``special_tokens_map.json``.

    Raises:
        TokenizerError: the tokenizer cannot be saved.
        IncompatibleError: an id of ``token_ids`` that it has no token for.
    """
    with foreign_errors("the tokenizer cannot be saved", None, "use parts that the tokenizers library can save"):
        whole = tokenizer.to_str(pretty=True)
    special: dict[str, str] = {}
    eos = token_ids.eos[0] if token_ids.eos else None
    for role, index in (("bos", token_ids.start), ("eos", eos), ("pad", token_ids.pad)):
        if index is None:
            continue
        token = tokenizer.id_to_token(index)
        if token is None:
            raise IncompatibleError(
                f"id {index} has no token in a vocabulary of {tokenizer.get_vocab_size()}",
                field=f"token_ids.{role}",
                hint="set an id that the tokenizer has",
            )
        special[f"{role}_token"] = token
    unknown = getattr(tokenizer.model, "unk_token", None)
    if isinstance(unknown, str) and tokenizer.token_to_id(unknown) is not None:
        special["unk_token"] = unknown
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **special}
    if model_max_length is not None:
        settings["model_max_length"] = model_max_length
    return {
        "tokenizer.json": whole.encode(),
        "tokenizer_config.json": _dump(settings),
        "special_tokens_map.json": _dump(special),
    }


def _dump(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def open_folder(files: Mapping[str, bytes], folder: object, model_type: str | None) -> Folder | None:
    """The files with their limits checked, their settings read and their kind chosen."""
    here = Folder(files, folder, GENERIC)
    for name in TOKENIZER_FILES:
        if len(files.get(name, b"")) > MAX_FILE_BYTES:
            raise CheckpointLimitError(
                f"{len(files[name]):,} bytes, and a tokenizer has at most {MAX_FILE_BYTES:,}",
                path=here.path(name),
                hint="is it the right file?",
            )
    if not files.keys() & {"tokenizer.json", "vocab.json", "vocab.txt", *SENTENCEPIECE_FILES}:
        return None
    here.settings = here.json("tokenizer_config.json")
    declared = here.settings.get("tokenizer_class")
    if declared is not None and not isinstance(declared, str):
        raise TokenizerError(
            f"a class's name expected, got {short(declared)}",
            path=here.path("tokenizer_config.json"),
            field="tokenizer_class",
            hint="correct it",
        )
    name = (declared or "").removesuffix("Fast")
    if name in CLASSES:
        here.kind = CLASSES[name]
    elif declared in ("PreTrainedTokenizerFast", "TokenizersBackend") and "tokenizer.json" in files:
        pass  # it has what it has, whatever the decoder is
    elif name in ("", "PreTrainedTokenizer", "TokenizersBackend"):
        here.kind = CLASSES.get(CLASS_OF.get(model_type or "", ""), GENERIC)
        if model_type == "trocr" and not files.keys() & set(SENTENCEPIECE_FILES):
            here.kind = CLASSES["RobertaTokenizer"]  # TrOCR's larger models have RoBERTa's
    elif "tokenizer.json" not in files:
        raise TokenizerError(
            f"{name} without a tokenizer.json cannot be read",
            path=here.path("tokenizer_config.json"),
            field="tokenizer_class",
            hint=SAVE_HINT,
        )
    return here


def clean_up(here: Folder, tokenizer: Tokenizer) -> None:
    """Take out the spaces before punctuation where the config says so, which transformers does not do for BPE."""
    forced = here.flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
    wanted = here.flag("clean_up_tokenization_spaces", None)
    if wanted and (forced or not isinstance(tokenizer.model, models.BPE)) and tokenizer.decoder is not None:
        replacing = [decoders.Replace(old, new) for old, new in _CLEAN_UP]
        tokenizer.decoder = decoders.Sequence([tokenizer.decoder, decoders.Fuse(), *replacing])
