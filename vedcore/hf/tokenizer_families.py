"""The tokenizer families of transformers: how a tokenizer is built from a vocabulary, and its special tokens."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from vedcore.config_files.plain import short
from vedcore.errors import IncompatibleError, TokenizerError
from vedcore.hf.sentencepiece import BPE, SentencePieceModel, parse_sentencepiece
from vedcore.hf.tokenizer_files import ROLES, SENTENCEPIECE_FILES, TokenizerFamily, TokenizerFolder
from vedcore.processing.japanese import DICTIONARIES, mecab_mark, require_mecab
from vedcore.processing.tokenizers import MAX_TOKEN_ID, foreign_errors

# white space by Unicode, which the library strips; Python's strip() also takes four control characters
_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
# language codes at the end of the vocabularies of MBart and MBart50
_MBART_LANGUAGES = [
    "ar_AR",
    "cs_CZ",
    "de_DE",
    "en_XX",
    "es_XX",
    "et_EE",
    "fi_FI",
    "fr_XX",
    "gu_IN",
    "hi_IN",
    "it_IT",
    "ja_XX",
    "kk_KZ",
    "ko_KR",
    "lt_LT",
    "lv_LV",
    "my_MM",
    "ne_NP",
    "nl_XX",
    "ro_RO",
    "ru_RU",
    "si_LK",
    "tr_TR",
    "vi_VN",
    "zh_CN",
]
_MBART50_LANGUAGES = [
    *_MBART_LANGUAGES,
    "af_ZA",
    "az_AZ",
    "bn_IN",
    "fa_IR",
    "he_IL",
    "hr_HR",
    "id_ID",
    "ka_GE",
    "km_KH",
    "mk_MK",
    "ml_IN",
    "mn_MN",
    "mr_IN",
    "pl_PL",
    "ps_AF",
    "pt_XX",
    "sv_SE",
    "sw_KE",
    "ta_IN",
    "te_IN",
    "th_TH",
    "tl_XX",
    "uk_UA",
    "ur_PK",
    "xh_ZA",
    "gl_ES",
    "sl_SI",
]


def _wordpieces(folder: TokenizerFolder) -> dict[str, int]:
    """The ids of the tokens in vocab.txt."""
    text = folder.text("vocab.txt", "copy it, or the tokenizer.json, too")
    if not text.strip():
        raise TokenizerError("no tokens in it", path=folder.path("vocab.txt"), hint="copy the file again")
    return {line.rstrip(_WHITE_SPACE): i for i, line in enumerate(text.removesuffix("\n").split("\n"))}


def _bert(folder: TokenizerFolder) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(_wordpieces(folder), unk_token=folder.token("unk_token")))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=folder.flag("tokenize_chinese_chars", True),
        strip_accents=folder.flag("strip_accents", None),
        lowercase=folder.flag("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _bert_japanese(folder: TokenizerFolder) -> Tokenizer:
    """Words, of MeCab or between spaces and punctuation, in pieces of words or in characters."""
    words, pieces = (
        _choice(folder, "word_tokenizer_type", "basic"),
        _choice(folder, "subword_tokenizer_type", "wordpiece"),
    )
    if not folder.flag("do_word_tokenize", True) or not folder.flag("do_subword_tokenize", True):
        raise TokenizerError(
            "a Japanese tokenizer without words or pieces cannot be read",
            path=folder.path("tokenizer_config.json"),
            field="do_word_tokenize",
            hint="put the tokenizer.json of another tokenizer there",
        )
    unknown, lower = folder.token("unk_token"), folder.flag("do_lower_case", False)
    steps: list[Any] = [normalizers.NFKC(), *([normalizers.Lowercase()] if lower else [])]
    splitting: list[Any] = [pre_tokenizers.WhitespaceSplit()]
    if words == "basic":
        steps = [normalizers.BertNormalizer(handle_chinese_chars=False, strip_accents=None, lowercase=lower)]
        splitting = [pre_tokenizers.BertPreTokenizer()]
    elif pieces == "wordpiece":
        dictionary = _mecab_dictionary(folder)
        require_mecab(dictionary)
        steps.insert(0, mecab_mark(dictionary))
    model: Any = models.WordPiece(_wordpieces(folder), unk_token=unknown)
    if pieces == "character":
        model = models.WordLevel(_wordpieces(folder), unk_token=unknown)
        splitting.append(pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"))
        steps += [] if words != "basic" else [normalizers.NFKC()]
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splitting)
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return tokenizer


def _choice(folder: TokenizerFolder, field: str, default: str) -> str:
    known = {"word_tokenizer_type": ("basic", "mecab"), "subword_tokenizer_type": ("wordpiece", "character")}[field]
    value = folder.settings.get(field, default)
    if value not in known:
        raise TokenizerError(
            f"{short(value)} cannot be read, only {' and '.join(known)}",
            path=folder.path("tokenizer_config.json"),
            field=field,
            hint="put the tokenizer.json of another tokenizer there",
        )
    return str(value)


def _mecab_dictionary(folder: TokenizerFolder) -> str:
    given = folder.settings.get("mecab_kwargs") or {}
    name = given.get("mecab_dic", DICTIONARIES[0]) if isinstance(given, dict) else given
    if name not in DICTIONARIES or set(given) - {"mecab_dic"}:
        raise TokenizerError(
            f"settings of MeCab that cannot be read: {short(given)}",
            path=folder.path("tokenizer_config.json"),
            field="mecab_kwargs",
            hint=f"write only mecab_dic, one of {', '.join(DICTIONARIES)}",
        )
    return str(name)


def _byte_bpe(folder: TokenizerFolder) -> Tokenizer:
    hint = "copy it, or the tokenizer.json, too"
    path = folder.path("vocab.json")
    merges = _merges(folder.text("merges.txt", hint), folder.path("merges.txt"))
    folder.text("vocab.json", hint)
    vocab = folder.json("vocab.json")
    by_id: dict[int, str] = {}
    for token, index in vocab.items():
        if type(index) is not int or not 0 <= index <= MAX_TOKEN_ID:
            raise IncompatibleError(
                f"token {token[:40]!r} has the id {short(index)}, not a whole number from 0 to {MAX_TOKEN_ID:,}",
                path=path,
                hint="number from 0",
            )
        if (other := by_id.setdefault(index, token)) != token:
            raise IncompatibleError(
                f"tokens {other[:40]!r} and {token[:40]!r} share the id {index}", path=path, hint="give each its own"
            )
    if not vocab:
        raise TokenizerError("no tokens in it", path=path, hint="copy the file again")
    for left, right in merges:  # the library may abort the process
        if left + right not in vocab:
            raise TokenizerError(
                f"{short(left)} and {short(right)} make {short(left + right)}, which is not in vocab.json",
                path=folder.path("merges.txt"),
                hint="copy both files again",
            )
    with foreign_errors("merges that do not fit vocab.json", folder.path("merges.txt"), "copy both files again"):
        model = models.BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=folder.flag("add_prefix_space", False))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges(text: str, path: str) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(text.rstrip("\r\n").split("\n"), 1):
        line = line.removesuffix("\r")
        if line.startswith("#version") or not text.strip():
            continue
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise TokenizerError(
                f"two tokens and a space expected, got {short(line)}",
                path=f"{path}:{number}",
                hint="copy the file again",
            )
        merges.append((left, right))
    return merges


def _sentencepiece(folder: TokenizerFolder) -> SentencePieceModel | None:
    name = next((name for name in SENTENCEPIECE_FILES if name in folder.files), None)
    if name is None:
        return None
    model = parse_sentencepiece(folder.files[name], path=folder.path(name))
    if not folder.extra_declared:
        folder.extra_special_tokens = [
            AddedToken(token, normalized=False, special=special) for token, special in model.declared
        ]
    return model


def _fairseq_unigram(
    folder: TokenizerFolder, first: list[str], skip: int, last: list[str], unk_id: int = 3
) -> tuple[Tokenizer, bytes]:
    """A unigram tokenizer with the ids of fairseq, which trained these models, and the compiled normaliser of its file.

    Args:
        folder: the files.
        first: tokens before the pieces of the file.
        skip: number of the file's first pieces that they replace.
        last: tokens after the pieces of the file.
        unk_id: id of the unknown token.
    """
    model = _sentencepiece(folder)
    if model is None:
        name = SENTENCEPIECE_FILES[0]
        raise TokenizerError(
            "no such file, but this tokenizer needs it",
            path=folder.path(name),
            hint="copy it, or the tokenizer.json, too",
        )
    before = [(token, -100.0 if token == "<unk>NOTUSED" else 0.0) for token in first]
    vocab = [*before, *model.pieces[skip:], *((token, 0.0) for token in last)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=unk_id, byte_fallback=False))
    return tokenizer, model.charsmap


def _metaspace(tokenizer: Tokenizer, add_prefix_space: bool) -> Tokenizer:
    scheme = "always" if add_prefix_space else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    return tokenizer


def _xlm_roberta(folder: TokenizerFolder) -> Tokenizer:
    first = [folder.token(role) for role in ("bos_token", "pad_token", "eos_token", "unk_token")]
    tokenizer, charsmap = _fairseq_unigram(folder, first, 3, [folder.token("mask_token")])
    if charsmap:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    return _metaspace(tokenizer, folder.flag("add_prefix_space", True))


def _camembert(folder: TokenizerFolder) -> Tokenizer:
    pad, unk, mask = (folder.token(role) for role in ("pad_token", "unk_token", "mask_token"))
    first = ["<s>NOTUSED", pad, "</s>NOTUSED", unk, "<unk>NOTUSED"]
    tokenizer, charsmap = _fairseq_unigram(folder, first, 1, [mask], first.index(unk))
    if charsmap:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    return _metaspace(tokenizer, folder.flag("add_prefix_space", True))


def _mbart(folder: TokenizerFolder) -> Tokenizer:
    first = [folder.token(role) for role in ("bos_token", "pad_token", "eos_token", "unk_token")]
    tokenizer, _ = _fairseq_unigram(folder, first, 3, [*_MBART_LANGUAGES, folder.token("mask_token")])
    if not folder.extra_declared:
        folder.extra_special_tokens = [
            *(AddedToken(code, special=True) for code in _MBART_LANGUAGES),
            *folder.extra_special_tokens,
        ]
    return _metaspace(tokenizer, True)  # without the file's normaliser, as in transformers


def _mbart50(folder: TokenizerFolder) -> Tokenizer:
    first = [folder.token(role) for role in ("cls_token", "pad_token", "eos_token", "unk_token")]
    tokenizer, charsmap = _fairseq_unigram(folder, first, 3, [*_MBART50_LANGUAGES, folder.token("mask_token")])
    if not folder.extra_declared:
        folder.extra_special_tokens += (AddedToken(code, special=True) for code in _MBART50_LANGUAGES)
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap), spaces] if charsmap else [spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return tokenizer


def _generic(folder: TokenizerFolder) -> Tokenizer:
    """A SentencePiece model as it is; other vocabularies do not say how text is split, so they are refused."""
    model = _sentencepiece(folder)
    if model is None:
        raise TokenizerError(
            "no tokenizer class is named, and the vocabulary does not say which it is for",
            path=folder.path("tokenizer_config.json"),
            field="tokenizer_class",
            hint=f"set it to one of {', '.join(FAMILIES)}",
        )
    if model.algorithm == BPE:
        vocab = {piece: i for i, (piece, _) in enumerate(model.pieces)}
        tokenizer = Tokenizer(
            models.BPE(
                vocab, model.merges(), unk_token=model.unk_piece, fuse_unk=True, byte_fallback=model.byte_fallback
            )
        )
    else:
        tokenizer = Tokenizer(models.Unigram(model.pieces, unk_id=model.unk_id, byte_fallback=model.byte_fallback))
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(model.charsmap), spaces] if model.charsmap else [spaces]
    )
    decoding = [
        decoders.Replace("▁", " "),
        *([decoders.ByteFallback(), decoders.Fuse()] if model.byte_fallback else []),
    ]
    tokenizer.decoder = decoders.Sequence(decoding)
    for role, index, piece in (
        ("bos_token", model.bos_id, model.bos_piece),
        ("eos_token", model.eos_id, model.eos_piece),
        ("unk_token", model.unk_id, model.unk_piece),
    ):
        if index >= 0:
            folder.special_tokens.setdefault(role, piece)
    folder.special_tokens = {
        role: folder.special_tokens[role]
        for role in dict.fromkeys((*ROLES, *folder.special_tokens))
        if role in folder.special_tokens
    }
    return tokenizer


# Post-processors: the special tokens around a text or a pair of texts


def _id_of(folder: TokenizerFolder, tokenizer: Tokenizer, token: str) -> int:
    index = tokenizer.token_to_id(token)
    if index is None:
        raise TokenizerError(
            f"no token {token!r}", path=folder.path("tokenizer_config.json"), hint="set another special token"
        )
    return index


def _template(folder: TokenizerFolder, tokenizer: Tokenizer, single: list[str], pair: list[str], *tokens: str) -> Any:
    special = [(token, _id_of(folder, tokenizer, token)) for token in dict.fromkeys(tokens) if token]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)


def _bos_eos_template(folder: TokenizerFolder, tokenizer: Tokenizer) -> Any:
    """No tokens, unless the config sets ``add_bos_token`` or ``add_eos_token``."""
    bos = folder.token("bos_token") if folder.flag("add_bos_token", False) else ""
    eos = folder.token("eos_token") if folder.flag("add_eos_token", False) else ""
    single = [f"{bos}:0"] * bool(bos) + ["$A:0"] + [f"{eos}:0"] * bool(eos)
    pair = single + [f"{bos}:1"] * bool(bos) + ["$B:1"] + [f"{eos}:1"] * bool(eos)
    return _template(folder, tokenizer, single, pair, bos, eos)


def _bert_template(folder: TokenizerFolder, tokenizer: Tokenizer) -> Any:
    cls, sep = folder.token("cls_token"), folder.token("sep_token")
    single = [f"{cls}:0", "$A:0", f"{sep}:0"]
    return _template(folder, tokenizer, single, [*single, "$B:1", f"{sep}:1"], cls, sep)


def _roberta_processing(folder: TokenizerFolder, tokenizer: Tokenizer) -> Any:
    sep, cls = folder.token("sep_token"), folder.token("cls_token")
    return processors.RobertaProcessing(
        (sep, _id_of(folder, tokenizer, sep)),
        (cls, _id_of(folder, tokenizer, cls)),
        folder.flag("trim_offsets", True),
        folder.flag("add_prefix_space", False),
    )


def _mpnet_processing(folder: TokenizerFolder, tokenizer: Tokenizer) -> Any:
    sep, cls = folder.token("sep_token"), folder.token("cls_token")
    return processors.RobertaProcessing(
        (sep, _id_of(folder, tokenizer, sep)), (cls, _id_of(folder, tokenizer, cls)), True, False
    )


def _fairseq_template(folder: TokenizerFolder, tokenizer: Tokenizer) -> Any:
    bos, eos = folder.token("bos_token"), folder.token("eos_token")
    return _template(folder, tokenizer, [bos, "$A", eos], [bos, "$A", eos, eos, "$B", eos], bos, eos)


def _mbart_template(folder: TokenizerFolder, tokenizer: Tokenizer) -> Any:
    code, eos = _language(folder, tokenizer), folder.token("eos_token")
    return _template(folder, tokenizer, ["$A", eos, code], ["$A", "$B", eos, code], code, eos)


def _mbart50_template(folder: TokenizerFolder, tokenizer: Tokenizer) -> Any:
    code, eos = _language(folder, tokenizer), folder.token("eos_token")
    return _template(folder, tokenizer, [code, "$A", eos], [code, "$A", "$B", eos], code, eos)


def _language(folder: TokenizerFolder, tokenizer: Tokenizer) -> str:
    code = folder.settings.get("src_lang")
    code = "en_XX" if code is None else code
    if not isinstance(code, str) or tokenizer.token_to_id(code) is None:
        raise TokenizerError(
            f"no such language: {short(code)}",
            path=folder.path("tokenizer_config.json"),
            field="src_lang",
            hint="give a code such as 'en_XX'",
        )
    return code


_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
_MPNET_TOKENS = {**_ROBERTA_TOKENS, "unk_token": "[UNK]"}
_MBART50_TOKENS = {role: token for role, token in _ROBERTA_TOKENS.items() if role != "bos_token"}
GENERIC = TokenizerFamily(_generic, {}, _bos_eos_template)
_BERT = TokenizerFamily(_bert, _BERT_TOKENS, _bert_template)
_GPT2 = TokenizerFamily(
    _byte_bpe, dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"), _bos_eos_template
)
_ROBERTA = TokenizerFamily(_byte_bpe, _ROBERTA_TOKENS, _roberta_processing)
FAMILIES = {
    "BertTokenizer": _BERT,
    "BertJapaneseTokenizer": TokenizerFamily(_bert_japanese, _BERT_TOKENS, _bert_template),
    "DistilBertTokenizer": _BERT,
    "ElectraTokenizer": _BERT,
    "MobileBertTokenizer": _BERT,
    "SqueezeBertTokenizer": _BERT,
    "MPNetTokenizer": TokenizerFamily(_bert, _MPNET_TOKENS, _mpnet_processing, mask_lstrip=True),
    "GPT2Tokenizer": _GPT2,
    "RobertaTokenizer": _ROBERTA,
    "BartTokenizer": _ROBERTA,
    "XLMRobertaTokenizer": TokenizerFamily(_xlm_roberta, _ROBERTA_TOKENS, _fairseq_template),
    "CamembertTokenizer": TokenizerFamily(_camembert, _ROBERTA_TOKENS, _fairseq_template, mask_lstrip=True),
    "MBartTokenizer": TokenizerFamily(_mbart, _ROBERTA_TOKENS, _mbart_template, mask_lstrip=True),
    "MBart50Tokenizer": TokenizerFamily(_mbart50, _MBART50_TOKENS, _mbart50_template, mask_lstrip=True),
}
"""Families by the name of their class in transformers, without ``Fast``."""
FAMILY_OF_MODEL_TYPE = {
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "convbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "layoutlm": "BertTokenizer",
    "mobilebert": "BertTokenizer",
    "squeezebert": "BertTokenizer",
    "mpnet": "MPNetTokenizer",
    "gpt2": "GPT2Tokenizer",
    "opt": "GPT2Tokenizer",
    "roberta": "RobertaTokenizer",
    "bart": "BartTokenizer",
    "trocr": "XLMRobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "mbart": "MBartTokenizer",
    "mbart50": "MBart50Tokenizer",
}
"""Names in `FAMILIES` by the decoder's model type, for folders whose files name no class."""
