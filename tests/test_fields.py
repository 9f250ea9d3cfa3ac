"""Text with field tags to data and back, compared with transformers' DonutProcessor."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DonutProcessor

import vedcore
from vedcore.errors import ConfigLimitError, UsageError

WORDS = st.text("abxyz 019.,-é日\n", max_size=8).map(str.strip)
KEYS = st.sampled_from(["a", "b", "nm", "Total", "total", "x.y", "(", "s_a", "日", "price_1"])


def reference(text: str, added: dict[str, int] | None = None) -> Any:
    return DonutProcessor.token2json(DonutProcessor.__new__(DonutProcessor), text, added_vocab=added or {})


def published_json2token(data: Any, added: tuple[str, ...] = (), sort: bool = True) -> str:
    """Donut's algorithm, as its repository has it."""
    if isinstance(data, dict):
        if len(data) == 1 and "text_sequence" in data:
            return str(data["text_sequence"])
        keys = sorted(data, reverse=True) if sort else list(data)
        return "".join(f"<s_{k}>{published_json2token(data[k], added, sort)}</s_{k}>" for k in keys)
    if isinstance(data, list):
        return "<sep/>".join(published_json2token(item, added, sort) for item in data)
    return f"<{data}/>" if f"<{data}/>" in added else str(data)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("<s_total>12</s_total>", {"total": "12"}),
        ("<s_a>1</s_a><s_b>2</s_b>", {"a": "1", "b": "2"}),
        ("<s_a>x<sep/> y </s_a>", {"a": ["x", "y"]}),
        ("<s_menu><s_nm>a</s_nm><sep/><s_nm>b</s_nm></s_menu>", {"menu": [{"nm": "a"}, {"nm": "b"}]}),
        ("<s_menu><s_nm>a</s_nm></s_menu>", {"menu": {"nm": "a"}}),
        ("<s_a>1</s_a><sep/><s_a>2</s_a>", [{"a": "1"}, {"a": "2"}]),
        ("<s_a>1<s_b>2</s_b>", {"b": "2"}),
        ("<s_a>1", {"text_sequence": "1"}),
        ("plain", {"text_sequence": "plain"}),
        ("", {"text_sequence": ""}),
        ("<s_a", {"text_sequence": "<s_a"}),
    ],
)
def test_data_of_a_text(text: str, data: Any) -> None:
    assert vedcore.fields.parse(text) == data == reference(text)


TAGS = KEYS.flatmap(lambda k: st.sampled_from([f"<s_{k}>", f"</s_{k}>", f"<S_{k}>", f"</S_{k}>"]))
SOUP = st.lists(st.one_of(TAGS, TAGS, TAGS, st.just("<sep/>"), WORDS, st.sampled_from(["<s_", ">", "<yes/>", "</s>"])))


@settings(max_examples=600, deadline=None)
@given(SOUP.map("".join), st.booleans())
def test_any_text_gives_what_transformers_gives(text: str, declared: bool) -> None:
    added = {"<yes/>": 1, "</s>": 2} if declared else {}
    assert vedcore.fields.parse(text, added) == reference(text, added)


LEAVES = WORDS.filter(lambda word: bool(word))
RECORDS = st.recursive(
    st.dictionaries(KEYS, st.one_of(LEAVES, st.lists(LEAVES, min_size=2, max_size=3)), min_size=1, max_size=3),
    lambda inner: st.dictionaries(KEYS, st.one_of(LEAVES, inner, st.lists(inner, min_size=2, max_size=3)), min_size=1),
    max_leaves=8,
)


def repeats(data: Any, above: tuple[str, ...] = ()) -> bool:
    """Whether a key stands within itself, in any case of letters: Donut's tags cannot tell the two apart."""
    if isinstance(data, list):
        return any(repeats(item, above) for item in data)
    if not isinstance(data, dict):
        return False
    return any(k.lower() in above or repeats(v, (*above, k.lower())) for k, v in data.items())


@settings(max_examples=300, deadline=None)
@given(RECORDS, st.booleans())
def test_what_is_written_is_parsed(data: dict[str, Any], sort: bool) -> None:
    text = vedcore.fields.write(data, sort_keys=sort)
    assert text == published_json2token(data, sort=sort)
    assert vedcore.fields.parse(text) == reference(text)
    if not repeats(data):
        assert vedcore.fields.parse(text) == data
    tags = vedcore.fields.tokens(data)
    assert len(set(tags)) == len(tags)
    assert set(re.findall(r"</?s_[^>]*>|<sep/>", text)) == set(tags)


def test_values_of_a_closed_set() -> None:
    categories = ["<yes/>", "<no/>"]
    data = {"paid": "yes", "note": "yes, but", "n": 3, "tags": ["no", "maybe"]}
    text = vedcore.fields.write(data, categories, sort_keys=False)
    assert text == published_json2token(data, tuple(categories), sort=False)
    assert "<s_paid><yes/></s_paid>" in text
    assert vedcore.fields.parse(text, categories) == {**data, "n": "3"}
    assert vedcore.fields.parse(text)["paid"] == "<yes/>"
    assert {"<yes/>", "<no/>", "<sep/>"} < set(vedcore.fields.tokens(data, categories))


def test_tags_of_many_examples() -> None:
    assert vedcore.fields.tokens([{"a": 1}, {"a": 2, "b": {"c": ""}}]) == [
        "<s_a>",
        "</s_a>",
        "<sep/>",
        "<s_b>",
        "<s_c>",
        "</s_c>",
        "</s_b>",
    ]
    assert vedcore.fields.tokens("text") == []


def test_long_lists_and_deep_nesting() -> None:
    rows = [{"nm": str(i)} for i in range(3000)]
    assert vedcore.fields.parse(vedcore.fields.write({"menu": rows})) == {"menu": rows}
    deep = "".join(f"<s_{i}>" for i in range(300)) + "".join(f"</s_{i}>" for i in reversed(range(300)))
    with pytest.raises(ConfigLimitError, match="100"):
        vedcore.fields.parse(deep)
    data: Any = "x"
    for i in range(300):
        data = {str(i): data}
    with pytest.raises(ConfigLimitError, match="100"):
        vedcore.fields.write(data)


def test_what_cannot_be_a_text_or_a_tag() -> None:
    with pytest.raises(UsageError, match="list"):
        vedcore.fields.parse(["<s_a>"])  # type: ignore[arg-type]
    for key in ("a>b", 5):
        with pytest.raises(UsageError, match="tag"):
            vedcore.fields.write({key: "x"})
