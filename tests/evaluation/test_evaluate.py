"""`evaluate`: rows, failures, comparison, and the page."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

pytest.importorskip("jiwer")
pytest.importorskip("sacrebleu")

import vedcore
from tests.data.sources import png, shards
from tests.evaluation.models import reader, rows
from tests.training.data import CONFIG
from vedcore.evaluation import evaluate
from vedcore.evaluation.marking import MAX_SHOWN, marked, shown

pytestmark = pytest.mark.filterwarnings("ignore:the cross-attention and the projector of this model were never")
LABELS = {"a.png": "one two", "b.png": "three", "c.png": "four", "d.png": "five"}


def test_scores_and_kinds_leave_out_the_rows_that_are_not_read() -> None:
    model = reader({"a.png": "one two", "b.png": ("thr", 0.4, "length"), "d.png": ("five five", 0.6, "eos")})
    found = evaluate(model, rows(LABELS), batch_size=3)
    assert found.metrics["cer"] == pytest.approx((2 + 5) / (7 + 5 + 4))
    assert found.metrics["exact_match"] == pytest.approx(1 / 3)
    assert {kind: n for kind, n in found.kinds.items() if n} == {"exact": 1, "cut_off": 1, "letters": 1, "not_read": 1}
    assert [(each.name, each.source) for each in found.not_read] == [("c.png", "rows.jsonl:3")]
    assert [found.rows[case.row].name for case in found.cases] == ["d.png", "b.png"]
    assert found.confidence.reject is not None
    assert found.confidence.reject.rows == 1
    assert "not read" in str(found)
    assert "43.75 %" in str(found)


def test_a_limit_and_few_cases() -> None:
    found = evaluate(reader(dict.fromkeys(LABELS, "x")), rows(LABELS), limit=3, cases=2)
    assert (len(found.rows), len(found.cases)) == (3, 2)


def test_a_model_that_cannot_be_explained_is_judged_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = reader(dict.fromkeys(LABELS, "x"))
    explained = evaluate(model, rows(LABELS), explain=True, max_new_tokens=3)
    assert all(case.explanation is not None for case in explained.cases)
    monkeypatch.setattr(type(model.encoder), "preprocess", lambda self, image: torch.zeros(3, 8, 8))
    with pytest.warns(UserWarning, match="is not explained: .*does not say where their pixels lie") as caught:
        found = evaluate(model, rows(LABELS), explain=True, max_new_tokens=3)
    assert sum("is not explained" in str(each.message) for each in caught) == 1
    assert [case.explanation for case in found.cases] == [None] * 4


def test_splits(tmp_path: Path) -> None:
    model = reader(dict.fromkeys(LABELS, "x"))
    split = [
        vedcore.data.Row(row.name, row.image, row.text, row.source, split="test" if row.name == "c.png" else "train")
        for row in rows(LABELS)
    ]
    assert [row.name for row in evaluate(model, split, split="Testing").rows] == ["c.png"]
    with pytest.warns(UserWarning, match="list has no splits; validation is that of vedcore train with .*=0.1"):
        held_back = evaluate(model, rows(LABELS), split="validation")
    assert [row.name for row in held_back.rows] == [row.name for row in vedcore.data.split(_data())[1]]
    with pytest.raises(vedcore.DataError, match="no split 'test'"):
        evaluate(model, rows(LABELS), split="test")


def _data() -> vedcore.data.Data:
    return vedcore.data.open_data(rows(LABELS))


def test_a_stream(tmp_path: Path) -> None:
    found = evaluate(reader({str(n): f"text {n}" for n in range(12)}), shards(tmp_path), limit=7, batch_size=4)
    assert [row.label for row in found.rows] == [row.text for row in found.rows] == [f"text {n}" for n in range(7)]


def test_two_models_on_the_rows_that_both_read() -> None:
    model = reader({"a.png": "one two", "b.png": "three", "c.png": "four"})
    other = reader({"a.png": "one", "b.png": "three ", "d.png": "five"})
    found = evaluate(model, rows(LABELS), against=other)
    assert found.comparison is not None
    assert found.comparison.rows == 2
    assert [found.rows[mine].name for mine, _ in found.comparison.better] == ["a.png", "b.png"]
    assert not found.comparison.worse
    cer = found.comparison.differences["cer"]
    assert (cer.value, cer.other) == (0, pytest.approx(4 / 12))
    assert cer.high is not None
    assert cer.high <= 0
    assert found.comparison.other.rows[2].name == "d.png"
    turned = evaluate(other, rows(LABELS), against=model).comparison
    assert turned is not None
    assert len(turned.worse) == 2
    assert "difference" in str(found)


def test_rows_of_which_none_is_read() -> None:
    with pytest.raises(vedcore.DataError, match=r"no row can be read; the first: rows.jsonl:1: not an image"):
        evaluate(reader({}), rows(LABELS))
    model = vedcore.compose(**CONFIG, seed=0)
    with torch.no_grad():
        next(model.decoder.parameters()).fill_(math.nan)
    with pytest.raises(vedcore.NonFiniteError):
        evaluate(model, rows(LABELS))


def test_fields_that_are_special_tokens_and_a_prompt() -> None:
    labels = {"a.png": vedcore.fields.write({"total": "12", "tax": "1"}), "b.png": "plain"}
    model = vedcore.compose(**CONFIG, seed=0)
    model.add_tokens(["<s_doc>", *vedcore.fields.tokens({"total": "12", "tax": "1"})], special_tokens=True)
    ids = [model.processor(text=[text]).labels[0].tolist() for text in labels.values()]
    for options in ({}, {"prompt": "<s_doc>"}):
        found = evaluate(
            model,
            rows(labels),
            batch_size=1,
            max_new_tokens=14,
            prefix_allowed_tokens_fn=_writer(ids[:1]),
            limit=1,
            **options,
        )
        assert (found.rows[0].text, found.metrics["field_f1"]) == (labels["a.png"], 1.0)
        assert found.metrics["tree_accuracy"] == 1.0
    assert "field_f1" not in evaluate(model, rows(labels)[1:], max_new_tokens=2).metrics


def _writer(ids: list[list[int]]):  # type: ignore[no-untyped-def]
    return lambda row, so_far: [ids[row][len(so_far) - 1]]


# -- the page --


VOID = {"meta", "img", "br", "source"}
HOSTILE = "<script>alert(1)</script>\0\x1b[31m\u202eevil\ud800</td>&amp;\"'"


class Page(HTMLParser):
    """Text and images of a page whose tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "srcset", "href"):
                assert (value or "").startswith("data:image/")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_shows_hostile_texts_as_text(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    labels = {HOSTILE: "שלום <b>", "b": HOSTILE * 100, "c": "x"}
    model = reader({HOSTILE: HOSTILE, "b": "short"})
    found = evaluate(model, rows(labels), against=reader(dict.fromkeys(labels, "y")), explain=lambda row: png("why"))
    path = replace(found, model=HOSTILE, data=HOSTILE).save(tmp_path / "report")
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.seen
    assert "<script" not in html
    assert not re.search(r"[\0\x1b\u202e]", html)
    assert "<script>alert(1)</script>\\x00\\x1b[31m\\u202eevil\\ud800</td>&amp;" in page.text
    assert '<html lang="en">' in html
    assert html.count("<main>") == 1
    assert "prefers-color-scheme: dark" in html
    assert "default-src 'none'" in html
    assert all(image["alt"] for image in page.images)
    assert len(page.images) == 2 + 2 * 2  # plots; two wrong rows, each with its explanation
    assert "Not read" in page.text
    assert len(html) < 1_000_000
    data = json.loads((tmp_path / "report/evaluation.json").read_text(encoding="ascii"))
    assert data["rows"][0]["text"] == HOSTILE
    assert data["comparison"]["worse"]
    assert data["not_read"][0]["name"] == "c"
    assert sorted(each.name for each in (tmp_path / "report").iterdir()) == ["evaluation.html", "evaluation.json"]


def test_a_page_of_rows_that_are_right(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = evaluate(reader(LABELS), rows(LABELS))
    assert "All rows are exactly right" in Page(found.save(tmp_path).read_text(encoding="utf-8")).text
    assert not found.cases


def test_marked_differences() -> None:
    assert marked("abcd", "abxd") == ("ab<del>c</del>d", "ab<ins>x</ins>d")
    assert marked("a ", "a") == ("a<del> </del>", "a")
    assert marked("a" * 5000 + "b", "a" * 5000 + "c")[1].endswith("a<ins>c</ins>"), "the difference is in sight"
    assert "4,000 more characters" in marked("", "x" * (MAX_SHOWN + 4000))[1]
    assert shown("می\u200cخواهم") == "می\u200cخواهم"
