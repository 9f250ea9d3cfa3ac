"""Constrained text keeps to its rule, by what the tokenizer itself decodes and by what Python's ``re`` says of it."""

from __future__ import annotations

import functools
import itertools
import math
import random
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from vedcore.errors import ConfigLimitError, GenerationError, TokenizerError, UsageError, VedcoreError
from vedcore.generation.constraints import ConstraintProcessor, TokenAutomaton, compile_constraint, token_automaton
from vedcore.generation.constraints.regex import compile_pattern
from vedcore.generation.constraints.symbols import SymbolAutomaton, of_words
from vedcore.processing.tokenizers import make_tokenizer, token_ids_of, vocab_size_of

TEXT = [
    "Invoice 2024-01-31, total: 1.250,00 EUR.",
    "receipt no. 77/12 - paid",
    "das straße café naïve über",
    "AB-CD 1234",
    "the 3rd of may, 09:45",
    "漢字 仮名 12",
    "don't stop, it's 1 o' clock !",
    "a b c 🙂 d e",
]


def trained(model: Any, trainer: Any, pre: Any, decoder: Any) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoder
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    return tokenizer


def byte_level() -> Tokenizer:
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<s>", "</s>"], initial_alphabet=pre.alphabet(), show_progress=False
    )
    return trained(models.BPE(), trainer, pre, decoders.ByteLevel())


def word_piece(decoder: Any = None) -> Tokenizer:
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    pre = pre_tokenizers.BertPreTokenizer()
    return trained(models.WordPiece(unk_token="[UNK]"), trainer, pre, decoder or decoders.WordPiece(cleanup=False))


def clean_word_piece() -> Tokenizer:
    return word_piece(decoders.WordPiece(cleanup=True))


def replaced_word_piece() -> Tokenizer:
    replaced = [decoders.Replace(*pair) for pair in ((" .", "."), (" ,", ","), (" ' ", "'"), (" n't", "n't"))]
    return word_piece(decoders.Sequence([decoders.WordPiece(cleanup=False), decoders.Fuse(), *replaced]))


def unigram() -> Tokenizer:
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    return trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(), decoders.Metaspace())


def byte_fallback() -> Tokenizer:
    words = ["▁", "▁a", "▁12", "12", "-", "a", "b", "é", "▁the", "1", "2", "▁▁", "漢"]
    vocab = {t: i for i, t in enumerate(["<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *words])}
    tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def bare() -> Tokenizer:
    vocab = {t: i for i, t in enumerate(["<s>", "</s>", "a", "b", "12", "-", "x y", "é", ""])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="a"))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("ab 1"), AddedToken("漢")])
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": byte_level,
    "word_piece": word_piece,
    "clean_word_piece": clean_word_piece,
    "replaced_word_piece": replaced_word_piece,
    "unigram": unigram,
    "byte_fallback": byte_fallback,
    "bare": bare,
    "char": lambda: make_tokenizer("char"),
    "byte": lambda: make_tokenizer("byte"),
}
made = functools.cache(lambda kind: KINDS[kind]())


def compiled(tokenizer: Tokenizer, **rules: Any) -> TokenAutomaton:
    return compile_constraint(tokenizer, vocab_size_of(tokenizer) + 3, eos=token_ids_of(tokenizer).eos, **rules)


def walk(automaton: TokenAutomaton, tokenizer: Tokenizer, length: int, seed: int) -> tuple[str, bool]:
    """A random text of at most ``length`` tokens, and whether an end id ended it."""
    draw = random.Random(seed)
    eos = token_ids_of(tokenizer).eos
    processor = ConstraintProcessor(automaton, 1, 1 + length)
    ids = torch.zeros(1, 1, dtype=torch.long)
    for _ in range(length):
        scores = processor(ids, torch.zeros(1, automaton.vocab_size))
        allowed = (scores[0] > -math.inf).nonzero()[:, 0].tolist()
        assert allowed
        token = draw.choice(allowed)
        if token in eos:
            return tokenizer.decode(ids[0, 1:].tolist()), True
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
    return tokenizer.decode(ids[0, 1:].tolist()), False


