"""Resident memory of a process that reads line images of any width, one after the other.

    python tests/benchmarks/widths.py [--images 20000] [--threads N] [--quick] [--json FILE]

The model ``printed-line`` reads through `generate_text`, where it is installed; a small ViT + GPT2 writes about pixels
of any width with ``interpolate_pos_encoding``. Each has its own process. Memory is read after a warm-up of 500 images,
and then ten times at even distances; the ratio is that of the highest of these to that after the warm-up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import report

WARM_UP = 500
LOOKS = 10
MEGABYTE = 1 << 20

CHILD = """
import json, random, re, sys, time
import numpy, torch, vedcore
who, images, warm_up, looks, threads = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)
draw, noise = random.Random(0), numpy.random.default_rng(0)
if who == "printed-line":
    model = vedcore.load(who)
    def read():
        model.generate_text([noise.integers(0, 256, (32, draw.randint(40, 1200)), dtype="uint8")], max_new_tokens=4)
else:
    encoder = {"name": "vit", "image_size": (32, 128), "patch_size": 8, "hidden_size": 192, "num_hidden_layers": 4,
               "num_attention_heads": 3, "intermediate_size": 384}
    decoder = {"name": "gpt2", "n_layer": 2, "n_embd": 192, "n_head": 3}
    model = vedcore.compose(encoder, decoder, tokenizer="char", seed=0)
    def read():
        pixels = torch.rand(1, 3, 32, 8 * draw.randint(5, 150))
        model.generate(pixels, interpolate_pos_encoding=True, max_new_tokens=4)

def memory():
    return 1024 * int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])

found, start = [], time.perf_counter()
for number in range(1, images + 1):
    read()
    if number == warm_up:
        found, start = [memory()], time.perf_counter()
    elif number > warm_up and (number - warm_up) * looks // (images - warm_up) == len(found):
        found.append(memory())
        print(json.dumps({"memory": found, "seconds": (time.perf_counter() - start) / (number - warm_up)}), flush=True)
"""


def measure(who: str, images: int, threads: int) -> dict[str, Any]:
    """Bytes after the warm-up and at each look, and seconds an image, in a new process."""
    numbers = [str(number) for number in (images, WARM_UP, LOOKS, threads)]
    done = subprocess.run([sys.executable, "-c", CHILD, who, *numbers], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    first, *rest = found["memory"]
    return {
        "name": who,
        "images": images,
        "warm_up": WARM_UP,
        "memory": found["memory"],
        "ratio": max(rest) / first,
        "seconds": found["seconds"],
        "load": report.load(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=20_000, help="images of each model (default: 20000)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--quick", action="store_true", help="1000 images; the results are marked as preliminary")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file, too")
    options = parser.parse_args()
    rows = []
    for who in ("printed-line", "vit-gpt2"):
        if who == "printed-line" and find_spec("vedcore_printed") is None:
            continue
        row = measure(who, 1000 if options.quick else options.images, options.threads)
        rows.append(row)
        memory = " ".join(f"{bytes_ / MEGABYTE:.0f}" for bytes_ in row["memory"])
        print(f"{who}: {row['images']} images, ratio {row['ratio']:.3f}, {row['seconds']:.3f} s each; MB: {memory}")
    if options.json:
        report.write(options.json, rows, options.threads, preliminary=options.quick)


if __name__ == "__main__":
    main()
