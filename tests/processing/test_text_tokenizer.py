"""The tokenizer of a processor, used as people use transformers'."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from tests.hf.tokenizer_files import both
from vedcore.config import TokenIds
from vedcore.errors import TokenizerError, UsageError
from vedcore.processing.text_tokenizer import TextTokenizer
from vedcore.processing.tokenizers import make_tokenizer, token_ids_of

NAMES = ["bert", "roberta", "gpt2 pad added", "xlm-r nmt_nfkc", "mbart", "camembert"]
TEXTS = ["Hello, world!", "a", "the quick brown fox <mask> [SEP] jumps", ""]


def pair(name: str) -> tuple[TextTokenizer, Any]:
    made, reference = both(name)
    made = make_tokenizer(made)
    ids = token_ids_of(made)
    return TextTokenizer(made, ids if ids.pad is not None else ids.changed(pad=reference.pad_token_id)), reference


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_names_are_transformers(name: str) -> None:
    ours, theirs = pair(name)
    assert len(ours) == len(theirs)
    assert ours.vocab_size == theirs.vocab_size
    for role in ("bos", "pad", "unk", "cls", "sep", "mask"):
        if name.startswith("gpt2") and role == "unk":
            continue  # the file does not say that it is the end token
        assert getattr(ours, f"{role}_token_id") == getattr(theirs, f"{role}_token_id"), role
        assert getattr(ours, f"{role}_token") == getattr(theirs, f"{role}_token"), role
    assert ours.eos_token_id == (theirs.eos_token_id if theirs.eos_token else theirs.sep_token_id)
    assert set(ours.all_special_tokens) == {t.content for t in theirs.added_tokens_decoder.values() if t.special}
    assert [ours.convert_ids_to_tokens(i) for i in ours.all_special_ids] == ours.all_special_tokens
    assert ours.get_added_vocab() == theirs.get_added_vocab()


@pytest.mark.parametrize("name", NAMES)
def test_calls_give_what_transformers_gives(name: str) -> None:
    ours, theirs = pair(name)
    calls: list[dict[str, Any]] = [
        {},
        {"add_special_tokens": False},
        {"padding": True},
        {"padding": "longest", "return_tensors": "pt"},
        {"padding": "max_length", "max_length": 60},
        {"padding": "max_length", "max_length": 6, "truncation": True, "return_tensors": "pt"},
        {"max_length": 5, "truncation": True},
        {"truncation": "longest_first", "max_length": 4, "add_special_tokens": False},
        {"truncation": False},
    ]
    for options in calls:
        mine, reference = ours(TEXTS, on_unknown="ignore", **options), theirs(TEXTS, **options)
        for field in ("input_ids", "attention_mask"):
            same = torch.equal if options.get("return_tensors") else lambda a, b: a == b
            assert same(mine[field], reference[field]), (options, field)
            assert mine[field] is getattr(mine, field)
    assert ours("Hello").input_ids == theirs("Hello").input_ids
    assert ours.tokenize("Hello, world") == theirs.tokenize("Hello, world")
    ids = theirs("Hello, world").input_ids
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    assert ours.convert_ids_to_tokens(torch.tensor(ids), skip_special_tokens=True) == theirs.convert_ids_to_tokens(
        ids, skip_special_tokens=True
    )
    tokens = theirs.convert_ids_to_tokens(ids)
    assert ours.convert_tokens_to_ids(tokens) == ids
    assert ours.convert_tokens_to_ids(tokens[0]) == ids[0]
    if not name.startswith("gpt2"):
        assert ours.convert_tokens_to_ids("no such token") == theirs.convert_tokens_to_ids("no such token")
    for skip in (True, False):
        assert ours.decode(torch.tensor(ids), skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        assert ours.batch_decode([ids, ids[:2]], skip) == theirs.batch_decode([ids, ids[:2]], skip_special_tokens=skip)
    assert ours.decode(np.int64(ids[1]).item()) == theirs.decode(ids[1])


def test_it_stays_the_librarys_tokenizer() -> None:
    backend = make_tokenizer("char")
    ours = TextTokenizer(backend, token_ids_of(backend))
    assert isinstance(ours, tokenizers.Tokenizer)
    assert ours.backend_tokenizer is backend
    assert ours.encode("!").ids == [4]
    assert ours.encode_batch(["!"])[0].ids == [4]
    assert ours.token_to_id("!") == 4
    assert ours.get_vocab() == backend.get_vocab()
    assert ours.to_str() == backend.to_str()
    ours.decoder = None
    assert backend.decoder is None
    assert make_tokenizer(ours).to_str() == backend.to_str()
    assert ours
    assert "98 tokens" in repr(ours)
    with pytest.raises(AttributeError, match="no_such"):
        ours.no_such_thing  # noqa: B018
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=ours.backend_tokenizer)
    assert wrapped("!").input_ids == [4]


def test_copies_and_pickles() -> None:
    ours, _ = pair("roberta")
    for other in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours), copy.copy(ours)):
        assert type(other) is TextTokenizer
        assert other.to_str() == ours.to_str()
        assert other.token_ids == ours.token_ids
    other = copy.deepcopy(ours)
    other.add_tokens("<new>")
    assert ours.token_to_id("<new>") is None


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("tokens", ["<new>", ["<new>", "<newer>"], [tokenizers.AddedToken("<new>", lstrip=True)]])
def test_added_tokens(tokens: Any, special: bool) -> None:
    ours, theirs = pair("roberta")
    theirs = copy.deepcopy(theirs)
    assert ours.add_tokens(tokens, special_tokens=special) == theirs.add_tokens(tokens, special_tokens=special)
    text = "a <new> b<newer>"
    assert ours(text).input_ids == theirs(text).input_ids
    ids = ours(text).input_ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert len(ours) == len(theirs)


def test_special_tokens_as_transformers_writes_them() -> None:
    ours, theirs = pair("roberta")
    theirs = copy.deepcopy(theirs)
    new = {"additional_special_tokens": ["<x>", "<y>"]}
    assert ours.add_special_tokens(new) == theirs.add_special_tokens(new) == 2
    assert ours.add_special_tokens(["<z>"]) == 1
    assert ours.decode(ours("a<x>").input_ids) == theirs.decode(theirs("a<x>").input_ids, skip_special_tokens=True)
    with pytest.raises(UsageError, match=r"pad_token: .*model\.add_tokens"):
        ours.add_special_tokens({"pad_token": "[PAD]"})


@pytest.mark.parametrize("role", ["pad", "eos"])
def test_roles_that_are_set(role: str) -> None:
    """By text or id, as in transformers; the ids of the model follow."""
    ours, theirs = (copy.deepcopy(each) for each in pair("bert"))
    for name, value in ((f"{role}_token", "[MASK]"), (f"{role}_token_id", 3), (f"{role}_token", ours.cls_token)):
        for each in (ours, theirs):
            setattr(each, name, value)
        for asked in (f"{role}_token", f"{role}_token_id"):
            assert getattr(ours, asked) == getattr(theirs, asked) is not None
        assert getattr(ours.token_ids, role) in (ours.convert_tokens_to_ids(ours.pad_token), (ours.eos_token_id,))
    setattr(ours, f"{role}_token_id", torch.tensor(4))
    assert getattr(ours, f"{role}_token_id") == 4
    setattr(ours, f"{role}_token", None)
    assert getattr(ours.token_ids, role) in (None, ())
    for name, value in ((f"{role}_token", "[PAD]xyz"), (f"{role}_token_id", 10**6), (f"{role}_token_id", "[SEP]")):
        with pytest.raises(UsageError, match=rf"tokenizer\.{name}: the tokenizer has no .*model\.add_tokens"):
            setattr(ours, name, value)


def test_what_is_the_models_cannot_be_set_here() -> None:
    ours, _ = pair("bert")
    with pytest.raises(UsageError, match=r"changed\(start="):
        ours.bos_token = "[SEP]"
    ours.bos_token = ours.bos_token  # as it is
    with pytest.raises(UsageError, match="add_tokens"):
        ours.unk_token = "x"
    with pytest.raises(UsageError, match=r"tokenizer\.padding_side: cannot be set; leave it out"):
        ours.padding_side = "left"
    with pytest.raises(UsageError, match=r"tokenizer\.src: a tokenizer has no such setting; a call takes text"):
        ours.src = "en"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"return_tensors": "np"}, "return_tensors: 'np' tensors cannot be made"),
        ({"return_tensors": "tf"}, "give 'pt'"),
        ({"return_tensors": "pt"}, "rows of different lengths; give padding=True"),
        ({"padding": "left"}, "'left' is not a choice"),
        ({"padding": "max_length"}, "max_length= too"),
        ({"padding": "max_length", "max_length": 2}, "truncation=True"),
        ({"truncation": True}, "max_length= too"),
        ({"truncation": "only_second"}, "'only_second' is not a choice"),
        ({"max_length": 0}, "0 is not a length"),
    ],
    ids=str,
)
def test_calls_that_cannot_be_understood(options: dict[str, Any], match: str) -> None:
    ours, _ = pair("roberta")
    with pytest.raises(UsageError, match=match):
        ours(["Hello, world", "a"], **options)


def test_lengths_of_the_model_and_no_padding() -> None:
    backend = make_tokenizer("char")
    ours = TextTokenizer(backend, TokenIds(), model_max_length=5)
    assert ours("a" * 9, truncation=True).input_ids == [68] * 5
    assert ours("a" * 9).input_ids == [68] * 9
    with pytest.raises(UsageError, match=r"no pad token id; set model\.token_ids"):
        ours(["a", "bb"], padding=True)
    ours.token_ids = TokenIds(pad=2)
    assert ours("a", padding="max_length").input_ids == [68, 2, 2, 2, 2]


def test_texts_that_it_cannot_take() -> None:
    ours, _ = pair("xlm-r identity")
    with pytest.warns(UserWarning, match="become"):
        ours("\u0e01 a \u0e02")
    with pytest.raises(TokenizerError, match="becomes '<unk>'"):
        ours("\u0e01", on_unknown="error")
    assert ours.token_to_id("</s>") not in ours("a</s>", add_special_tokens=False, untrusted=True).input_ids
