"""Checks of labels, and of the tokenizer that makes ids of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import Tokenizer

from vedcore.config_files.plain import short
from vedcore.data.doctor.findings import MAX_SHOWN, Finding, shown
from vedcore.data.doctor.rows import Seen
from vedcore.errors import VedcoreError
from vedcore.processing.encoding import encode_text
from vedcore.processing.letters import new_letters, with_letters
from vedcore.processing.tokenizers import EOS_TOKENS, PAD_TOKENS, START_TOKENS, decode_ids, vocab_size_of

__all__ = ["Labels"]

MAX_SPARE_IDS = 1_024
"""Ids of a decoder that its tokenizer may lack: vocabularies are filled up to multiples of 64 and the like."""
MAX_LETTERS = 40
"""Letters that a remedy spells out."""


class Labels:
    """The labels of some rows as ids, as training makes them, with the new letters that it adds.

    Args:
        model: whose tokenizer, token ids and positions count.
        seen: the rows.
        limit: of a label in tokens, its end included; None takes the model's.
    """

    def __init__(self, model: Any, seen: Sequence[Seen], limit: int | None) -> None:
        self._decoder, self._token_ids = model.decoder, model.processor.token_ids
        longest = model.processor.model_max_length
        self.limit: int | None = min((each for each in (limit, longest) if each is not None), default=None)
        self.tokenizer: Tokenizer | None = getattr(model.processor.tokenizer, "backend_tokenizer", None)
        self._size = 0 if self.tokenizer is None else vocab_size_of(self.tokenizer)
        self.seen: list[tuple[Seen, list[int]]] = []
        self.refused: list[tuple[Seen, str]] = []
        """Rows whose label cannot be encoded at all, and why."""
        self.letters: dict[str, int] = {}
        if self.tokenizer is None:
            return
        self.letters = new_letters(self.tokenizer, (each.text for each in seen))
        self.tokenizer = with_letters(self.tokenizer, "".join(self.letters)) if self.letters else self.tokenizer
        for each in seen:
            try:
                self.seen.append((each, encode_text(self.tokenizer, each.text, on_unknown="ignore")))
            except VedcoreError as error:
                self.refused.append((each, str(error)))

    def ids(self, text: str) -> list[int]:
        """The label as training makes it: cut at the limit, its end last."""
        assert self.tokenizer is not None
        ids = encode_text(self.tokenizer, text, on_unknown="ignore")
        return [*(ids if self.limit is None else ids[: self.limit - 1]), *self._token_ids.eos[:1]]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, with the names of special tokens but the end."""
        assert self.tokenizer is not None
        ids = ids[:-1] if ids and ids[-1] in self._token_ids.eos else ids
        return decode_ids(self.tokenizer, list(ids), skip_special_tokens=False)

    def findings(self) -> dict[str, Finding | None]:
        """The finding of each check; None where there is nothing to find."""
        checks: dict[str, Callable[[], Finding | None]] = {"tokenizer_is_the_decoders": self._tokenizer_finding}
        if self.tokenizer is not None:
            checks |= {
                "ids_in_vocabulary": self._vocabulary,
                "characters_have_tokens": self._letters,
                "labels_end": self._ends,
                "start_comes_once": self._starts,
                "labels_read_back": self._read_back,
            }
            checks |= {"labels_fit": self._lengths} if self.limit is not None else {}
        return {name: check() for name, check in checks.items()}

    def _tokenizer_finding(self) -> Finding | None:
        name = "tokenizer_is_the_decoders"
        remedy = "give the tokenizer that the decoder was trained with: vedcore.load(…, tokenizer=…)"
        if self.tokenizer is None:
            return Finding(name, "the model has no tokenizer", remedy)
        added = self.tokenizer.get_added_tokens_decoder()
        usual = {*START_TOKENS, *EOS_TOKENS, *PAD_TOKENS}
        roles = {"starts": self._token_ids.start, "fills": self._token_ids.pad}
        roles |= {"ends": self._token_ids.eos[0]} if self._token_ids.eos else {}
        for role, index in roles.items():
            token = None if index is None else self.tokenizer.id_to_token(index)
            if index is None or (index in added and added[index].special) or token in usual:
                continue
            called = "lacks" if token is None else f"has as {short(token)}, an ordinary token"
            return Finding(name, f"the model {role} a text with id {index}, which the tokenizer {called}", remedy)
        if self._decoder.vocab_size - self._size > max(MAX_SPARE_IDS, self._decoder.vocab_size // 10):
            sizes = f"the decoder has {self._decoder.vocab_size:,} tokens, the tokenizer {self._size:,}"
            return Finding(name, sizes, remedy)
        return None

    def _vocabulary(self) -> Finding | None:
        size = self._decoder.vocab_size
        found = [each for each, ids in self.seen if any(size <= index < self._size for index in ids)]
        remedy = f"call model.resize_vocabulary({self._size}), or give the decoder's own tokenizer"
        message = f"labels have ids of the tokenizer's {self._size:,} beyond the decoder's {size:,}"
        return _of_rows("ids_in_vocabulary", message, remedy, found)

    def _letters(self) -> Finding | None:
        often = sorted(self.letters, key=lambda letter: (-self.letters[letter], letter))
        named = ", ".join(f"{_quoted(letter)} ({self.letters[letter]:,})" for letter in often[:MAX_SHOWN])
        more = f" and {len(often) - MAX_SHOWN:,} more" if len(often) > MAX_SHOWN else ""
        message = f"{len(often):,} characters without a token: {named}{more}"
        given = _quoted("".join(self.letters)) if len(self.letters) <= MAX_LETTERS else "texts"
        remedy = f"call model.extend_alphabet({given}); training does so itself, of a stream with data.letters"
        found = [each for each, _ in self.seen if not self.letters.keys().isdisjoint(each.text)]
        return _of_rows("characters_have_tokens", message, remedy, found)

    def _ends(self) -> Finding | None:
        if not self._token_ids.eos:
            remedy = "set model.token_ids = model.token_ids.changed(eos=(…,)) to the id of the tokenizer's end token"
            return Finding("labels_end", "no token id ends a label", remedy)
        found = [each for each, ids in self.seen if not set(self._token_ids.eos).isdisjoint(ids[1:])]
        assert self.tokenizer is not None
        token = self.tokenizer.id_to_token(self._token_ids.eos[0]) or f"id {self._token_ids.eos[0]}"
        remedy = f"take {token} out of the labels: the end is put behind each"
        return _of_rows("labels_end", "labels that end before their end, or twice", remedy, found)

    def _starts(self) -> Finding | None:
        found = [each for each, ids in self.seen if ids and ids[0] == self._token_ids.start]
        assert self.tokenizer is not None
        token = self.tokenizer.id_to_token(self._token_ids.start) if found else ""
        remedy = f"take {token} out of the labels: the model puts it before each"
        return _of_rows("start_comes_once", "labels begin with the start token, which then comes twice", remedy, found)

    def _lengths(self) -> Finding | None:
        assert self.limit is not None
        found = [(len(ids) + 1, each) for each, ids in self.seen if len(ids) + 1 > self.limit]
        longest = max((length for length, _ in found), default=0)
        message = f"labels of up to {longest:,} tokens, of which {self.limit:,} are trained"
        remedy = "shorten them, or compose a decoder with more positions; training cuts them"
        return _of_rows("labels_fit", message, remedy, [each for _, each in found])

    def _read_back(self) -> Finding | None:
        assert self.tokenizer is not None
        pairs = [(each, decode_ids(self.tokenizer, ids, skip_special_tokens=False)) for each, ids in self.seen]
        found = [(each, again) for each, again in pairs if _bare(again) != _bare(each.text)]
        example = f": {short(found[0][0].text)} as {short(found[0][1])}" if found else ""
        message = f"labels that the tokenizer reads back otherwise{example}"
        remedy = "write the labels as the tokenizer does, or compose with tokenizer='byte', which keeps any text"
        return _of_rows("labels_read_back", message, remedy, [each for each, _ in found])


def _of_rows(check: str, message: str, remedy: str, found: Sequence[Seen]) -> Finding | None:
    return Finding(check, message, remedy, shown([each.source for each in found]), len(found)) if found else None


def _quoted(letters: str) -> str:
    """Letters as Python writes them, with numbers in place of marks that would stand on the letter before."""
    shown = (
        c.encode("unicode_escape").decode() if unicodedata.combining(c) else f"\\{c}" if c in "'\\" else repr(c)[1:-1]
        for c in letters
    )
    return f"'{''.join(shown)}'"


def _bare(text: str) -> str:
    return unicodedata.normalize("NFC", "".join(text.split()))
