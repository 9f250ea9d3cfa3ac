"""The text that each token adds to a decoded text.

It may depend on whether the token is the first, and on nothing else: other decoders are refused. A token may hold a
fragment of a UTF-8 character; its bytes are lone surrogates, as Python's ``surrogateescape`` writes them.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from vedcore.errors import TokenizerError
from vedcore.processing.tokenizers import foreign_errors

__all__ = ["TokenTexts", "token_texts"]

CONTEXT_FREE_STEPS = ("ByteLevel", "Replace", "WordPiece", "ByteFallback", "Metaspace", "Fuse", "Strip")
"""Steps of a tokenizer's decoder after which a token's text does not depend on its neighbours."""
FUSING_STEPS = ("ByteLevel", "Fuse")
"""Steps that join the tokens' texts to one string."""
HINT = "use a tokenizer of another kind, or none of allowed_chars, pattern and lexicon"


class TokenTexts(NamedTuple):
    """Texts by token id."""

    first: list[str]
    """Text of a token that comes first; a lone space is often empty there."""
    later: list[str]
    """Text of a token after others; empty for tokens and ids that cannot be used."""
    replaced: tuple[tuple[str, str], ...]
    """Replacements by the decoder in the joined text, old and new, in order."""

    @property
    def has_fragments(self) -> bool:
        """Whether some tokens hold fragments of characters."""
        return any("\udc80" <= c <= "\udcff" for text in (*self.first, *self.later) for c in (text[:1], text[-1:]))


def token_texts(tokenizer: Tokenizer, vocab_size: int) -> TokenTexts:
    """The texts of the first ``vocab_size`` ids; those of special tokens are empty.

    Raises:
        TokenizerError: a decoder under which a token's text depends on its neighbours.
    """
    steps = _steps(None if tokenizer.decoder is None else json.loads(tokenizer.decoder.__getstate__()))
    steps, replaced = _split(steps)
    decode = _decoder(steps)
    kinds = {step["type"] for step in steps}
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    first, later = [""] * vocab_size, [""] * vocab_size
    with foreign_errors("the decoder fails", None, HINT):
        if decode(["a"]) != "a":
            raise TokenizerError("the decoder changes a plain letter", field="decoder", hint=HINT)
        for token, i in tokenizer.get_vocab(with_added_tokens=True).items():
            if i < vocab_size and i not in special:
                first[i] = _with_bytes(token, decode([token]), kinds)
                later[i] = _with_bytes(token, decode(["a", token])[1:], kinds)
    texts = TokenTexts(first, later, replaced)
    _check(tokenizer, texts)
    return texts


def _steps(decoder: Any) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for inner in decoder["decoders"] for step in _steps(inner)]
    return [decoder]


def _split(steps: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], tuple[tuple[str, str], ...]]:
    """The steps up to the last replacements in the joined text, and those replacements."""
    fused = next((i for i, step in enumerate(steps) if step["type"] in FUSING_STEPS), len(steps))
    end = len(steps)
    while end > fused + 1 and steps[end - 1]["type"] == "Replace" and steps[end - 1]["pattern"].get("String"):
        end -= 1
    for i, step in enumerate(steps[:end]):
        kind = step["type"]
        strips_little = kind == "Strip" and step["start"] <= 1 and not step["stop"]
        if kind not in CONTEXT_FREE_STEPS or (i > fused and kind != "Fuse" and not strips_little):
            raise TokenizerError(
                f"a decoder with {kind} as step {i + 1} of {len(steps)}: a token's text depends on its neighbours",
                field="decoder",
                hint=HINT,
            )
    return steps[:end], tuple((step["pattern"]["String"], step["content"]) for step in steps[end:])


def _decoder(steps: list[dict[str, Any]]) -> Callable[[list[str]], str]:
    if not steps:
        return " ".join  # as the library does without a decoder
    model = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    plain = {"version": "1.0", "added_tokens": [], "model": model, "decoder": {"type": "Sequence", "decoders": steps}}
    made = Tokenizer.from_str(json.dumps(plain)).decoder
    return lambda tokens: str(made.decode(tokens))


def _byte_characters() -> dict[str, int]:
    """Bytes by the visible characters that stand for them in byte-level vocabularies."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return {chr(byte if byte in visible else next(others)): byte for byte in range(256)}


_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_BYTES = _byte_characters()


def _with_bytes(token: str, text: str, kinds: set[str]) -> str:
    """``text``, with lone surrogates for the bytes of incomplete characters."""
    if "\ufffd" not in text:
        return text
    if "ByteLevel" in kinds:
        raw = bytes(_BYTES[c] for c in token) if all(c in _BYTES for c in token) else token.encode()
    elif "ByteFallback" in kinds and (match := _BYTE.fullmatch(token)):
        raw = bytes([int(match[1], 16)])
    else:
        return text
    # a token whose bytes another step has changed cannot be used
    return raw.decode("utf-8", "surrogateescape") if raw.decode("utf-8", "replace") == text else ""


def _check(tokenizer: Tokenizer, texts: TokenTexts) -> None:
    """Compare with the tokenizer's own decoding of random rows."""
    draw = random.Random(0)
    useful = [i for i, text in enumerate(texts.later) if text]
    for _ in range(200 if useful else 0):
        ids = draw.choices(useful, k=4)
        joined = texts.first[ids[0]] + "".join(texts.later[i] for i in ids[1:])
        try:
            expected = joined.encode("utf-8", "surrogateescape").decode()
        except UnicodeDecodeError:  # fragments that do not join to characters
            continue
        for old, new in texts.replaced:
            expected = expected.replace(old, new)
        if tokenizer.decode(ids) != expected:
            raise TokenizerError(
                f"tokens {ids} decode to {tokenizer.decode(ids)!r}, and one by one to {expected!r}",
                field="decoder",
                hint=HINT,
            )
