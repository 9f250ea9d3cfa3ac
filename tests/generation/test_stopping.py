"""Stop strings end a row where transformers' criterion does, whatever the tokenizer; repetitions and time as told."""

from __future__ import annotations

import random
from typing import Any

import pytest
import tokenizers
import torch
import transformers as hf
from tokenizers import decoders, models, pre_tokenizers

from vedcore.config import TokenIds
from vedcore.errors import UsageError
from vedcore.generation.options.config import GenerationConfig
from vedcore.generation.request import Request
from vedcore.generation.stopping import Stopping
from vedcore.processing.tokenizers import decode_ids, make_tokenizer


def wordpiece() -> tokenizers.Tokenizer:
    words = ["[UNK]", "[CLS]", "[PAD]", "stop", "st", "##op", "##opera", "##s", "a", "b", "##a", "##b", "end", ".", "c"]
    words += [*"defop", *(f"##{c}" for c in "cdeft")]
    tokenizer = tokenizers.Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[PAD]"])
    return tokenizer


def bytes_of_words() -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", *alphabet, "Ġs", "to", "st", "Ġst", "op", "pping", "stop", "Ġstop", "Ġ日"[:1] + "æĹ", "ab", "aba"]
    tokenizer = tokenizers.Tokenizer(models.BPE({w: i for i, w in enumerate(dict.fromkeys(words))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


TOKENIZERS = {"char": lambda: make_tokenizer("char"), "wordpiece": wordpiece, "bytes": bytes_of_words}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_stop_strings(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    wrapped = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)
    size = tokenizer.get_vocab_size()
    likely = [i for t, i in tokenizer.get_vocab().items() if set(t.strip("#Ġ")) <= set("stopab")] or [*range(size)]
    draw, hits = random.Random(0), 0
    for _ in range(60):
        ids = torch.tensor([[draw.choice(likely) for _ in range(draw.randint(2, 14))]] * 2)
        ids[1, -1] = draw.randrange(size)
        text = decode_ids(tokenizer, ids[0], False)
        at = draw.randrange(max(1, len(text) - 6), len(text)) if len(text) > 1 else 0
        texts = {text[at : at + draw.randint(1, 4)], "stop", "opst", "a b"}
        strings = [s for s in texts if s.strip("\ufffd") and "#" not in s]
        expected = hf.StopStringCriteria(wrapped, strings)(ids, None)
        stopping = _stopping(ids, tokenizer, stop_strings=strings)
        found = stopping.reasons(ids[:, -1], ids, None) == 2
        assert found.tolist() == expected.tolist(), (ids, text, strings)
        hits += int(found.sum())
    assert 20 < hits < 115


def _stopping(ids: torch.Tensor, tokenizer: Any, **options: Any) -> Stopping:
    config, token_ids = GenerationConfig(max_new_tokens=9, **options), TokenIds()
    text_of = None if tokenizer is None else lambda row: decode_ids(tokenizer, row, False)
    return Stopping(Request(ids[:, :1], config, token_ids, config.limits(1, None), text_of=text_of))


def test_only_what_was_written_counts_as_repetition() -> None:
    ids = torch.tensor([[5, 5, 7, 5, 7], [5, 1, 2, 1, 2], [5, 3, 3, 4, 4], [5, 1, 2, 3, 4]])
    assert _stopping(ids, None, repetition_stop=2).reasons(ids[:, -1], ids, None).tolist() == [3, 3, 3, 0]
    assert _stopping(ids, None, repetition_stop=3).reasons(ids[:, -1], ids, None).tolist() == [0, 0, 0, 0]
    thrice = torch.tensor([[9, 4, 1, 2, 1, 2, 1, 2], [9, 4, 1, 2, 1, 2, 2, 2]])
    assert _stopping(thrice, None, repetition_stop=3).reasons(thrice[:, -1], thrice, None).tolist() == [3, 3]
    for length in (1, 2, 3):
        short = ids[:, :length]
        assert _stopping(short, None, repetition_stop=3).reasons(short[:, -1], short, None).tolist() == [0] * 4


def test_strings_need_a_tokenizer() -> None:
    with pytest.raises(UsageError, match="stop_strings: the model has no tokenizer"):
        _stopping(torch.tensor([[1, 2]]), None, stop_strings="a")
