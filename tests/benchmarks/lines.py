"""Milliseconds that `printed-line` takes for a line of print, alone and in batches, and where they go.

    python tests/benchmarks/lines.py [--rounds 5] [--threads 2] [--quick] [--json FILE]

The lines have 12 to 40 characters in five fonts of matplotlib, 24 to 35 px high. "normalise" is from an image to
pixels, "encode" from pixels to states, "decode" from states to ids; "rest" is what `generate_text` adds: images, texts
and confidences. For batches of 16 follow torch's operations, by their own time: the rest of a part is Python.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import report
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.profiler import ProfilerActivity, profile

import vedcore

FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Bold", "DejaVuSerif-Italic")
WORDS = ["the", "of", "invoice", "and", "to", "Street", "he", "have", "it", "total", "for", "they", "paid", "as", "not"]
WORDS += ["on", "she", "by", "quarter", "we", "you", "but", "from", "London", "which", "one", "would", "1984", "there"]
LINES = 64
BATCHES = (1, 16)
SHOWN_OPERATIONS = 8


def drawn(count: int) -> tuple[list[Image.Image], list[str]]:
    """Lines of print, and their texts."""
    rng = random.Random(0)
    folder = Path(matplotlib.get_data_path()) / "fonts/ttf"
    images, texts = [], []
    for _ in range(count):
        text, length = "", rng.randint(20, 40)
        while len(text) < length - 8:
            text += f"{rng.choice(WORDS)} "
        text = text.strip()
        font = ImageFont.truetype(str(folder / f"{rng.choice(FONTS)}.ttf"), rng.randint(18, 27))
        left, top, right, bottom = font.getbbox(text)
        image = Image.new("RGB", (int(right - left) + 16, int(bottom - top) + 12), "white")
        ImageDraw.Draw(image).text((8 - left, 6 - top), text, "black", font)
        images.append(image)
        texts.append(text)
    return images, texts


def median(run: Callable[[], object], rounds: int) -> float:
    """Seconds, after a run that is not counted."""
    seconds = []
    for turn in range(rounds + 1):
        begun = time.perf_counter()
        run()
        if turn:
            seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def work(model: Any, images: list[Image.Image], batch: int) -> dict[str, Callable[[], object]]:
    """The whole and its parts, for all lines."""
    parts = [images[i : i + batch] for i in range(0, len(images), batch)]
    pixels = [model.processor(images=part) for part in parts]
    with torch.inference_mode():
        states = [model.encode(**each) for each in pixels]
    return {
        "whole": lambda: [model.generate_text(part, batch_size=batch) for part in parts],
        "normalise": lambda: [model.processor(images=part) for part in parts],
        "encode": lambda: [model.encode(**each) for each in pixels],
        "decode": lambda: [model.generate(encoder_outputs=each) for each in states],
    }


@torch.inference_mode()
def measure(model: Any, images: list[Image.Image], batch: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a line, as a whole and by part."""
    runs = work(model, images, batch)
    milliseconds = {name: 1e3 * median(run, rounds) / len(images) for name, run in runs.items()}
    milliseconds["rest"] = milliseconds["whole"] - sum(milliseconds[name] for name in ("normalise", "encode", "decode"))
    return {"batch": batch, "milliseconds": milliseconds, "load": report.load()}


@torch.inference_mode()
def show_operations(name: str, run: Callable[[], object], lines: int) -> None:
    """Print milliseconds and calls a line of torch's operations."""
    run()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run()
    averages = sorted(found.key_averages(), key=lambda each: -each.self_cpu_time_total)
    print(f"{name}: {sum(each.self_cpu_time_total for each in averages) / 1e3 / lines:.2f} ms a line in operations")
    for each in averages[:SHOWN_OPERATIONS]:
        calls = each.count / lines
        print(f"    {each.key:<40}{each.self_cpu_time_total / 1e3 / lines:>8.3f} ms{calls:>8.1f} calls", flush=True)


def main() -> None:
    parser = report.arguments(__doc__, rounds=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = vedcore.load("printed-line")
    model.optimize_for_inference()
    images, texts = drawn(16 if options.quick else LINES)
    read = [result.text for result in model.generate_text(images, batch_size=16)]
    print(f"{sum(a == b for a, b in zip(read, texts, strict=True))} of {len(texts)} lines without an error")
    rows = [measure(model, images, batch, 1 if options.quick else options.rounds) for batch in BATCHES]
    for row in rows:
        shown = "  ".join(f"{name} {ms:.2f}" for name, ms in row["milliseconds"].items())
        print(f"batches of {row['batch']}, ms a line: {shown}", flush=True)
    for name, run in work(model, images, BATCHES[-1]).items():
        if name in ("encode", "decode"):
            show_operations(name, run, len(images))
    if options.json:
        report.write(options.json, rows, options.threads, preliminary=options.quick)


if __name__ == "__main__":
    main()