ATOMS = st.sampled_from(
    [
        "a",
        "1",
        " ",
        "-",
        "é",
        "漢",
        ".",
        r"\d",
        r"\w",
        r"\s",
        r"\.",
        r"\W",
        "[a-z]",
        "[^a-z]",
        r"[\d,-]",
        "(?i:THE)",
        "12",
        "(?:a|b1)",
        "(x|é|)",
        ",",
        "'",
        "🙂",
        r"(?a:\w)",
        r"[^\S\n]",
    ]
)
REPEATED = st.tuples(ATOMS, st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,3}", "{0,2}?", "{2,}"])).map(
    lambda pair: f"(?:{pair[0]}){pair[1]}" if pair[1] else pair[0]
)
PATTERNS = st.lists(st.lists(REPEATED, min_size=1, max_size=4).map("".join), min_size=1, max_size=3).map("|".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(pattern=PATTERNS, room=st.integers(0, 6), seed=st.integers(0, 1 << 30))
def test_text_matches_the_pattern(kind: str, pattern: str, room: int, seed: int) -> None:
    tokenizer = made(kind)
    try:
        automaton = compiled(tokenizer, pattern=pattern)
    except UsageError as error:  # what the vocabulary lacks
        assert "no text that the tokenizer can write" in str(error)
        return
    for i in range(4):
        text, _ = walk(automaton, tokenizer, automaton.shortest + room, seed + i)
        assert re.fullmatch(pattern, text), (pattern, text)


LETTERS = "ab1 -é漢ßẞſKkKıİı\u0345μ\x1f\n🙂,."
CLASSES = [
    ".",
    r"\d",
    r"\w",
    r"\s",
    r"\W",
    r"[^\W\d_]",
    "[^a-k]",
    "[a-zé-ſ]",
    r"[\d,-]",
    "[^\n漢]",
    r"[\u0300-\U0001ffff]",
    "k",
    "ß",
    r"[^\s\S]",
    r"[\U00010400-\U00010420]",
    "[ıi]",
    "[^ẞa]",
    "[ι-λ]",
    r"\S",
    r"\D",
]
FLAGS = ["", "(?i)", "(?s)", "(?a)", "(?ia)"]
EVERY = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
NESTED = st.recursive(
    st.sampled_from([*CLASSES, "a", "b", "1", "ab", "", "(?i:K)", "(?a:\\w)", "(?s:.)", "(?-i:s)"]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda some: f"({'|'.join(some)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{0,2}", "{1,3}", "{2,}", "{0}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    flags=st.sampled_from(FLAGS),
    pattern=NESTED,
    texts=st.lists(st.text(LETTERS, max_size=6), max_size=25),
    allowed=st.none() | st.text(LETTERS, min_size=1, max_size=6),
    apart=st.text(LETTERS, max_size=2),
    alphabet=st.sampled_from([EVERY, "".join(sorted(set(LETTERS)))]),
)
def test_automata_agree_with_re(
    flags: str, pattern: str, texts: list[str], allowed: str | None, apart: str, alphabet: str
) -> None:
    """Nested repetitions, alternatives and classes, with flags, over large and small alphabets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        due = re.compile(flags + pattern)
        automaton = compile_pattern(flags + pattern, alphabet, allowed=allowed, apart=apart)
    for text in ("", *texts):
        expected = due.fullmatch(text) is not None and (allowed is None or set(text) <= set(allowed))
        assert automaton.matches(text) == expected, (flags, pattern, text)


@pytest.mark.parametrize("flags", FLAGS)
def test_classes_hold_what_re_says(flags: str) -> None:
    """Every character of Unicode, one by one."""
    code_points = np.frombuffer(EVERY.encode("utf-32-le"), np.uint32)
    for text in CLASSES:
        automaton = compile_pattern(flags + text, EVERY)
        ours = automaton.delta[0][automaton.symbol_of[code_points]] >= 0
        due = np.zeros(len(EVERY), bool)
        for match in re.finditer(f"{flags}(?:{text})+", EVERY):
            due[slice(*match.span())] = True
        assert np.array_equal(ours, due), text


def texts_of(rule: SymbolAutomaton) -> list[tuple[bytes, int]]:
    """All texts of an automaton without loops, once for each path, with their numbers."""
    meaning = {
        int(rule.symbol_of[code]): bytes([code - 0xDC00]) if 0xDC80 <= code < 0xDD00 else chr(code).encode()
        for code in np.flatnonzero(rule.symbol_of).tolist()
    }
    found, pending = [], [(0, b"")]
    while pending:
        state, text = pending.pop()
        if rule.final[state] >= 0:
            found.append((text, int(rule.final[state])))
        for edge in np.flatnonzero(rule.source == state):
            pending.append((int(rule.target[edge]), text + meaning[int(rule.symbol[edge])]))
    return found


@settings(max_examples=40, deadline=None)
@given(
    words=st.lists(st.text("abéÃ漢渣🙂🙃", min_size=1, max_size=4), min_size=1, max_size=8, unique=True),
    fragments=st.booleans(),
)
def test_words_as_a_tree(words: list[str], fragments: bool) -> None:
    """Each word with its number, once for each way to write its characters whole or byte by byte."""
    rule = of_words(words, fragments)
    ways = [2 ** sum(c >= "\x80" for c in word) if fragments else 1 for word in words]
    due = [(word.encode(), i) for i, (word, n) in enumerate(zip(words, ways, strict=True)) for _ in range(n)]
    assert sorted(texts_of(rule)) == sorted(due)
    assert (np.diff(rule.source * (1 << 32) + rule.symbol) > 0).all()


def keeps_word(word: str, rules: dict[str, Any]) -> bool:
    return set(word) <= set(rules.get("allowed_chars", word)) and bool(re.fullmatch(rules.get("pattern", ".*"), word))


SMALL = {
    "bytes": (["a", "b", "ab", "é", "ba"], decoders.ByteLevel()),
    "pieces": (["a", "##a", "b", "##b", "##ab", "ab"], decoders.WordPiece(cleanup=False)),
    "spaces": (["▁", "a", "▁a", "b", "▁ab", "ab"], decoders.Metaspace()),
    "bare": (["a", "b", "ab"], None),
    "replaced": (
        ["a", "##a", ".", "b", "##."],
        decoders.Sequence(
            [
                decoders.WordPiece(cleanup=False),
                decoders.Fuse(),
                decoders.Replace(" .", "."),
                decoders.Replace(" a b", "ba"),
                decoders.Replace("..a", ""),
            ]
        ),
    ),
}


def small(kind: str) -> Tokenizer:
    words, decoder = SMALL[kind]
    if kind == "bytes":  # é as a whole and in two parts
        alphabet = dict(zip("é".encode(), "Ã©", strict=True))
        words = ["".join(alphabet.get(b, chr(b)) for b in word.encode()) for word in words] + ["Ã", "©", "©a"]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(["<s>", "</s>", *words])}, unk_token="<s>"))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    if decoder is not None:
        tokenizer.decoder = decoder
    return tokenizer


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize(
    "rules",
    [
        {"pattern": "(a|b)(a|é)?b?"},
        {"pattern": "a b|ab?| a"},
        {"pattern": "[ab]{2,3}| ?é"},
        {"allowed_chars": "a "},
        {"pattern": "[^b]*b", "allowed_chars": "ab"},
        {"lexicon": ["ab", "a", "a b"]},
        {"lexicon": ["ba", "ab a"]},
        {"lexicon": ["a", "ab", "é", "abab"], "pattern": "a.*"},
        {"lexicon": ["a", "é"], "allowed_chars": "ab "},
        {"lexicon": ["é", "aé", "éa"]},
        {"pattern": r"a\.b?|ba?\.?| b"},
        {"lexicon": ["a.", "ab", "aba", "a a"]},
        {"pattern": "(?:a ?)*ba", "allowed_chars": "ab"},
        {"pattern": "a|", "allowed_chars": "a."},
        {"pattern": "[^ ]*"},
    ],
)
def test_exactly_the_texts_that_keep_to_the_rules(kind: str, rules: dict[str, Any]) -> None:
    """All rows of up to four tokens, one by one: the tokens that may follow are those that can be completed."""
    tokenizer = small(kind)
    size, room = tokenizer.get_vocab_size(), 4

    def keeps(ids: tuple[int, ...]) -> bool:
        text = tokenizer.decode(list(ids))
        return (
            set(text) <= set(rules.get("allowed_chars", text))
            and re.fullmatch(rules.get("pattern", r"[\s\S]*"), text) is not None
            and text in rules.get("lexicon", [text])
            and "\ufffd" not in text
        )

    good = {ids for n in range(room + 1) for ids in itertools.product(range(2, size), repeat=n) if keeps(ids)}
    prefixes = {ids[:n] for ids in good for n in range(len(ids) + 1)}
    try:
        automaton = compile_constraint(tokenizer, size, eos=(1,), **rules)
    except UsageError:
        if "lexicon" in rules:  # some entry is out of reach
            texts = {tokenizer.decode(list(ids)) for ids in good}
            assert not texts >= {w for w in rules["lexicon"] if keeps_word(w, rules)}
        else:
            assert not good - {()}
        return
    assert automaton.shortest == min(map(len, good))
    processor = ConstraintProcessor(automaton, 0, room)
    for ids in prefixes:
        if len(ids) == room:
            continue
        row = torch.tensor([ids], dtype=torch.long).reshape(1, -1)
        allowed = (processor(row, torch.zeros(1, size))[0] == 0).nonzero()[:, 0].tolist()
        expected = [t for t in range(2, size) if (*ids, t) in prefixes]
        assert allowed == sorted(expected + [1] * (ids in good)), ids


@pytest.mark.parametrize("kind", KINDS)
def test_lexicons(kind: str) -> None:
    """Each word that the tokenizer can decode is written, and nothing else, also where words begin alike."""
    tokenizer = made(kind)
    found = {word for text in TEXT for n in (1, 2) for word in map(" ".join, itertools.pairwise([*text.split(), ""]))}
    words = sorted({word.strip() for word in found} | {"a", "ab", "12", "12-"})
    words = [word for word in words if kind != "bare" or word in ("12", "a")]
    words = [word for word in words if kind != "char" or word.isascii()]
    if kind not in ("bare", "char"):
        words = [
            word for word in words if tokenizer.decode(tokenizer.encode(word, add_special_tokens=False).ids) == word
        ]
    assert words
    automaton = compiled(tokenizer, lexicon=words)
    texts = [walk(automaton, tokenizer, 40, seed) for seed in range(30)]
    assert {text for text, _ in texts} <= set(words)
    assert all(ended for _, ended in texts)
    few = compiled(tokenizer, lexicon=words, allowed_chars="a12")
    assert {walk(few, tokenizer, 40, seed)[0] for seed in range(20)} == {w for w in words if set(w) <= set("a12")}


@pytest.mark.parametrize("kind", KINDS)
def test_allowed_characters(kind: str) -> None:
    tokenizer = made(kind)
    for seed in range(10):
        assert set(walk(compiled(tokenizer, allowed_chars="12 a-"), tokenizer, 8, seed)[0]) <= set("12 a-")


def test_rows_that_beams_reorder() -> None:
    """A processor that sees rows copied, dropped and reordered masks each row as a new one does alone."""
    tokenizer = made("byte_level")
    automaton = compiled(tokenizer, pattern=r"[a-z]+( [a-z\d]+){0,2}\.")
    generator = torch.Generator().manual_seed(0)
    processor, ids = ConstraintProcessor(automaton, 2, 14), torch.zeros(6, 2, dtype=torch.long)
    for _ in range(12):
        scores = processor(ids, torch.randn(6, automaton.vocab_size, generator=generator))
        for row, expected in zip(ids, scores, strict=True):
            alone = ConstraintProcessor(automaton, 2, 14)(row[None], torch.zeros(1, automaton.vocab_size))
            assert torch.equal(alone[0] > -math.inf, expected > -math.inf)
        ids = torch.cat([ids, torch.multinomial(scores.softmax(1), 1, generator=generator)], 1)
        ids = ids[torch.randint(6, (6,), generator=generator)]


def test_states() -> None:
    tokenizer = made("char")
    automaton = compiled(tokenizer, pattern="ab?")
    ids = {c: tokenizer.token_to_id(c) for c in ("a", "b", "c", "</s>", "<s>")}
    states = torch.full((5,), automaton.start)
    assert automaton.mask(states[:1]).nonzero()[:, 1].tolist() == [ids["a"]]
    states = automaton.step(states, torch.tensor([ids[c] for c in ("a", "b", "<s>", "</s>", "c")]))
    assert states[2] == automaton.start, "a special token is no text"
    assert states[1] == states[3] == states[4] == automaton.end
    mask = automaton.mask(states)
    assert mask[0].nonzero()[:, 0].tolist() == [ids["</s>"], ids["b"]]
    assert mask[1].nonzero()[:, 0].tolist() == [ids["</s>"]]
    assert automaton.shortest == 1


def test_a_text_is_complete_where_it_is_cut() -> None:
    tokenizer = made("char")
    automaton = compiled(tokenizer, pattern=r"x+\(\d{3}\)")
    assert automaton.shortest == 6
    for seed in range(5):
        text, _ = walk(automaton, tokenizer, 8, seed)
        assert re.fullmatch(r"x{1,3}\(\d{3}\)", text)
    with pytest.raises(GenerationError, match=r"pattern: the shortest text takes 6 tokens, .* room for 5; .*=7"):
        ConstraintProcessor(automaton, 1, 6)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"pattern": "(a"}, r"pattern: not a regular expression: missing \), .* at character 0"),
        ({"pattern": "a(?=b)"}, "pattern: lookahead"),
        ({"pattern": "a(?!b)"}, "negative lookahead"),
        ({"pattern": "(?<=a)b"}, "pattern: lookahead or lookbehind"),
        ({"pattern": r"(a)\1"}, "a back reference"),
        ({"pattern": r"\bab\b"}, "word boundary"),
        ({"pattern": "a^b"}, r"\^ inside"),
        ({"pattern": "(a$)+"}, r"\$ inside"),
        ({"pattern": "a++b"}, "a possessive"),
        ({"pattern": "(?>a)b"}, "an atomic group"),
        ({"pattern": "é+"}, "pattern: no text that the tokenizer can write"),
        ({"pattern": "b+", "allowed_chars": "a"}, "allowed_chars and pattern: no text"),
        ({"allowed_chars": "é"}, "allowed_chars: no text"),
        ({"lexicon": ["a", "é", "aé"]}, "lexicon: 2 of 3 entries cannot be written .* 'é'"),
        ({"lexicon": ["a", "b"], "pattern": "c"}, "pattern and lexicon: no entry"),
    ],
)
def test_what_is_wrong_is_said(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compiled(made("char"), **rules)


def test_an_end_id_is_needed() -> None:
    with pytest.raises(UsageError, match="pattern: .* pass eos_token_id="):
        compile_constraint(made("char"), 98, eos=(), pattern="a")


@pytest.mark.parametrize("pattern", ["^ab$", r"\Aab\Z", "(^a|^a)b$", "(?:^(ab)$|^ab)"])
def test_anchors_at_the_ends_change_nothing(pattern: str) -> None:
    assert walk(compiled(made("char"), pattern=pattern), made("char"), 5, 0)[0] == "ab"


@pytest.mark.parametrize(
    "pattern",
    [
        "(a|b)*a(a|b){100}",
        "(a{1000}){1000}",
        "(a?){9000}",
        "a?" * 5000,
        "x{0,4294967294}",
        r"\w{1,1000}",
        "(" * 3000 + ")" * 3000,
        "a" * 20_000,
        "((a{0,99}b{0,99}){0,99}c){0,99}",
        "(((a{99}){99}){99})",
        ".*a.{20}",
        "".join(map(chr, range(0x4E00, 0x7400))),
        "(?i)" + "".join(f"[{chr(i)}é]" for i in range(0x4E00, 0x5500)),
        "|".join(chr(i) + "a" for i in range(0x4E00, 0x5600)),
        ".*" + "a" * 9000,
        "(.?a){2000}",
        r"(\W\w){3000}",
    ],
)
def test_bombs_are_limits(pattern: str) -> None:
    calls = 0

    def count(_: Any, event: str, __: Any) -> None:
        nonlocal calls
        calls += event == "call"

    tokenizer = made("byte")
    sys.setprofile(count)
    try:
        with pytest.raises(ConfigLimitError, match="pattern: "):
            compiled(tokenizer, pattern=pattern)
    finally:
        sys.setprofile(None)
    assert calls < 2_000_000


def test_many_ways_are_refused_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule with too many edges is recognised from a few states, the same ones each time."""
    walked = []

    def count(*arguments: Any) -> Any:
        walked.append(len(arguments[-1]))
        return walk_along(*arguments)

    walk_along = token_automaton._walk
    monkeypatch.setattr(token_automaton, "_walk", count)
    compiled(made("byte_level"), pattern=".*a.{6}")
    states, walked[:] = sum(walked) - 1, []
    monkeypatch.setattr(token_automaton, "MAX_EDGES", 10_000)
    for _ in range(2):
        with pytest.raises(ConfigLimitError, match="pattern: more than 10,000 ways"):
            compiled(made("byte_level"), pattern=".*a.{6}")
    assert walked == [1, token_automaton.SAMPLED_STATES] * 2
    assert states > 2 * token_automaton.SAMPLED_STATES


@pytest.mark.parametrize("pattern", [r"(){40}a", "((((a*)*)*)*)*b", "(a|aa)+", r"(|a)+b", "a{0}b", "(?x) a  b # c"])
def test_odd_patterns_mean_what_they_mean(pattern: str) -> None:
    automaton = compiled(made("char"), pattern=pattern)
    for seed in range(5):
        text, _ = walk(automaton, made("char"), 6, seed)
        assert re.fullmatch(pattern, text)


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.BPEDecoder(),
        decoders.CTC(),
        decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 2, 0)]),
        decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]),
        decoders.Replace("a", "b"),
        decoders.Sequence([decoders.Fuse(), decoders.Replace("a", "b"), decoders.Metaspace()]),
    ],
)
def test_decoders_that_join_otherwise_are_refused(decoder: Any) -> None:
    tokenizer = bare()
    tokenizer.decoder = decoder
    with pytest.raises(TokenizerError, match="decoder") as caught:
        compiled(tokenizer, pattern="a")
    assert isinstance(caught.value, VedcoreError)
