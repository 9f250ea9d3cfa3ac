"""The plot and the tables of docs/speed.md, from the results that the benchmarks wrote.

    python tests/benchmarks/plot.py [--results FOLDER] [--image FILE] [--page FILE]

Reads generate.json, folders.json, start.json, widths.json and drafting.json of the folder, draws the plot, puts each
table between two markers of the page, and prints it. So no figure of the tables is typed.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BEGIN, END = "<!-- tests/benchmarks/plot.py writes from here -->", "<!-- to here -->"
MODELS = {"vit-gpt2": "ViT-base + GPT2", "trocr": "TrOCR-base", "swin-bert": "Swin-base + BERT"}
COLORS = {"vit-gpt2": "#3b82f6", "trocr": "#d97706", "swin-bert": "#0d9488"}
"""Fill of the bars: at least 3:1 against white and against near-black."""
TEXT_COLOR = "#777f8a"
"""Grey that has about the same contrast, 4:1, against white and against near-black."""
DRAFTS = "vedcore, draft='int8'"
"""Contestant of drafting.py."""
SEARCHES = {"greedy": "greedy", "sampling": "sampling", "beams": "4 beams"}
MEGABYTE = 1e6
PAGE_WIDTH = 120
"""Characters in a line of the page, tables excepted."""

Results = dict[str, Any]
Row = dict[str, Any]


def read(folder: Path) -> dict[str, Results]:
    """The files of one run of all benchmarks, by name.

    Raises:
        ValueError: they are from different machines, or some are preliminary and others not.
    """
    names = ("generate", "folders", "start")
    found: dict[str, Results] = {name: json.loads((folder / f"{name}.json").read_text()) for name in names}
    for key in ("machine", "preliminary"):
        if any(results[key] != found["generate"][key] for results in found.values()):
            raise ValueError(f"{folder}: the files differ in {key!r}: run all benchmarks again")
    for name in ("widths", "drafting"):  # which take long, so they are run at other times
        found[name] = json.loads((folder / f"{name}.json").read_text())
    return found


def heading(results: Results) -> str:
    """When, where and with which versions the figures were measured, as Markdown."""
    machine, rows = results["machine"], results["rows"]
    features = f" ({', '.join(machine['features'])})" if machine["features"] else ""
    rounds = sorted({row["rounds"] for row in rows})
    spread = f"{rounds[0]} to {rounds[-1]} rounds" if len(rounds) > 1 else f"rounds: {rounds[0]}"
    loads = f"{min(row['load'] for row in rows):.1f} to {max(row['load'] for row in rows):.1f}"
    text = (
        f"Measured on {results['date']}: {machine['cores']} cores of {machine['cpu']}{features}, "
        f"{machine['threads']} threads, Python {machine['python']}, torch {machine['torch']}, "
        f"transformers {machine['transformers']}; {spread}, load {loads}."
    )
    if results["preliminary"]:
        text = f"**Preliminary: a short run whose figures mean nothing yet.** {text}"
    return textwrap.fill(text, PAGE_WIDTH, break_on_hyphens=False)


def table(found: dict[str, Results]) -> str:
    """All measurements as a Markdown table. Columns: medians, their ratio, its range, and peak memory."""
    lines = [
        "| model | work | vedcore, s | transformers, s | times faster | lowest to highest | MB | transformers, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(*cells) for row in found["generate"]["rows"] for cells in _generation(row)]
    lines += [_line(*cells) for cells in _folders(found["folders"]["rows"])]
    lines += [_line(*cells) for cells in _building(found["start"]["rows"])]
    return "\n".join(lines)


def _generation(row: Row) -> list[tuple[Any, ...]]:
    """The cells of one case: against transformers, and against transformers with bfloat16 products."""
    images = f"{row['batch']} image{'s' if row['batch'] > 1 else ''}"
    dtype = "" if row["dtype"] == "float32" else f", {row['dtype']}"
    work = f"{SEARCHES[row['search']]}, {images}{dtype}"
    names = {"transformers": work, "transformers, bf16 products": f"{work}; transformers with bfloat16 products"}
    return [
        (
            MODELS[row["model"]],
            names[other["who"]],
            other["vedcore"],
            other["other"],
            other["ratio"],
            (other["lowest"], other["highest"]),
            (other["our_peak"], other["peak"]),
        )
        for other in row["others"]
        if other["who"] in names
    ]


def _folders(rows: list[Row]) -> list[tuple[Any, ...]]:
    """The cells of loads and saves."""
    by_key = {(row["name"], row["who"]): row for row in rows}
    wanted = [
        ("load and first forward", "peak memory", "vedcore", "load, first forward"),
        ("load and first forward", "peak memory", "vedcore mmap", "load with `mmap=True`, first forward"),
        ("save", "peak memory of a save", "vedcore", "save"),
    ]
    cells = []
    for seconds, memory, who, work in wanted:
        time, peak = by_key[seconds, who], by_key[memory, who]
        ratios = (1 / time["highest"], 1 / time["lowest"])
        peaks = (peak["ours"], peak["transformers"])
        times = (time["ours"], time["transformers"])
        cells.append((MODELS["vit-gpt2"], work, *times, 1 / time["ratio"], ratios, peaks))
    return cells


def _building(rows: list[Row]) -> list[tuple[Any, ...]]:
    """The cells of building a model with random weights."""
    by_name = {row["name"]: row for row in rows}
    ours, theirs = by_name["compose, vit + gpt2"]["median"], by_name["the same in transformers"]["median"]
    share = by_name["compose over transformers"]
    ratios = (1 / share["slowest"], 1 / share["fastest"])
    return [(MODELS["vit-gpt2"], "compose, random weights", ours, theirs, 1 / share["median"], ratios, None)]


def _line(
    model: str,
    work: str,
    ours: float,
    theirs: float,
    ratio: float,
    ratios: tuple[float, float],
    peaks: tuple[float, float] | None,
) -> str:
    """A line of the table."""
    megabytes = [f"{peak / MEGABYTE:.0f}" for peak in peaks] if peaks else ["", ""]
    spread = f"{ratios[0]:.2f} to {ratios[1]:.2f}"
    cells = [model, work, f"{ours:.3f}", f"{theirs:.3f}", f"{ratio:.2f}", spread, *megabytes]
    return f"| {' | '.join(cells)} |"


def parts_of_page(found: dict[str, Results]) -> list[str]:
    """The texts between the markers of the page."""
    first = f"{heading(found['generate'])}\n\n{table(found)}\n\n{widths(found['widths'])}"
    return [first, f"{heading(found['drafting'])}\n\n{drafts(found['drafting']['rows'])}"]


def widths(results: Results) -> str:
    """Resident memory over a long run, as Markdown: a sentence for each model."""
    lines = []
    for row in results["rows"]:
        first, *rest = (bytes_ / MEGABYTE for bytes_ in row["memory"])
        text = (
            f"Memory of one process of `{row['name']}` that reads images of any width, one after the other: "
            f"{first:.0f} MB after {row['warm_up']} images, and {min(rest):.0f} to {max(rest):.0f} MB until image "
            f"{row['images']}, {100 * (row['ratio'] - 1):.1f} % more at most (measured on {results['date']})."
        )
        lines.append(textwrap.fill(text, PAGE_WIDTH, break_on_hyphens=False))
    return "\n\n".join(lines)


def drafts(rows: list[Row]) -> str:
    """The measurements of drafts as a Markdown table: medians, and their ratios to those with drafts."""
    others = {"vedcore": "without", "transformers": "transformers", "onnx runtime": "ONNX Runtime"}
    lines = [
        f"| model | work | drafts, s | {' | '.join(f'{name}, s' for name in others.values())} | "
        f"{' | '.join(f'than {name}' for name in others.values())} | guesses right | limit |",
        "|---|---|" + "---|" * (2 * len(others) + 3),
    ]
    for row in rows:
        seconds = [f"{row['seconds'][who]:.3f}" if who in row["seconds"] else "" for who in (DRAFTS, *others)]
        ratios = [f"{row['ratio'][who]:.2f}" if who in row["ratio"] else "" for who in others]
        cells = [MODELS[row["model"]], row["case"], *seconds, *ratios, f"{row['accepted']:.2f}", f"{row['limit']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def update(page: Path, texts: list[str]) -> None:
    """Put the texts between the pairs of markers of the page, one after the other."""
    before, *rest = page.read_text(encoding="utf-8").split(BEGIN)
    if len(rest) != len(texts) or not all(END in each for each in rest):
        raise ValueError(f"{page}: {len(texts)} lines {BEGIN!r} expected, and a line {END!r} behind each")
    after = [each.partition(END)[2] for each in rest]
    whole = before + "".join(f"{BEGIN}\n\n{text}\n\n{END}{behind}" for text, behind in zip(texts, after, strict=True))
    page.write_text(whole, encoding="utf-8")


def draw(results: Results, file: Path) -> None:
    """Bars of vedcore's time in percent of transformers', for each kind of text that was measured on every model."""
    import matplotlib  # here, since the table needs none

    matplotlib.use("Agg")
    from matplotlib import pyplot

    share: dict[tuple[str, int], dict[str, float]] = {}
    for row in results["rows"]:
        if row["dtype"] == "float32":
            (ratio,) = (other["ratio"] for other in row["others"] if other["who"] == "transformers")
            share.setdefault((row["search"], row["batch"]), {})[row["model"]] = 100 / ratio
    kinds = [kind for kind, of_model in share.items() if of_model.keys() == MODELS.keys()]
    style: dict[Any, Any] = {
        "font.size": 11,
        "svg.fonttype": "none",
        "svg.hashsalt": "vedcore",  # the same ids in every file, so that diffs show figures only
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), TEXT_COLOR),
    }
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
        width = 0.8 / len(MODELS)
        for i, (model, label) in enumerate(MODELS.items()):
            positions = [at + (i - (len(MODELS) - 1) / 2) * width for at in range(len(kinds))]
            heights = [share[kind][model] for kind in kinds]
            axes.bar(positions, heights, width * 0.9, label=label, color=COLORS[model])
        axes.axhline(100, color=TEXT_COLOR, linestyle="--", linewidth=1, label="transformers")
        mark = "Preliminary: t" if results["preliminary"] else "T"
        axes.set_title(f"{mark}ime from images to text (lower is faster)", pad=12)
        axes.set_xlabel("search, and images in a batch")
        axes.set_ylabel("time, % of transformers'")
        axes.set_xticks(range(len(kinds)), [f"{SEARCHES[search]}\nbatch {batch}" for search, batch in kinds])
        axes.tick_params(axis="x", length=0)
        figure.legend(loc="outside lower center", ncols=len(MODELS) + 1, frameon=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        # without what changes when no figure does
        metadata = {"Date": None, "Creator": None} if file.suffix == ".svg" else None
        figure.savefig(file, transparent=True, metadata=metadata)
        pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the JSON files")
    parser.add_argument("--image", type=Path, default=ROOT / "docs/images/speed.svg", help="the plot to write")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/speed.md", help="the page to change")
    options = parser.parse_args()
    found = read(options.results)
    texts = parts_of_page(found)
    draw(found["generate"], options.image)
    update(options.page, texts)
    print("\n\n".join(texts))


if __name__ == "__main__":
    main()
