"""vedcore's own tokenizers, whose first three ids are ``<s>`` 0, ``</s>`` 1 and ``<pad>`` 2.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from vedcore.config import MAX_VOCAB_SIZE, check_limit
from vedcore.config_files.plain import short
from vedcore.errors import TokenizerError, UsageError
from vedcore.processing.library_errors import foreign_errors, require_unicode

__all__ = ["OWN", "own_tokenizer"]

OWN = ("char", "byte", "bpe")
"""Tokenizers that need no file."""
MAX_ALPHABET_CHARACTERS = 100_000
"""Limit of the alphabet of ``char``."""
PRINTABLE_ASCII = "".join(map(chr, range(0x20, 0x7F)))
SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")
DEFAULT_BPE = 8_000
"""Limit of the tokens of ``bpe`` where none is given."""
SMALLEST_BPE = len(SPECIAL_TOKENS) + 256
"""Tokens of ``bpe`` before it learns any: the special ones, and one a byte."""


def own_tokenizer(kind: str, texts: Iterable[str] | None, vocab_size: int | None) -> Tokenizer:
    """``char``, ``char:`` with an alphabet, ``byte`` or ``bpe``; arguments as `make_tokenizer` takes them."""
    if vocab_size is not None and kind != "bpe":
        hint = "leave vocab_size out, or make a 'bpe'"
        raise UsageError(f"{kind.partition(':')[0]} learns no tokens", field="vocab_size", hint=hint)
    if texts is not None and kind not in ("char", "bpe"):
        hint = "leave texts out, or give 'char' or 'bpe'"
        raise UsageError(f"{short(kind)} does not depend on them", field="texts", hint=hint)
    if isinstance(texts, str):
        raise UsageError("one text, not several", field="texts", hint="give a list of texts")
    if kind == "byte":
        return _byte_tokenizer()
    if kind == "bpe":
        if texts is None:
            hint = "give vedcore.make_tokenizer('bpe', texts=[…]), or take 'byte', which learns nothing"
            raise TokenizerError("no texts to learn tokens from", field="texts", hint=hint)
        size = DEFAULT_BPE if vocab_size is None else vocab_size
        if not isinstance(size, int) or size < SMALLEST_BPE:
            hint = f"give a number of {SMALLEST_BPE} or more"
            raise UsageError(f"{short(size)} tokens cannot spell every byte", field="vocab_size", hint=hint)
        check_limit(size, MAX_VOCAB_SIZE, "vocab_size", "the vocabulary of")
        with foreign_errors("no tokens can be learnt", None, "give a list of texts"):
            return _bpe_tokenizer(map(_checked, texts), size)
    if texts is not None:
        alphabet = "".join(sorted({character for text in texts for character in _checked(text)}))
    else:
        alphabet = PRINTABLE_ASCII if kind == "char" else kind.removeprefix("char:")
    if not alphabet or len(set(alphabet)) < len(alphabet) or len(alphabet) > MAX_ALPHABET_CHARACTERS:
        raise TokenizerError(
            f"an alphabet of {len(alphabet)} characters, {len(set(alphabet))} of them different",
            field="tokenizer",
            hint="write each character once, as in 'char:0123456789'",
        )
    require_unicode(alphabet)
    return _char_tokenizer(alphabet)


def _checked(text: str) -> str:
    if not isinstance(text, str):
        raise TokenizerError(f"text expected, got {type(text).__name__}", field="texts", hint="give a list of texts")
    require_unicode(text)
    return text


def _specials() -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]


def _char_tokenizer(alphabet: str) -> Tokenizer:
    """A token for each character of an alphabet."""
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(_specials())
    return tokenizer


def _byte_tokenizer() -> Tokenizer:
    """A token for each byte of UTF-8."""
    # the library writes each byte as a visible character: bytes that are visible in Latin-1 as that character, the
    # others as the characters from 256 on, in order
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    characters = [chr(byte if byte in visible else next(others)) for byte in range(256)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*SPECIAL_TOKENS, *characters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_specials())
    return tokenizer


def _bpe_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-pair encoding over the bytes of words, as GPT-2's, learnt from texts; at most ``vocab_size`` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_specials(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
