"""Scores of texts: properties of the counts, and agreement of sums over rows with the packages' own corpus scores."""

from __future__ import annotations

from functools import cache

import pytest

pytest.importorskip("jiwer")
pytest.importorskip("sacrebleu")
from hypothesis import given, settings
from hypothesis import strategies as st

from vedcore.evaluation.comparison import compare
from vedcore.evaluation.metrics import edits, error_rates, similarities
from vedcore.evaluation.scoring import columns_of, scores_of
from vedcore.evaluation.tagged import field_counts, has_fields
from vedcore.evaluation.trees import Node, distance
from vedcore.fields import write

TEXT = st.text(st.sampled_from("abc \n\0<é"), max_size=8)
PAIRS = st.lists(st.tuples(TEXT, TEXT.filter(str.strip)), min_size=1, max_size=5)


@given(st.lists(TEXT.filter(str.strip), min_size=1, max_size=5))
def test_texts_that_are_their_labels_have_no_error(texts: list[str]) -> None:
    assert error_rates(texts, texts) == {"cer": 0.0, "wer": 0.0, "exact_match": 1.0}


@settings(max_examples=50)
@given(PAIRS)
def test_scores_are_those_of_the_corpus_and_not_means_of_rows(pairs: list[tuple[str, str]]) -> None:
    texts, labels = ([pair[i] for pair in pairs] for i in range(2))
    rates, counts = error_rates(texts, labels), edits(texts, labels)
    assert rates["cer"] == pytest.approx(sum(c.edits for c in counts) / sum(c.characters for c in counts))
    assert rates["wer"] == pytest.approx(sum(c.word_edits for c in counts) / sum(c.words for c in counts))
    assert all(each.edits >= 0 for each in counts)
    assert all(each.edits <= max(each.characters, len(text)) for each, text in zip(counts, texts, strict=True))
    assert all(0 <= value <= 100 for value in similarities(texts, labels).values())


def test_a_long_row_weighs_more_than_a_short_one() -> None:
    assert error_rates(["x", "a" * 99], ["a", "a" * 99])["cer"] == pytest.approx(0.01)


def test_words_end_at_any_white_space() -> None:
    assert error_rates(["one\ntwo\tthree "], ["one two  three"])["wer"] == 0


def test_labels_without_text() -> None:
    assert error_rates(["", ""], ["", ""])["cer"] == 0
    assert error_rates(["ab"], [""])["cer"] > 0
    assert edits([], []) == []


def test_similarity_of_short_texts_that_are_right() -> None:
    assert similarities(["one", "two"], ["one", "two"]) == {"bleu": 100.0, "chrf": 100.0}


@given(PAIRS)
@settings(max_examples=20)
def test_the_difference_of_a_model_with_itself_is_nothing(pairs: list[tuple[str, str]]) -> None:
    texts, labels = ([pair[i] for pair in pairs] for i in range(2))
    columns = columns_of(texts, labels, ngrams=True)
    scores = scores_of(texts, labels, columns)
    for name, each in compare(scores, scores, columns, columns).items():
        assert (each.difference, each.low, each.high) == (0, None if name == "chrf" else 0, each.low)


def test_an_interval_holds_the_difference_and_depends_on_the_seed_alone() -> None:
    labels = [f"one two three four {i}" for i in range(40)]
    texts, others = ([label[i % k :] for i, label in enumerate(labels)] for k in (2, 5))
    sides = [columns_of(each, labels, ngrams=True) for each in (texts, others)]
    scores = [scores_of(each, labels, columns) for each, columns in zip((texts, others), sides, strict=True)]
    found = compare(*scores, *sides, seed=1)
    assert found == compare(*scores, *sides, seed=1)
    assert found != compare(*scores, *sides, seed=2)
    for name in ("cer", "wer", "exact_match", "bleu"):
        each = found[name]
        assert each.low is not None
        assert each.high is not None
        assert each.low < each.difference < each.high
    assert (found["cer"].high or 0) < 0, "a model that is clearly better"


# -- fields --


VALUE = st.text("abc", min_size=1, max_size=3)
ITEMS = st.dictionaries(st.sampled_from(["nm", "price"]), VALUE, min_size=1)
RECEIPT = st.dictionaries(
    st.sampled_from(["total", "menu", "tax"]), VALUE | ITEMS | st.lists(ITEMS, min_size=2, max_size=3), min_size=1
)


@given(RECEIPT, RECEIPT)
@settings(max_examples=50)
def test_fields(one: dict[str, object], two: dict[str, object]) -> None:
    text, label = write(one), write(two)
    assert has_fields(label)
    counts = field_counts(text, label)
    assert 0 <= counts.accuracy <= 1
    assert (counts.wrong == 0) == (field_counts(label, text).wrong == 0)
    same = field_counts(label, label)
    assert (same.wrong, same.accuracy) == (0, 1.0)
    assert same.right == counts.right + field_counts("", label).wrong - counts.right


def test_figures_of_donuts_evaluator() -> None:
    """Worked out by hand by the rules of its ``JSONParseEvaluator``."""
    label = write({"menu": [{"name": "cake", "count": "2"}, {"name": "juice", "count": "1"}]})
    text = write({"menu": [{"count": "2", "name": "cakes"}, {"name": "juice", "count": "1"}]})
    counts = field_counts(text, label)
    assert (counts.right, counts.wrong) == (3, 2)
    size = 1 + 2 + 4 + len("cake2juice1")  # menu, items, names, values
    assert counts.accuracy == pytest.approx(1 - 1 / size)
    assert field_counts("no tags", label).accuracy == pytest.approx(max(0, 1 - (size + 1) / size))
    assert not has_fields("a <b> c")
    assert not has_fields("</s_a> <s_a>")


def test_tags_in_too_many_layers_are_text() -> None:
    deep = "".join(f"<s_{i}>" for i in range(200)) + "".join(f"</s_{i}>" for i in reversed(range(200)))
    assert field_counts(deep, "<s_a>1</s_a>").right == 0


LABELS = st.sampled_from("xyz")
TREES = st.recursive(
    st.builds(Node, LABELS) | st.builds(Node, st.text("ab", min_size=1, max_size=2), st.just(True)),
    lambda below: st.builds(Node, LABELS, st.just(False), st.lists(below, max_size=3).map(tuple)),
    max_leaves=5,
)


@given(TREES, TREES)
@settings(max_examples=60)
def test_tree_distance_is_that_of_the_definition(a: Node, b: Node) -> None:
    assert distance(a, b) == _forest_distance((a,), (b,)) == distance(b, a)
    assert distance(a, a) == 0


@cache
def _forest_distance(a: tuple[Node, ...], b: tuple[Node, ...]) -> int:
    """The distance of two forests, by its definition: delete, insert or change the root of the last tree."""
    if not a and not b:
        return 0
    options = []
    if a:
        options.append(_forest_distance((*a[:-1], *a[-1].children), b) + a[-1].cost)
    if b:
        options.append(_forest_distance(a, (*b[:-1], *b[-1].children)) + b[-1].cost)
    if a and b:
        rest = _forest_distance(a[:-1], b[:-1]) + _forest_distance(a[-1].children, b[-1].children)
        options.append(rest + _change(a[-1], b[-1]))
    return min(options)


def _change(a: Node, b: Node) -> int:
    if a.is_value != b.is_value:
        return 1 + max(a.cost if a.is_value else 0, b.cost if b.is_value else 0)
    if not a.is_value:
        return int(a.label != b.label)
    return edits([b.label], [a.label])[0].edits
