"""The tokenizer classes of transformers that are read from a vocabulary alone: what is done before and after it."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from vedcore.config_files.plain import short
from vedcore.errors import IncompatibleError, TokenizerError
from vedcore.hf.sentencepiece import BPE, SentencePieceModel, parse_sentencepiece
from vedcore.hf.tokenizer_files import ROLES, SENTENCEPIECE_FILES, Folder, Kind
from vedcore.processing.tokenizers import MAX_ID, foreign_errors

# What Unicode calls white space, and the library strips; Python's own strip() takes four control characters more
_SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
# The codes that MBart's and MBart50's vocabularies end with
_MBART_CODES = [
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
_MBART50_CODES = [
    *_MBART_CODES,
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


def _bert(here: Folder) -> Tokenizer:
    text = here.text("vocab.txt", "copy it, or the tokenizer.json, too")
    if not text.strip():
        raise TokenizerError("no tokens in it", path=here.path("vocab.txt"), hint="copy the file again")
    vocab = {line.rstrip(_SPACE): i for i, line in enumerate(text.removesuffix("\n").split("\n"))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=here.token("unk_token")))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=here.flag("tokenize_chinese_chars", True),
        strip_accents=here.flag("strip_accents", None),
        lowercase=here.flag("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _byte_bpe(here: Folder) -> Tokenizer:
    hint = "copy it, or the tokenizer.json, too"
    path = here.path("vocab.json")
    merges = _merges(here.text("merges.txt", hint), here.path("merges.txt"))
    here.text("vocab.json", hint)
    vocab = here.json("vocab.json")
    by_id: dict[int, str] = {}
    for token, index in vocab.items():
        if type(index) is not int or not 0 <= index <= MAX_ID:
            raise IncompatibleError(
                f"token {token[:40]!r} has the id {short(index)}, which is no whole number from 0 to {MAX_ID:,}",
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
                f"{short(left)} and {short(right)} make {short(left + right)}, which vocab.json has not",
                path=here.path("merges.txt"),
                hint="copy both files again",
            )
    with foreign_errors("merges that do not fit vocab.json", here.path("merges.txt"), "copy both files again"):
        model = models.BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=here.flag("add_prefix_space", False))
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


def _sentencepiece(here: Folder) -> SentencePieceModel | None:
    name = next((name for name in SENTENCEPIECE_FILES if name in here.files), None)
    if name is None:
        return None
    model = parse_sentencepiece(here.files[name], path=here.path(name))
    if not here.extra_given:
        here.extra = [AddedToken(token, normalized=False, special=special) for token, special in model.declared]
    return model


def _fairseq(here: Folder, first: list[str], skip: int, last: list[str], unk_id: int = 3) -> tuple[Tokenizer, bytes]:
    """A unigram model whose ids are fairseq's: its own first tokens for those of the file, and others after them."""
    model = _sentencepiece(here)
    if model is None:
        name = SENTENCEPIECE_FILES[0]
        raise TokenizerError(
            "no such file, but its tokenizer needs it", path=here.path(name), hint="copy it, or the tokenizer.json, too"
        )
    zero = [(token, -100.0 if token == "<unk>NOTUSED" else 0.0) for token in first]
    vocab = [*zero, *model.pieces[skip:], *((token, 0.0) for token in last)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=unk_id, byte_fallback=False))
    return tokenizer, model.charsmap


def _metaspace(tokenizer: Tokenizer, add_prefix_space: bool) -> Tokenizer:
    scheme = "always" if add_prefix_space else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    return tokenizer


def _xlm_roberta(here: Folder) -> Tokenizer:
    first = [here.token(role) for role in ("bos_token", "pad_token", "eos_token", "unk_token")]
    tokenizer, charsmap = _fairseq(here, first, 3, [here.token("mask_token")])
    if charsmap:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    return _metaspace(tokenizer, here.flag("add_prefix_space", True))


def _camembert(here: Folder) -> Tokenizer:
    pad, unk, mask = (here.token(role) for role in ("pad_token", "unk_token", "mask_token"))
    first = ["<s>NOTUSED", pad, "</s>NOTUSED", unk, "<unk>NOTUSED"]
    tokenizer, charsmap = _fairseq(here, first, 1, [mask], first.index(unk))
    if charsmap:
        tokenizer.normalizer = normalizers.Precompiled(charsmap)
    return _metaspace(tokenizer, here.flag("add_prefix_space", True))


def _mbart(here: Folder) -> Tokenizer:
    first = [here.token(role) for role in ("bos_token", "pad_token", "eos_token", "unk_token")]
    tokenizer, _ = _fairseq(here, first, 3, [*_MBART_CODES, here.token("mask_token")])
    if not here.extra_given:
        here.extra = [*(AddedToken(code, special=True) for code in _MBART_CODES), *here.extra]
    return _metaspace(tokenizer, True)  # without the file's normaliser, as in transformers


