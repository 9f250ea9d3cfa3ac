"""The text that each token of a tokenizer adds to a decoded text, as its decoder has it.

What a token adds depends on no more than whether it is the first: decoders for which that is not so are refused. A
token may hold a part of a UTF-8 character; bytes that are no character stand as lone surrogates, as Python's
``surrogateescape`` writes them.
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

__all__ = ["Pieces", "text_pieces"]

LOCAL = ("ByteLevel", "Replace", "WordPiece", "ByteFallback", "Metaspace", "Fuse", "Strip")
"""Steps of a decoder under which a token's text does not depend on the tokens around it."""
FUSING = ("ByteLevel", "Fuse")
"""Steps after which the text is one string."""
HINT = "use a tokenizer of another kind, or none of allowed_chars, pattern and lexicon"


class Pieces(NamedTuple):
    """Texts by token id."""

    first: list[str]
    """What a token adds where it is the first; a lone space often adds nothing there."""
    later: list[str]
    """What it adds after others; an empty one for tokens and ids that are of no use."""
    replaced: tuple[tuple[str, str], ...]
    """What the decoder replaces in the joined text by what, in order."""

    @property
    def has_fragments(self) -> bool:
        """Whether some tokens are parts of characters."""
        return any("\udc80" <= c <= "\udcff" for text in (*self.first, *self.later) for c in (text[:1], text[-1:]))


def text_pieces(tokenizer: Tokenizer, vocab_size: int) -> Pieces:
    """The pieces of the first ``vocab_size`` ids; special tokens add nothing.

    Raises:
        TokenizerError: a decoder that joins tokens in a way that cannot be said token by token.
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
                first[i] = _piece(token, decode([token]), kinds)
                later[i] = _piece(token, decode(["a", token])[1:], kinds)
    pieces = Pieces(first, later, replaced)
    _check(tokenizer, pieces)
    return pieces


def _steps(decoder: Any) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for inner in decoder["decoders"] for step in _steps(inner)]
    return [decoder]


def _split(steps: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], tuple[tuple[str, str], ...]]:
    """The steps up to the last replacements in the joined text, and those replacements."""
    fused = next((i for i, step in enumerate(steps) if step["type"] in FUSING), len(steps))
    end = len(steps)
    while end > fused + 1 and steps[end - 1]["type"] == "Replace" and steps[end - 1]["pattern"].get("String"):
        end -= 1
    for i, step in enumerate(steps[:end]):
        kind = step["type"]
        strips_little = kind == "Strip" and step["start"] <= 1 and not step["stop"]
        if kind not in LOCAL or (i > fused and kind != "Fuse" and not strips_little):
            raise TokenizerError(
                f"a decoder with {kind} as step {i + 1} of {len(steps)}: what a token adds depends on others",
                field="decoder",
                hint=HINT,
            )
    return steps[:end], tuple((step["pattern"]["String"], step["content"]) for step in steps[end:])


def _decoder(steps: list[dict[str, Any]]) -> Callable[[list[str]], str]:
    if not steps:
        return " ".join  # what the library does without a decoder
    model = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    plain = {"version": "1.0", "added_tokens": [], "model": model, "decoder": {"type": "Sequence", "decoders": steps}}
    made = Tokenizer.from_str(json.dumps(plain)).decoder
    return lambda tokens: str(made.decode(tokens))


def _byte_characters() -> dict[str, int]:
    """Bytes by the visible characters that byte-level vocabularies write them as."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return {chr(byte if byte in visible else next(others)): byte for byte in range(256)}


_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_BYTES = _byte_characters()


def _piece(token: str, text: str, kinds: set[str]) -> str:
    """``text``, with its bytes where it holds parts of characters."""
    if "\ufffd" not in text:
        return text
    if "ByteLevel" in kinds:
        raw = bytes(_BYTES[c] for c in token) if all(c in _BYTES for c in token) else token.encode()
    elif "ByteFallback" in kinds and (match := _BYTE.fullmatch(token)):
        raw = bytes([int(match[1], 16)])
    else:
        return text
    # another step that has changed the parts leaves a token that cannot be used
    return raw.decode("utf-8", "surrogateescape") if raw.decode("utf-8", "replace") == text else ""


def _check(tokenizer: Tokenizer, pieces: Pieces) -> None:
    """Compare what the tokenizer itself makes of some random rows."""
    draw = random.Random(0)
    useful = [i for i, text in enumerate(pieces.later) if text]
    for _ in range(200 if useful else 0):
        ids = draw.choices(useful, k=4)
        joined = pieces.first[ids[0]] + "".join(pieces.later[i] for i in ids[1:])
        try:
            expected = joined.encode("utf-8", "surrogateescape").decode()
        except UnicodeDecodeError:  # parts that do not make up characters
            continue
        for old, new in pieces.replaced:
            expected = expected.replace(old, new)
        if tokenizer.decode(ids) != expected:
            raise TokenizerError(
                f"tokens {ids} decode to {tokenizer.decode(ids)!r}, and alone they say {expected!r}",
                field="decoder",
                hint=HINT,
            )
