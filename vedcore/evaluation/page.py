"""An evaluation as one HTML page, which needs no other file and runs no script.

All texts come from strangers: labels, texts, names, errors. They are escaped, and the page's policy allows nothing but
its own styles and pictures.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

from vedcore.evaluation.confidence import Confidence, Kept
from vedcore.evaluation.failures import KINDS
from vedcore.evaluation.findings import METRICS, Case, Comparison, Findings, is_better, shown_score
from vedcore.evaluation.marking import marked, shown
from vedcore.evaluation.plots import THEMES, confidence_plots

__all__ = ["page"]

MAX_CHANGED = 30
"""Rows that became better, and as many that became worse, which are shown."""
MAX_NOT_READ = 100
"""Rows that could not be read which are shown."""
MAX_THRESHOLDS = 20
"""Rows of the table of thresholds."""
MAX_NAME = 200
"""Characters of a name."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --paper: #ffffff; --line: #c8c8d0; --soft: #f3f3f6;
  --quiet: #55555f; --good: #0a5c2b; --good-paper: #d5f5df; --bad: #8a0a1e; --bad-paper: #ffdfe0; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf1; --paper: #17171b; --line: #45454f; --soft: #24242a;
  --quiet: #b5b5c0; --good: #9bebb3; --good-paper: #12401f; --bad: #ffb3b8; --bad-paper: #571820; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem;
  margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .75rem .25rem 0; text-align: start;
  vertical-align: top; }
td.number, th.number { text-align: end; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; }
section { overflow-x: auto; }
figure { margin: 0 0 1rem; display: inline-block; max-width: 30rem; }
figcaption, small, .quiet { color: var(--quiet); }
article { border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; margin: 1rem 0; }
article img { background: #ffffff; border: 1px solid var(--line); }
h1, h2 { line-height: 1.2; } h3, h4 { font-size: 1rem; margin: 0 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: .5rem 0 0; }
dt { color: var(--quiet); } dd { margin: 0; }
.text { font-family: ui-monospace, monospace; white-space: pre-wrap; background: var(--soft); padding: 0 .25rem; }
del { color: var(--good); background: var(--good-paper); text-decoration: underline dotted; }
ins { color: var(--bad); background: var(--bad-paper); text-decoration: underline wavy; }
.better { color: var(--good); } .worse { color: var(--bad); }
"""


def page(evaluation: Findings) -> str:
    """The page.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    title = f"{shown(evaluation.model, MAX_NAME)} on {shown(evaluation.data, MAX_NAME)}"
    parts = [
        f"<header><h1>{title}</h1><p>{len(evaluation.rows):,} rows read{_settings(evaluation)}</p></header><main>",
        _section("Scores", _scores(evaluation)),
        _section("Kinds of results", _kinds(evaluation)),
        _section("Confidence", _confidence(evaluation)),
    ]
    if evaluation.comparison is not None:
        parts.append(_section(_against(evaluation.comparison), _changes(evaluation, evaluation.comparison)))
    parts.append(_section("Worst rows", _cases(evaluation)))
    if evaluation.not_read:
        parts.append(_section("Not read", _not_read(evaluation)))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _settings(evaluation: Findings) -> str:
    given = {key: value for key, value in evaluation.settings.items() if value is not None and key != "generation"}
    given |= evaluation.settings.get("generation", {})
    return "".join(f"; {shown(key)} {shown(value, MAX_NAME)}" for key, value in given.items())


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>\n{content}</section>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table of HTML cells; all columns but the first are numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        number = ' class="number"' if tag == "td" else ' class="number" scope="col"'
        kinds = [' scope="row"' if tag == "td" else ' scope="col"', *[number] * (len(cells) - 1)]
        tags = ["th", *[tag] * (len(cells) - 1)]
        return "".join(f"<{t}{k}>{cell}</{t}>" for t, k, cell in zip(tags, kinds, cells, strict=True))

    head = f"<thead><tr>{line('th', heads)}</tr></thead>"
    body = "".join(f"<tr>{line('td', row)}</tr>\n" for row in rows)
    return f"<table>{f'<caption>{caption}</caption>' if caption else ''}{head}<tbody>\n{body}</tbody></table>\n"


def _scores(evaluation: Findings) -> str:
    comparison = evaluation.comparison
    if comparison is None:
        rows = [(METRICS[name], shown_score(name, value)) for name, value in evaluation.metrics.items()]
        return _table(("score", "value"), rows)
    lines = []
    for name, each in comparison.differences.items():
        bounds = (
            f"{shown_score(name, each.low, signed=True)} to {shown_score(name, each.high, signed=True)}"
            if each.low is not None and each.high is not None
            else ""
        )
        change = shown_score(name, each.difference, signed=True)
        if each.low is not None and each.high is not None and each.low * each.high > 0:
            word = "better" if is_better(name, each.difference) else "worse"
            change = f'<span class="{word}">{change} ({word})</span>'
        lines.append((METRICS[name], shown_score(name, each.value), shown_score(name, each.other), change, bounds))
    heads = ("score", shown(evaluation.model, MAX_NAME), shown(comparison.other.model, MAX_NAME))
    note = (
        f"<p class=quiet>On the {comparison.rows:,} rows that both have read. Intervals are those of a paired "
        f"bootstrap over the rows, of {comparison.samples:,} samples.</p>"
    )
    return _table((*heads, "difference", "95 % interval"), lines) + note


def _kinds(evaluation: Findings) -> str:
    total = len(evaluation.rows) + len(evaluation.not_read)
    mine = evaluation.kinds
    other = evaluation.comparison.other.kinds if evaluation.comparison is not None else None
    rows = [
        (told, f"{mine[kind]:,}", f"{mine[kind] / total:.1%}", *([f"{other[kind]:,}"] if other else []))
        for kind, told in KINDS.items()
    ]
    heads = ["kind", "rows", "share"]
    if evaluation.comparison is not None:
        heads.append(f"rows of {shown(evaluation.comparison.other.model, MAX_NAME)}")
    return _table(heads, rows)


def _confidence(evaluation: Findings) -> str:
    found = evaluation.confidence
    plots = {theme: confidence_plots(found, theme) for theme in THEMES}
    alts = (
        "Reliability: " + _told_bins(found),
        f"Error of the rows that are kept, against the share of rejected rows. {shown(evaluation.advice)}",
    )
    captions = (
        "The share of exact rows, and of right characters, by confidence; below the bars the number of rows. "
        f"Expected calibration error {found.expected_calibration_error:.3f}.",
        "The error of the rows that a threshold keeps.",
    )
    figures = "".join(
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_data_url(plots["dark"][i])}">'
        f'<img src="{_data_url(plots["light"][i])}" alt="{alts[i]}"></picture>'
        f"<figcaption>{captions[i]}</figcaption></figure>\n"
        for i in range(2)
    )
    rows = [
        (f"{kept.threshold:.4f}", f"{kept.rows:,}", f"{1 - kept.share:.1%}", f"{kept.cer:.2%}", f"{kept.wrong:.2%}")
        for kept in _some(found.curve)
    ]
    heads = ("reject below", "rows kept", "rejected", "CER of the kept", "kept rows with an error")
    advice = f"<p>{shown(evaluation.advice[0].upper() + evaluation.advice[1:])}.</p>"
    return f"{advice}{figures}<details><summary>All thresholds</summary>{_table(heads, rows)}</details>"


