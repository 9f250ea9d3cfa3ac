"""Hints about text with field tags."""

from __future__ import annotations

from typing import Any

import vedcore
from tests.hints.templates import told


def test_a_list_of_texts() -> None:
    texts = ["<s_total>12</s_total>", "<s_total>13</s_total>"]
    told("give one str", vedcore.fields.parse, texts)
    assert [vedcore.fields.parse(text) for text in texts] == [{"total": "12"}, {"total": "13"}]


def test_a_text_that_does_not_end_its_fields() -> None:
    runaway = "".join(f"<s_{i}>" for i in range(300)) + "".join(f"</s_{i}>" for i in reversed(range(300)))
    text = f"<s_total>12</s_total>{runaway}"
    told("cut the text before it is parsed", vedcore.fields.parse, text)
    assert vedcore.fields.parse(text[:200])["total"] == "12"


def test_data_in_too_many_layers() -> None:
    deep: Any = "x"
    for i in range(300):
        deep = {str(i): deep}
    told("make it flatter", vedcore.fields.write, deep)
    told("make it flatter", vedcore.fields.tokens, deep)
    assert vedcore.fields.write({str(i): "x" for i in range(300)})


def test_a_key_that_no_tag_can_hold() -> None:
    for key, good in {"a>b": "a-b", 5: "5"}.items():
        told("give keys that are texts without '>'", vedcore.fields.write, {key: "x"})
        assert vedcore.fields.parse(vedcore.fields.write({good: "x"})) == {good: "x"}