def _mbart50(here: Folder) -> Tokenizer:
    first = [here.token(role) for role in ("cls_token", "pad_token", "eos_token", "unk_token")]
    tokenizer, charsmap = _fairseq(here, first, 3, [*_MBART50_CODES, here.token("mask_token")])
    if not here.extra_given:
        here.extra += (AddedToken(code, special=True) for code in _MBART50_CODES)
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap), spaces] if charsmap else [spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return tokenizer


def _generic(here: Folder) -> Tokenizer:
    """A SentencePiece model as it is; of other files one cannot know what is done around the vocabulary."""
    model = _sentencepiece(here)
    if model is None:
        raise TokenizerError(
            "which kind of tokenizer its vocabulary is for is said nowhere",
            path=here.path("tokenizer_config.json"),
            field="tokenizer_class",
            hint=f"name one of {', '.join(CLASSES)}",
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
    back = [decoders.Replace("▁", " "), *([decoders.ByteFallback(), decoders.Fuse()] if model.byte_fallback else [])]
    tokenizer.decoder = decoders.Sequence(back)
    for role, index, piece in (
        ("bos_token", model.bos_id, model.bos_piece),
        ("eos_token", model.eos_id, model.eos_piece),
        ("unk_token", model.unk_id, model.unk_piece),
    ):
        if index >= 0:
            here.named.setdefault(role, piece)
    here.named = {role: here.named[role] for role in dict.fromkeys((*ROLES, *here.named)) if role in here.named}
    return tokenizer


# What is put around a text


def _id(here: Folder, tokenizer: Tokenizer, token: str) -> int:
    index = tokenizer.token_to_id(token)
    if index is None:
        raise TokenizerError(
            f"no token {token!r}", path=here.path("tokenizer_config.json"), hint="name another special token"
        )
    return index


def _template(here: Folder, tokenizer: Tokenizer, single: list[str], pair: list[str], *tokens: str) -> Any:
    special = [(token, _id(here, tokenizer, token)) for token in dict.fromkeys(tokens) if token]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)


def _around_bos_eos(here: Folder, tokenizer: Tokenizer) -> Any:
    """Nothing, unless the config asks for a token before or after."""
    bos = here.token("bos_token") if here.flag("add_bos_token", False) else ""
    eos = here.token("eos_token") if here.flag("add_eos_token", False) else ""
    single = [f"{bos}:0"] * bool(bos) + ["$A:0"] + [f"{eos}:0"] * bool(eos)
    pair = single + [f"{bos}:1"] * bool(bos) + ["$B:1"] + [f"{eos}:1"] * bool(eos)
    return _template(here, tokenizer, single, pair, bos, eos)


def _around_bert(here: Folder, tokenizer: Tokenizer) -> Any:
    cls, sep = here.token("cls_token"), here.token("sep_token")
    single = [f"{cls}:0", "$A:0", f"{sep}:0"]
    return _template(here, tokenizer, single, [*single, "$B:1", f"{sep}:1"], cls, sep)


def _around_roberta(here: Folder, tokenizer: Tokenizer) -> Any:
    sep, cls = here.token("sep_token"), here.token("cls_token")
    return processors.RobertaProcessing(
        (sep, _id(here, tokenizer, sep)),
        (cls, _id(here, tokenizer, cls)),
        here.flag("trim_offsets", True),
        here.flag("add_prefix_space", False),
    )


def _around_fairseq(here: Folder, tokenizer: Tokenizer) -> Any:
    bos, eos = here.token("bos_token"), here.token("eos_token")
    return _template(here, tokenizer, [bos, "$A", eos], [bos, "$A", eos, eos, "$B", eos], bos, eos)


def _around_mbart(here: Folder, tokenizer: Tokenizer) -> Any:
    code, eos = _language(here, tokenizer), here.token("eos_token")
    return _template(here, tokenizer, ["$A", eos, code], ["$A", "$B", eos, code], code, eos)


def _around_mbart50(here: Folder, tokenizer: Tokenizer) -> Any:
    code, eos = _language(here, tokenizer), here.token("eos_token")
    return _template(here, tokenizer, [code, "$A", eos], [code, "$A", "$B", eos], code, eos)


def _language(here: Folder, tokenizer: Tokenizer) -> str:
    code = here.settings.get("src_lang")
    code = "en_XX" if code is None else code
    if not isinstance(code, str) or tokenizer.token_to_id(code) is None:
        raise TokenizerError(
            f"no such language: {short(code)}",
            path=here.path("tokenizer_config.json"),
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
_MBART50_TOKENS = {role: token for role, token in _ROBERTA_TOKENS.items() if role != "bos_token"}
GENERIC = Kind(_generic, {}, _around_bos_eos)
_BERT = Kind(_bert, _BERT_TOKENS, _around_bert)
_GPT2 = Kind(_byte_bpe, dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"), _around_bos_eos)
_ROBERTA = Kind(_byte_bpe, _ROBERTA_TOKENS, _around_roberta)
CLASSES = {
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": _BERT,
    "ElectraTokenizer": _BERT,
    "GPT2Tokenizer": _GPT2,
    "RobertaTokenizer": _ROBERTA,
    "BartTokenizer": _ROBERTA,
    "XLMRobertaTokenizer": Kind(_xlm_roberta, _ROBERTA_TOKENS, _around_fairseq),
    "CamembertTokenizer": Kind(_camembert, _ROBERTA_TOKENS, _around_fairseq, mask_lstrip=True),
    "MBartTokenizer": Kind(_mbart, _ROBERTA_TOKENS, _around_mbart, mask_lstrip=True),
    "MBart50Tokenizer": Kind(_mbart50, _MBART50_TOKENS, _around_mbart50, mask_lstrip=True),
}
# What a decoder's tokenizer is where no file names one
CLASS_OF = {
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "electra": "BertTokenizer",
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
