"""Tokenizers of transformers' folders: read from the files that are there, written as a tokenizer.json.

``tokenizer.json`` is read as it is. Older folders have only a vocabulary, in the files of a tokenizer family; the
tokenizer built from them is that of transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers

from vedcore.config import TokenIds
from vedcore.config_files.plain import short
from vedcore.errors import IncompatibleError, TokenizerError
from vedcore.files import other_content_error
from vedcore.hf.tokenizer_families import FAMILIES, FAMILY_OF_MODEL_TYPE, GENERIC
from vedcore.hf.tokenizer_files import SAVE_HINT, SENTENCEPIECE_FILES, TokenizerFolder, add_tokens, collect_tokens
from vedcore.processing.japanese import mecab_dictionary
from vedcore.processing.tokenizers import foreign_errors, parse_tokenizer

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
"""Names of the files that `read_tokenizer` may read; each is optional."""

# replacements of ``clean_up_tokenization_spaces``, in transformers' order
_CLEAN_UP_REPLACEMENTS = (
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
    """The tokenizer of a transformers folder; None if the folder has none of a tokenizer's files.

    Args:
        files: contents by name, of `TOKENIZER_FILES`.
        folder: the folder that they came from, for messages.
        model_type: the decoder's model type, which decides the family where ``tokenizer_class`` does not.

    Raises:
        TokenizerError: a damaged file, a missing file, a class that cannot be read; names the file.
        IncompatibleError: ids that contradict each other.
        ConfigLimitError: padding or truncation beyond 100,000 tokens.
        CheckpointLimitError: too many added tokens, too long tokens.
    """
    for name, data in files.items():
        if (other := other_content_error(data, f"{folder}/{name}", TokenizerError)) is not None:
            raise other
    opened = open_folder(files, folder, model_type)
    if opened is None:
        return None
    if "tokenizer.json" in files:
        tokenizer = parse_tokenizer(files["tokenizer.json"], path=opened.path("tokenizer.json"))
        collect_tokens(opened, tokenizer)
        add_tokens(opened, tokenizer)
    else:
        collect_tokens(opened, None)
        name = next(name for name in ("vocab.json", "vocab.txt", *SENTENCEPIECE_FILES) if name in files)
        with foreign_errors("not a tokenizer", opened.path(name), "copy the file again"):
            tokenizer = opened.family.build(opened)
        add_tokens(opened, tokenizer)
        with foreign_errors("the special tokens cannot be used", opened.location, "set another special token"):
            tokenizer.post_processor = opened.family.post_processor(opened, tokenizer)
    clean_up_spaces(opened, tokenizer)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, token_ids: TokenIds, *, model_max_length: int | None) -> dict[str, bytes]:
    """The files from which transformers' ``AutoTokenizer`` makes the same tokenizer.

    Args:
        tokenizer: any tokenizer that the library can save.
        token_ids: the ids that start, end and fill a text; they become transformers' ``bos``, ``eos`` (the first of
            several) and ``pad`` token.
        model_max_length: the most tokens that the decoder takes; None for no limit.

    Returns:
        Contents by name: ``tokenizer.json``, ``tokenizer_config.json`` and ``special_tokens_map.json``; for Japanese
        words, which transformers splits with a class of its own, ``vocab.txt`` in place of the first.

    Raises:
        TokenizerError: the tokenizer cannot be saved.
        IncompatibleError: an id of ``token_ids`` without a token.
    """
    with foreign_errors("the tokenizer cannot be saved", None, "use parts that the tokenizers library can save"):
        text = tokenizer.to_str(pretty=True)
    special: dict[str, str] = {}
    eos = token_ids.eos[0] if token_ids.eos else None
    for role, field, index in (("bos", "start", token_ids.start), ("eos", "eos", eos), ("pad", "pad", token_ids.pad)):
        if index is None:
            continue
        token = tokenizer.id_to_token(index)
        if token is None:
            raise IncompatibleError(
                f"id {index} has no token in a vocabulary of {tokenizer.get_vocab_size()}",
                field=f"token_ids.{field}",
                hint="set an id that the tokenizer has",
            )
        special[f"{role}_token"] = token
    unknown = getattr(tokenizer.model, "unk_token", None)
    if isinstance(unknown, str) and tokenizer.token_to_id(unknown) is not None:
        special["unk_token"] = unknown
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **special}
    if model_max_length is not None:
        settings["model_max_length"] = model_max_length
    if (dictionary := mecab_dictionary(tokenizer)) is not None:
        return _japanese_files(tokenizer, dictionary, settings, special)
    return {
        "tokenizer.json": text.encode(),
        "tokenizer_config.json": _dump(settings),
        "special_tokens_map.json": _dump(special),
    }


def _japanese_files(
    tokenizer: Tokenizer, dictionary: str, settings: Mapping[str, Any], special: Mapping[str, str]
) -> dict[str, bytes]:
    vocabulary = sorted(tokenizer.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
    flags = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    added = {
        str(index): {flag: getattr(token, flag) for flag in flags}
        for index, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    own = {
        "tokenizer_class": "BertJapaneseTokenizer",
        "word_tokenizer_type": "mecab",
        "subword_tokenizer_type": "wordpiece",
        "mecab_kwargs": {"mecab_dic": dictionary},
        "do_lower_case": any(isinstance(step, normalizers.Lowercase) for step in tokenizer.normalizer),
        "added_tokens_decoder": added,
    }
    return {
        "vocab.txt": "".join(f"{token}\n" for token, _ in vocabulary).encode(),
        "tokenizer_config.json": _dump({**settings, **own}),
        "special_tokens_map.json": _dump(special),
    }


def _dump(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def open_folder(files: Mapping[str, bytes], location: object, model_type: str | None) -> TokenizerFolder | None:
    """The files, with their settings read and their family chosen; None without a vocabulary."""
    folder = TokenizerFolder(files, location, GENERIC)
    if not files.keys() & {"tokenizer.json", "vocab.json", "vocab.txt", *SENTENCEPIECE_FILES}:
        return None
    folder.settings = folder.json("tokenizer_config.json")
    declared = folder.settings.get("tokenizer_class")
    if declared is not None and not isinstance(declared, str):
        raise TokenizerError(
            f"name of a class expected, got {short(declared)}",
            path=folder.path("tokenizer_config.json"),
            field="tokenizer_class",
            hint="write it as text, such as 'BertTokenizer'",
        )
    name = (declared or "").removesuffix("Fast")
    if name in FAMILIES:
        folder.family = FAMILIES[name]
    elif declared in ("PreTrainedTokenizerFast", "TokenizersBackend") and "tokenizer.json" in files:
        pass  # tokenizer.json is complete, whatever the decoder is
    elif name in ("", "PreTrainedTokenizer", "TokenizersBackend"):
        folder.family = FAMILIES.get(FAMILY_OF_MODEL_TYPE.get(model_type or "", ""), GENERIC)
        if model_type == "trocr" and not files.keys() & set(SENTENCEPIECE_FILES):
            folder.family = FAMILIES["RobertaTokenizer"]  # TrOCR's larger models have RoBERTa's
    elif "tokenizer.json" not in files:
        raise TokenizerError(
            f"{name} without a tokenizer.json cannot be read",
            path=folder.path("tokenizer_config.json"),
            field="tokenizer_class",
            hint=SAVE_HINT,
        )
    return folder


def clean_up_spaces(folder: TokenizerFolder, tokenizer: Tokenizer) -> None:
    """Remove spaces before punctuation in decoded text if the config sets it; transformers does not for BPE."""
    forced = folder.flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
    wanted = folder.flag("clean_up_tokenization_spaces", None)
    if wanted and (forced or not isinstance(tokenizer.model, models.BPE)) and tokenizer.decoder is not None:
        replacing = [decoders.Replace(old, new) for old, new in _CLEAN_UP_REPLACEMENTS]
        tokenizer.decoder = decoders.Sequence([tokenizer.decoder, decoders.Fuse(), *replacing])
