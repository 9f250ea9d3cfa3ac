"""How soon and in how little memory a folder is a model again, and a model a folder: ViT-base + GPT2, 957 MB.

    python tests/benchmarks/folders.py [--rounds 5] [--json]

vedcore, vedcore with ``mmap=True`` and transformers (which maps, too) read the same folder, each in a process of its
own, in turns (A B C A B C …): from the call to load until the first forward pass has run, and how far memory rose from
what the imports had taken. Then they write it.

A virtual machine may give free memory back to its host, and then waits for it when it is needed again, 2 seconds a
gigabyte where this was written. So each process touches as much as is needed before it is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = """
import json, mmap, re, sys, time
import torch
who, source, target = sys.argv[1:]
if who != "transformers":
    import vedcore, vedcore.checkpoints.transformers, vedcore_encoders.vit, vedcore_decoders.gpt2
    load, options = vedcore.load, {"format": "transformers"}
    if who == "vedcore mmap":
        load = lambda folder: vedcore.load(folder, mmap=True)
else:
    import transformers
    from transformers import GPT2LMHeadModel, ViTModel
    load, options = transformers.VisionEncoderDecoderModel.from_pretrained, {}

def memory(word):
    return 1024 * int(re.search(word + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

def forget_peak():
    open("/proc/self/clear_refs", "w").write("5")

def warm():
    for flags in (mmap.MADV_NORMAL, mmap.MADV_HUGEPAGE):
        with mmap.mmap(-1, 1_500_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            memory.madvise(flags)
            memory[::4096] = bytes(len(memory[::4096]))

images, ids = torch.zeros(1, 3, 224, 224), torch.ones(1, 1, dtype=torch.long)
warm()
forget_peak()
before, start = memory("VmRSS"), time.perf_counter()
model = load(source)
loaded = time.perf_counter()
with torch.no_grad():
    model(pixel_values=images, decoder_input_ids=ids)
ready, after = time.perf_counter(), memory("VmHWM")
warm()
forget_peak()
held, begun = memory("VmRSS"), time.perf_counter()
model.save_pretrained(target, **options)
written = time.perf_counter()
print(json.dumps({"load": loaded - start, "load and first forward": ready - start, "peak memory": after - before,
                  "save": written - begun, "peak memory of a save": memory("VmHWM") - held}))
"""


def measure(who: str, source: Path, target: Path) -> dict[str, float]:
    """One load and one save, in a process of its own."""
    arguments = [sys.executable, "-c", CHILD, who, str(source), str(target)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def make(folder: Path) -> None:
    """The folder, as transformers writes it."""
    import transformers as hf

    decoder = hf.GPT2Config(is_decoder=True, add_cross_attention=True)
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(hf.ViTConfig(), decoder)
    hf.VisionEncoderDecoderModel(config).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds, after one that warms caches")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {"vedcore": [], "vedcore mmap": [], "transformers": []}
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "source")
        make(source)
        for round_number in range(options.rounds + 1):
            for who, found in runs.items():
                figures = measure(who, source, Path(place, f"target-{who}"))
                if round_number:
                    found.append(figures)
    rows = []
    for what in runs["transformers"][0]:
        theirs = [run[what] for run in runs["transformers"]]
        for who in ("vedcore", "vedcore mmap"):
            ours = [run[what] for run in runs[who]]
            ratios = [a / max(b, 1e-9) for a, b in zip(ours, theirs, strict=True)]
            rows.append(
                {
                    "what": what,
                    "who": who,
                    "ours": statistics.median(ours),
                    "transformers": statistics.median(theirs),
                    "ratio": statistics.median(ratios),
                    "lowest": min(ratios),
                    "highest": max(ratios),
                }
            )
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'':<38}{'':>9}   {'transformers':>14}{'ratio':>8}   lowest to highest")
    for row in rows:
        scale, unit = (1e6, "MB") if "memory" in row["what"] else (1.0, "s")
        figures = f"{row['ours'] / scale:>9.2f} {unit:<2}{row['transformers'] / scale:>11.2f} {unit:<2}"
        spread = f"{row['lowest']:.2f} to {row['highest']:.2f}"
        print(f"{row['what']:<24}{row['who']:<14}{figures}{row['ratio']:>8.2f}   {spread}")


if __name__ == "__main__":
    main()