def _told_bins(confidence: Confidence) -> str:
    told = [f"of {each.rows:,} rows near {each.confidence:.0%} {each.exact:.0%} are exact" for each in confidence.bins]
    return "; ".join(told) + "."


def _some(curve: Sequence[Kept]) -> list[Kept]:
    """At most so many points, the first and the last among them."""
    step = max(1, -(-(len(curve) - 1) // (MAX_THRESHOLDS - 1)))
    return [*curve[:-1:step], curve[-1]]


def _against(comparison: Comparison) -> str:
    return f"Against {shown(comparison.other.model, MAX_NAME)}"


def _changes(evaluation: Findings, comparison: Comparison) -> str:
    found = []
    for word, pairs in (("worse", comparison.worse), ("better", comparison.better)):
        rows = [(evaluation.rows[a], comparison.other.rows[b]) for a, b in pairs]
        rows.sort(key=lambda pair: abs(pair[0].edits - pair[1].edits), reverse=True)
        found.append(f"<h3>{len(rows):,} rows are {word}</h3>")
        for row, other in rows[:MAX_CHANGED]:
            texts = [marked(row.label, each.text)[1] for each in (row, other)]
            found.append(
                f"<article><h4>{shown(row.name, MAX_NAME)}</h4><dl>{_text('label', shown(row.label))}"
                f"{_text('model', texts[0])}{_text('other', texts[1])}</dl></article>"
            )
        if len(rows) > MAX_CHANGED:
            found.append(f"<p class=quiet>{len(rows) - MAX_CHANGED:,} more are in the JSON.</p>")
    return "\n".join(found)


def _cases(evaluation: Findings) -> str:
    wrong = sum(row.kind != "exact" for row in evaluation.rows)
    if not wrong:
        return "<p>All rows are exactly right.</p>"
    legend = (
        "<p>In a label <del>underlined</del> is what the text lacks, in a text <ins>struck out</ins> what is wrong.</p>"
    )
    note = f"<p class=quiet>{len(evaluation.cases):,} of {wrong:,} rows with an error.</p>"
    return legend + "\n".join(_case(evaluation, case) for case in evaluation.cases) + note


def _case(evaluation: Findings, case: Case) -> str:
    row = evaluation.rows[case.row]
    name = shown(row.name, MAX_NAME) + (f", page {row.page}" if row.page is not None else "")
    label, text = marked(row.label, row.text)
    pictures = [
        f'<p><img src="{_data_url(data)}" alt="{alt}" loading="lazy"></p>'
        for data, alt in ((case.picture, f"Image of {name}"), (case.explanation, f"Explanation of {name}"))
        if data is not None
    ]
    about = f"{KINDS[row.kind]}; {row.edits:,} of {row.characters:,} characters; confidence {row.confidence:.1%}"
    return (
        f"<article><h3>{name}</h3>{''.join(pictures)}<dl>{_text('label', label)}{_text('text', text)}</dl>"
        f"<p class=quiet>{about}<br>{shown(row.source, MAX_NAME)}</p></article>"
    )


def _text(name: str, html: str) -> str:
    return f'<dt>{name}</dt><dd><bdi class="text" dir="auto">{html}</bdi></dd>'


def _not_read(evaluation: Findings) -> str:
    rows = evaluation.not_read
    items = "".join(f"<li>{shown(problem, 500)}</li>\n" for problem in rows[:MAX_NOT_READ])
    more = f"<p class=quiet>and {len(rows) - MAX_NOT_READ:,} more</p>" if len(rows) > MAX_NOT_READ else ""
    return f"<ul>\n{items}</ul>{more}"


def _data_url(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
