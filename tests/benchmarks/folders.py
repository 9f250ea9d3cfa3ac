"""Time and memory to load and to save a folder of 957 MB: ViT-base + GPT2.

    python tests/benchmarks/folders.py [--rounds 3] [--quick] [--json FILE]

vedcore, vedcore with ``mmap=True`` and transformers (which maps the file, too) read the same folder, each in a new
process, in turns (A B C A B C …). Measured are the time from the call to load until the first forward pass has run, and
how far memory rises above the imports. Then each saves the model.

A virtual machine may give free memory back to its host, and then waits when it needs the memory again: 2 seconds per
gigabyte where this was written. So each process touches as much memory as it will need before it is measured.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import report
import torch

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

def memory(field):
    return 1024 * int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

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
    """Seconds and bytes of one load and one save, in a new process."""
    arguments = [sys.executable, "-c", CHILD, who, str(source), str(target)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def make(folder: Path) -> None:
    """Write the folder with transformers."""
    import transformers as hf

    decoder = hf.GPT2Config(is_decoder=True, add_cross_attention=True)
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(hf.ViTConfig(), decoder)
    hf.VisionEncoderDecoderModel(config).save_pretrained(folder)


def main() -> None:
    options = report.arguments(__doc__, rounds=3).parse_args()
    rounds = 1 if options.quick else options.rounds
    runs: dict[str, list[dict[str, float]]] = {"vedcore": [], "vedcore mmap": [], "transformers": []}
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, "source")
        make(source)
        for round_number in range(rounds + 1):
            for who, found in runs.items():
                figures = measure(who, source, Path(temporary, f"target-{who}"))
                if round_number:  # the first round warms caches
                    found.append(figures)
    rows: list[dict[str, Any]] = []
    for name in runs["transformers"][0]:
        theirs = [run[name] for run in runs["transformers"]]
        for who in ("vedcore", "vedcore mmap"):
            ours = [run[name] for run in runs[who]]
            ratios = [a / max(b, 1e-9) for a, b in zip(ours, theirs, strict=True)]
            rows.append(
                {
                    "name": name,
                    "who": who,
                    "rounds": rounds,
                    "ours": statistics.median(ours),
                    "transformers": statistics.median(theirs),
                    "ratio": statistics.median(ratios),
                    "lowest": min(ratios),
                    "highest": max(ratios),
                }
            )
    print(f"{'':<38}{'':>9}   {'transformers':>14}{'ratio':>8}   lowest to highest")
    for row in rows:
        scale, unit = (1e6, "MB") if "memory" in row["name"] else (1.0, "s")
        medians = f"{row['ours'] / scale:>9.2f} {unit:<2}{row['transformers'] / scale:>11.2f} {unit:<2}"
        spread = f"{row['lowest']:.2f} to {row['highest']:.2f}"
        print(f"{row['name']:<24}{row['who']:<14}{medians}{row['ratio']:>8.2f}   {spread}")
    print(f"{rounds} rounds, load {report.load():.1f}")
    if options.json:
        report.write(options.json, rows, torch.get_num_threads(), preliminary=options.quick)


if __name__ == "__main__":
    main()
