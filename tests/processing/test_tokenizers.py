"""Text to ids and back, and tokenizer files that are refused."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tests.counting import steps
from vedcore.config import TokenIds
from vedcore.errors import CheckpointLimitError, ConfigLimitError, IncompatibleError, TokenizerError, VedcoreError
from vedcore.processing.encoding import encode_text
from vedcore.processing.tokenizers import (
    decode_ids,
    make_tokenizer,
    parse_tokenizer,
    token_ids_of,
    vocab_size_of,
)

PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
CHAR, BYTE = make_tokenizer("char"), make_tokenizer("byte")


def refused(error: type[VedcoreError], call: Callable[[], object], *words: str) -> VedcoreError:
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert len(message) <= 300
    assert message.isprintable()
    assert caught.value.hint
    assert type(caught.value) is error
    for word in words:
        assert word in message
    return caught.value


def plain(tokenizer: Tokenizer = CHAR) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(tokenizer.to_str())
    return data


def bert_like() -> Tokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "##s", "on"]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return tokenizer


# -- the two without a file -----------------------------------------------------------------------------------------


def test_char_has_three_special_ids_and_95_characters() -> None:
    assert CHAR.get_vocab_size() == vocab_size_of(CHAR) == 98
    assert [CHAR.id_to_token(i) for i in range(5)] == ["<s>", "</s>", "<pad>", " ", "!"]
    assert encode_text(CHAR, PRINTABLE) == list(range(3, 98))
    assert token_ids_of(CHAR) == TokenIds(start=0, eos=(1,), pad=2)


def test_byte_has_three_special_ids_and_256_bytes() -> None:
    assert BYTE.get_vocab_size() == vocab_size_of(BYTE) == 259
    assert encode_text(BYTE, "A\0é") == [3 + byte for byte in "A\0é".encode()]
    assert token_ids_of(BYTE) == TokenIds(start=0, eos=(1,), pad=2)


@settings(deadline=None)
@given(st.text(PRINTABLE, max_size=60))
def test_char_gives_back_what_went_in(text: str) -> None:
    ids = encode_text(CHAR, text)
    assert len(ids) == len(text)
    assert decode_ids(CHAR, ids) == text


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_byte_gives_back_any_text(text: str) -> None:
    ids = encode_text(BYTE, text)
    assert len(ids) == len(text.encode())
    assert decode_ids(BYTE, ids) == text


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).map(lambda t: "".join(dict.fromkeys(t)))
)
def test_an_alphabet_of_ones_own(alphabet: str) -> None:
    tokenizer = make_tokenizer("char:" + alphabet)
    assert vocab_size_of(tokenizer) == 3 + len(alphabet)
    assert decode_ids(tokenizer, encode_text(tokenizer, alphabet[::-1] * 2)) == alphabet[::-1] * 2


def test_a_character_without_a_token() -> None:
    refused(TokenizerError, lambda: encode_text(CHAR, "cafés"), "'é'", "U+00E9", "model.extend_alphabet('é')")
    refused(TokenizerError, lambda: encode_text(CHAR, "a\nb"), "\\n")
    refused(TokenizerError, lambda: encode_text(CHAR, "a\0b"), "U+0000")
    refused(TokenizerError, lambda: encode_text(make_tokenizer("char:01"), "012"), "'2'")


@pytest.mark.parametrize("spec", ["char:", "char:aba", "char:\ud800"])
def test_bad_alphabets(spec: str) -> None:
    refused(TokenizerError, lambda: make_tokenizer(spec))


# -- encoding and decoding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", [CHAR, BYTE], ids=["char", "byte"])
def test_values_that_are_not_text(tokenizer: Tokenizer) -> None:
    refused(TokenizerError, lambda: encode_text(tokenizer, "ab\ud800"), "surrogate", "character 2")
    for text in (None, b"abc", 5, ["abc"]):
        refused(TokenizerError, lambda text=text: encode_text(tokenizer, text), type(text).__name__)  # type: ignore[misc]


def test_a_huge_text_is_refused_before_it_is_encoded() -> None:
    class Untouched:
        def encode(self, *_: object, **__: object) -> None:
            pytest.fail("encoded")

    text = "x" * 10_000_000
    refused(TokenizerError, lambda: encode_text(BYTE, text), "10,000,000", "200,000")
    refused(TokenizerError, lambda: encode_text(Untouched(), text), "10,000,000", "200,000")  # type: ignore[arg-type]
    assert len(encode_text(BYTE, "x" * 200_000)) == 200_000


@pytest.mark.parametrize(
    "row", [[0, 4, 4, 1, 2, 2], torch.tensor([4, 4, -100]), np.array([4, 4]), [np.int64(4), torch.tensor(4)]]
)
def test_ids_of_any_kind_are_decoded(row: object) -> None:
    assert decode_ids(CHAR, row) == "!!"


def test_decoding_special_and_foreign_ids() -> None:
    assert decode_ids(CHAR, [0, 4, 1], skip_special_tokens=False) == "<s>!</s>"
    assert decode_ids(CHAR, [4, 500]) == "!"
    assert decode_ids(CHAR, []) == ""
    for row in ([[4, 4]], torch.zeros(2, 2, dtype=torch.long), [4.5], torch.tensor(4), 4, None, "!!", [None]):
        refused(TokenizerError, lambda row=row: decode_ids(CHAR, row), "batch_decode")  # type: ignore[misc]
    for number in (-1, 2**32, 2**70):
        refused(TokenizerError, lambda number=number: decode_ids(CHAR, [number]))  # type: ignore[misc]


def test_many_threads_share_one() -> None:
    tokenizer, failures = make_tokenizer("byte"), []

    def work() -> None:
        try:
            for _ in range(200):
                assert decode_ids(tokenizer, encode_text(tokenizer, "</s> é", untrusted=True)) == "</s> é"
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# -- which id means what --------------------------------------------------------------------------------------------


def test_well_known_names() -> None:
    assert token_ids_of(bert_like()) == TokenIds(start=2, eos=(3,), pad=0)
    gpt2 = Tokenizer(models.BPE({"a": 0, "<|endoftext|>": 1}, []))
    gpt2.add_special_tokens(["<|endoftext|>"])
    assert token_ids_of(gpt2) == TokenIds(start=1, eos=(1,), pad=None)
    assert token_ids_of(Tokenizer(models.WordLevel({"a": 0}))) == TokenIds()
    # a name that is an ordinary token counts only where no special one has any of the names
    both = Tokenizer(models.WordLevel({"[CLS]": 0, "<s>": 1, "</s>": 2}))
    assert token_ids_of(both).start == 0
    both.add_special_tokens(["<s>"])
    assert token_ids_of(both) == TokenIds(start=1, eos=(2,))


def test_vocab_size_counts_gaps() -> None:
    assert vocab_size_of(Tokenizer(models.WordLevel({"a": 0, "b": 9}))) == 10
    assert vocab_size_of(Tokenizer(models.WordLevel({}))) == 0


# -- files ----------------------------------------------------------------------------------------------------------


def write(tmp_path: Path, data: object) -> Path:
    path = tmp_path / "tokenizer.json"
    raw = data if isinstance(data, bytes) else data.encode() if isinstance(data, str) else json.dumps(data).encode()
    path.write_bytes(raw)
    return path


def test_a_file_and_its_folder(tmp_path: Path) -> None:
    path = write(tmp_path, plain())
    for spec in (path, str(path), tmp_path, str(tmp_path)):
        assert make_tokenizer(spec).get_vocab() == CHAR.get_vocab()


def test_padding_and_truncation_of_a_file_are_switched_off(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(CHAR)
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for one in (make_tokenizer(tmp_path), make_tokenizer(tokenizer)):
        assert encode_text(one, "!!!!") == [4] * 4
        assert one.padding is None
    assert tokenizer.padding is not None  # a given one is copied, not changed


def changed(**fields: Any) -> dict[str, Any]:
    return {**plain(), **fields}


def with_vocab(vocab: dict[str, Any]) -> dict[str, Any]:
    return {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "a"}}


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    refused(TokenizerError, lambda: make_tokenizer(tmp_path / "none.json"), "none.json", "no such file", "'char'")
    refused(TokenizerError, lambda: make_tokenizer(tmp_path), "tokenizer.json", "no such file")
    refused(TokenizerError, lambda: make_tokenizer("chars"), "did you mean 'char'")
    refused(TokenizerError, lambda: make_tokenizer("/dev/zero"), "not a regular file")
    refused(TokenizerError, lambda: make_tokenizer("a\0b"), "null")
    for spec in (None, 5, {"a": 1}, object()):
        refused(TokenizerError, lambda spec=spec: make_tokenizer(spec), type(spec).__name__)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ("", "empty"),
        ("[]", "no model"),
        ("{}", "no model"),
        ("null", "no model"),
        (b"\xff\xfe", "not a tokenizer"),
        ("{'a': 1}", "not a tokenizer"),
        ("[" * 100_000, "nested"),
        ('{"a": 1, "a": 2}', "given twice"),
        (changed(version="9.9"), "9.9"),
        (changed(version=None), "None"),
        (changed(model={"type": "Zorg"}), "not a tokenizer"),
        (changed(model=5), "no model"),
        (changed(added_tokens=5), "not a tokenizer"),
        (changed(added_tokens=[{"id": "x"}]), "not a tokenizer"),
        (changed(normalizer={"type": "os:system"}), "not a tokenizer"),
        (
            changed(
                pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
            ),
            "not a",
        ),
        (changed(padding={"strategy": "zorg"}), "not a tokenizer"),
        (with_vocab({"a": 2**32}), "4294967296"),
        (with_vocab({"a": -1}), "not a tokenizer"),
        (with_vocab({"a": "0"}), "not a tokenizer"),
    ],
)
def test_files_that_are_not_a_tokenizer(data: object, word: str, tmp_path: Path) -> None:
    path = write(tmp_path, data)
    error = refused(TokenizerError, lambda: make_tokenizer(path), word, "tokenizer.json")
    assert error.path == str(path)


def test_ids_that_contradict_each_other(tmp_path: Path) -> None:
    path = write(tmp_path, with_vocab({"a": 0, "b": 1, "c": 1}))
    refused(IncompatibleError, lambda: make_tokenizer(path), "'b'", "'c'", "id 1", "tokenizer.json")
    write(tmp_path, with_vocab({"a": 0, "b": 2**31}))
    refused(IncompatibleError, lambda: make_tokenizer(path), "2,147,483,648", "16,777,215")
    added = [*plain()["added_tokens"], {**plain()["added_tokens"][0], "id": 500, "content": "<x>"}]
    write(tmp_path, changed(added_tokens=added))
    refused(IncompatibleError, lambda: make_tokenizer(path), "500", "98", "<x>")


@pytest.mark.parametrize(
    ("field", "section"),
    [
        (
            "padding.strategy.Fixed",
            {"strategy": {"Fixed": 200_000_000}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "x"},
        ),
        (
            "padding.pad_to_multiple_of",
            {
                "strategy": "BatchLongest",
                "pad_to_multiple_of": 2**40,
                "direction": "Right",
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
            },
        ),
        (
            "truncation.max_length",
            {"max_length": 100_001, "stride": 0, "strategy": "LongestFirst", "direction": "Right"},
        ),
        ("truncation.stride", {"max_length": 10, "stride": 1e300, "strategy": "LongestFirst", "direction": "Right"}),
    ],
)
def test_lengths_that_would_abort_the_process(field: str, section: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path, changed(**{field.partition(".")[0]: section}))
    refused(ConfigLimitError, lambda: make_tokenizer(path), field, "100,000", "tokenizer.json")


@pytest.mark.parametrize("merges", [["a b"], [["a", "b"]]])
@pytest.mark.parametrize("prefix", ["##", "b#", "\x00"])
def test_a_prefix_that_would_abort_the_process(prefix: str, merges: list[object], tmp_path: Path) -> None:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": merges}
    path = write(tmp_path, changed(added_tokens=[], model={**model, "continuing_subword_prefix": prefix}))
    refused(TokenizerError, lambda: make_tokenizer(path), "continuing_subword_prefix", "null", "tokenizer.json")
    write(tmp_path, changed(added_tokens=[], model={**model, "continuing_subword_prefix": ""}))
    assert make_tokenizer(path).token_to_id("ab") == 2


@pytest.mark.parametrize("prefix", [None, "", "##"])
@pytest.mark.parametrize("merges", [["aaaa ##bbbb"], [["aaaa", "##bbbb"]]])
def test_a_merge_whose_result_is_not_a_token(prefix: str | None, merges: list[object], tmp_path: Path) -> None:
    """The library allocates for the longest token of the vocabulary, and may abort the process if a merge is longer."""
    model = {"type": "BPE", "vocab": {"aaaa": 0, "##bbbb": 1}, "merges": merges, "continuing_subword_prefix": prefix}
    path = write(tmp_path, changed(added_tokens=[], model=model))
    refused(TokenizerError, lambda: make_tokenizer(path), "model.merges", "'aaaa'", "not a token", "tokenizer.json")


def test_a_prefix_that_is_there(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=60, special_tokens=["<unk>"], continuing_subword_prefix="##", show_progress=False
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 9, trainer)
    path = write(tmp_path, tokenizer.to_str())
    assert encode_text(make_tokenizer(path), "the dog") == tokenizer.encode("the dog").ids


def test_a_file_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with open(path, "wb") as file:
        file.truncate(1_000_000_000)
    tracemalloc.start()
    try:
        refused(CheckpointLimitError, lambda: make_tokenizer(path), "1,000,000,000", "256,000,000")
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_a_million_tokens(tmp_path: Path) -> None:
    path = write(tmp_path, with_vocab({"a": 0, **{f"token{i}": i for i in range(1, 1_000_000)}}))
    assert vocab_size_of(make_tokenizer(path)) == 1_000_000


def test_the_cost_of_a_file_grows_no_faster_than_its_tokens_and_merges(tmp_path: Path) -> None:
    def cost(count: int) -> int:
        tokens = [token for i in range(count) for token in (f"a{i}", f"b{i}", f"a{i}b{i}")]
        merges = [[f"a{i}", f"b{i}"] for i in range(count)]
        model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}
        path = write(tmp_path, changed(added_tokens=[], model=model))
        return steps(lambda: make_tokenizer(path))

    cost(1)
    assert cost(4000) < 2.2 * cost(2000)


BROKEN = base64.b64encode(b"\4\0\0\0\1\2\3\4\5\6").decode()


@pytest.mark.parametrize(
    ("part", "loads"),
    [
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, False),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": BROKEN}}, True),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, True),
        ({"decoder": {"type": "Strip", "content": "a", "start": 5, "stop": 5}}, True),
    ],
)
def test_panics_of_the_library_are_errors_of_ours(part: dict[str, Any], loads: bool, tmp_path: Path) -> None:
    path = write(tmp_path, {**with_vocab({"a": 0}), **part})
    if not loads:
        refused(TokenizerError, lambda: make_tokenizer(path), "tokenizer.json")
        return
    tokenizer = make_tokenizer(path)
    refused(TokenizerError, lambda: decode_ids(tokenizer, encode_text(tokenizer, "a")), "cannot be")


def test_interruptions_pass() -> None:
    class Interrupted:
        def encode(self, *_: object, **__: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_text(Interrupted(), "a")  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_to_a_file_gives_a_tokenizer_or_our_error(data: st.DataObject) -> None:
    raw = bytearray(bert_like().to_str().encode())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.sampled_from(b'0123456789{}[]",:aZ\xff'))
    with contextlib.suppress(VedcoreError):
        parse_tokenizer(bytes(raw), path="tokenizer.json")


def test_a_trained_tokenizer_goes_through(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(["the cat sat on the mat"] * 9, trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert encode_text(make_tokenizer(tmp_path), "the cat") == tokenizer.encode("the cat").ids
    assert token_ids_of(make_tokenizer(tmp_path)) == TokenIds(start=0, eos=(1,))


def test_a_fast_tokenizer_of_transformers_is_taken() -> None:
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=CHAR, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    assert encode_text(make_tokenizer(fast), "!!") == [4, 4]


def test_a_tokenizer_that_cannot_be_saved_is_refused() -> None:
    class Custom:
        def pre_tokenize(self, text: object) -> None: ...

    tokenizer = make_tokenizer("char")
    tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Custom())
    refused(TokenizerError, lambda: make_tokenizer(tokenizer), "copied")


def test_importing_needs_no_torch() -> None:
    code = (
        "import sys\nfrom vedcore.processing import images, tokenizers\nassert not {'torch', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
