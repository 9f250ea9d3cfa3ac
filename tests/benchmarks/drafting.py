"""Time of texts with `draft="int8"`, on weights that were fitted: on random ones int8 agrees with nothing.

    python tests/benchmarks/drafting.py [--model vit-gpt2 trocr] [--minutes 15] [--folder DIR] [--rounds 9]
        [--threads 2] [--quick] [--json FILE]

A decoder of the published size learns to describe drawn scenes (docs/recipes/scenes.py), over an encoder of random
weights, whose states tell enough. A folder in DIR for each model keeps the weights: a second run fits nothing. Then
vedcore with and without drafts, transformers and, where it is installed, ONNX Runtime write about scenes that were not
shown, the encoder included, in turns (A B A B …), after a check that all give the same ids. "ratio" is the median of a
round's time over that of vedcore with drafts.

"accepted" is the share of guesses that were right, "run" the guesses of a round, "limit" how many times fewer bytes a
text reads with drafts as they went: a step reads all weights of the linear layers in float32, a guess those in int8,
and both read the keys and values of the image.
"""

from __future__ import annotations

import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import generate as plain_benchmark
import onnx_runtime
import report
import torch
import transformers as hf
from torch import Tensor
from torch.nn import functional as F

import vedcore
from vedcore.generation.search.assisted.self_drafting import SelfDrafter
from vedcore.layers.int8 import int8_bytes

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "recipes"))
import scenes

TOKENS = {"vit-gpt2": (16, 64), "trocr": (32,), "swin-bert": (16, 64)}
"""Tokens of the texts that are measured, by model."""
IMAGES = 384
"""Scenes that are shown."""
ROWS = 8
"""Texts of a step of fitting."""
LENGTH, SHORT_LENGTH = 72, 24
"""Tokens of a text; most steps of fitting take the first few."""
SHORT_SHARE = 0.5
"""Part of the time for these."""
LEARNING_RATE, LEAST_RATE, WARM_UP = 4e-4, 2e-5, 20
BATCHES = (1, 4)
OPPOSITE = {"above": "below", "left of": "right of"}


def description(caption: str) -> list[str]:
    """The words of a longer text than the caption of a scene, at least `LENGTH`."""
    place = next(name for name in scenes.PLACES if f" {name} " in caption)
    one, other = caption.removeprefix("a ").split(f" {place} a ")
    (size, colour, shape), (size_, colour_, shape_) = one.split(), other.split()
    text = (
        f"{caption} . the {shape} is {size} and {colour} . the {shape_} is {size_} and {colour_} . "
        f"the {shape} is {place} the {shape_} . the {shape_} is {OPPOSITE[place]} the {shape} . "
        f"there are two things , a {one} and a {other} . one is {size} and the other is {size_} . "
        f"{colour} and {colour_} are their colours . that is all there is in it ."
    )
    return text.split()


def shown(split: str, count: int, seed: int) -> tuple[list[Any], list[list[str]]]:
    """Images of a split, and the words about each."""
    rng = random.Random(seed)
    pairs = [scenes.scene(split, rng) for _ in range(count)]
    return [image for image, _ in pairs], [description(caption)[:LENGTH] for _, caption in pairs]


def fit(name: str, folder: Path, minutes: float) -> None:
    """Write a folder of a fitted model, in transformers' layout."""
    torch.manual_seed(0)
    encoder, decoder, ids = plain_benchmark.configs(name)
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **ids)
    made = hf.VisionEncoderDecoderModel(config)
    made.generation_config.update(**ids)
    side = plain_benchmark.SIZES[name]
    with tempfile.TemporaryDirectory() as fresh:
        made.save_pretrained(fresh)
        hf.ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(fresh)
        model = vedcore.load(fresh)
    del made
    images, texts = shown("train", IMAGES, 1)
    words = sorted({word for text in texts for word in text})
    of_word = dict(zip(words, random.Random(0).sample(range(1000, 30_000), len(words)), strict=True))
    labels = torch.tensor([[of_word[word] for word in text] for text in texts])  # (N, L)
    pixels = [model.processor(images=images[i : i + 8])["pixel_values"] for i in range(0, IMAGES, 8)]
    with torch.no_grad():
        states = torch.cat([model.project(model.encode(part))[0] for part in pixels])
    model.decoder.train()
    for module in model.decoder.modules():  # few texts, and few steps
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    parameters = list(model.decoder.parameters())
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.01, betas=(0.9, 0.98))
    generator, begun, step = torch.Generator().manual_seed(0), time.monotonic(), 0
    while (share := (time.monotonic() - begun) / (60 * minutes)) < 1:
        rate = max(LEAST_RATE, LEARNING_RATE * min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * share)) / 2)
        optimizer.param_groups[0]["lr"] = rate
        rows = torch.randint(IMAGES, (ROWS,), generator=generator)
        target = labels[rows, : SHORT_LENGTH if share < SHORT_SHARE else LENGTH]
        given = torch.cat([torch.full((ROWS, 1), model.token_ids.start), target[:, :-1]], 1)
        logits = model.decoder(input_ids=given, encoder_hidden_states=states[rows]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 20 == 0:
            print(f"step {step}, {share:.0%} of the time, {target.shape[1]} tokens, loss {loss.item():.3f}", flush=True)
    model.eval().save_pretrained(folder, format="transformers")


class Guesses:
    """Counts guesses, and those that were right; makes all wrong where it is told to."""

    def __init__(self) -> None:
        self.runs, self.guesses, self.right, self.spoils = 0, 0, 0, False
        learn, guess = SelfDrafter.learn, SelfDrafter.guess

        def spoilt(drafter: SelfDrafter, *given: Any) -> list[list[int]]:
            return [[token ^ self.spoils for token in tokens] for tokens in guess(drafter, *given)]

        def counted(drafter: SelfDrafter, guessed: Any, accepted: Any) -> None:
            self.runs += any(guessed)
            self.guesses, self.right = self.guesses + max(guessed), self.right + max(accepted)
            learn(drafter, guessed, accepted)

        SelfDrafter.learn, SelfDrafter.guess = counted, spoilt  # type: ignore[method-assign]

    def take(self) -> tuple[int, int, int]:
        """Runs, guesses and right ones since the last call."""
        taken = self.runs, self.guesses, self.right
        self.runs = self.guesses = self.right = 0
        return taken


def limit(model: Any, images: int, tokens: int, runs: int, guesses: int) -> float:
    """Bytes that a batch of texts must read without drafts, over those with drafts in so many runs."""
    weights = int8_bytes(model.decoder)
    layers, width = len(model.decoder.layers), model.decoder.hidden_size
    seen = model.encoder.num_tokens() + 1 + tokens / 2  # of the image, and of the text on average
    states = 4 * images * 2 * layers * width * seen
    steps = max(tokens - guesses - runs, 0) if runs else tokens
    return tokens * (4 * weights + states) / ((steps + runs) * (4 * weights + states) + guesses * (weights + states))


def measure(name: str, folder: Path, rounds: int, threads: int, counts: Guesses) -> list[dict[str, Any]]:
    """A row for each length, batch and search, and one for what drafts cost where no guess is right."""
    torch.set_num_threads(threads)
    hf.utils.logging.set_verbosity_error()
    hf.utils.logging.disable_progress_bar()
    ours = vedcore.load(folder)
    theirs = hf.VisionEncoderDecoderModel.from_pretrained(folder).eval()
    ours.optimize_for_inference()
    images, _ = shown("test", 4 * rounds + 4, 2)
    pixels = ours.processor(images=images)["pixel_values"]
    rows = []
    for search, tokens, batch in [
        *(("greedy", tokens, batch) for tokens in TOKENS[name] for batch in BATCHES),
        ("sampling", TOKENS[name][-1], 1),
        ("wrong guesses", TOKENS[name][-1], 1),
    ]:
        drawn = {"do_sample": True, "top_k": 50} if search == "sampling" else {"do_sample": False}
        options = {"max_new_tokens": tokens, **drawn}

        def run_ours(part: Tensor, draft: str | None, options: Any = options) -> Tensor:
            return ours.generate(part, **options, draft=draft, seed=0 if "top_k" in options else None)

        @torch.no_grad()
        def run_theirs(part: Tensor, options: Any = options) -> Tensor:
            torch.manual_seed(0)
            return theirs.generate(part, **options, use_cache=True)

        runners: dict[str, Callable[[Tensor], Tensor]] = {
            "vedcore, draft='int8'": lambda part: run_ours(part, "int8"),
            "vedcore": lambda part: run_ours(part, None),
        }
        if search != "wrong guesses":
            runners["transformers"] = run_theirs
        exports = name == "vit-gpt2" and onnx_runtime.INSTALLED  # torch.export refuses transformers' TrOCR
        if search == "greedy" and batch == 1 and exports:
            if not (folder / "step.onnx").exists():
                onnx_runtime.export(folder, 1, plain_benchmark.SIZES[name])
            runners["onnx runtime"] = onnx_runtime.search(folder, pixels[:1], 1, tokens, threads)
        counts.spoils = search == "wrong guesses"
        seconds: dict[str, list[float]] = {who: [] for who in runners}
        same: dict[str, int] = dict.fromkeys(runners, 0)
        for turn in range(-1, rounds):  # the first is not counted
            part = pixels[(turn + 1) * batch : (turn + 2) * batch]
            ids = {}
            for who, run in runners.items():
                begun = time.perf_counter()
                ids[who] = run(part)
                if turn >= 0:
                    seconds[who].append(time.perf_counter() - begun)
            if turn < 0:
                counts.take()
                continue
            for who, found in ids.items():
                same[who] += found.equal(ids["vedcore"])
        runs, guesses, right = counts.take()
        median = {who: statistics.median(each) for who, each in seconds.items()}
        rows.append(
            {
                "model": name,
                "case": f"{search}, {tokens} tokens, {batch} image" + "s" * (batch > 1),
                "rounds": rounds,
                "seconds": median,
                "ratio": {who: median[who] / median["vedcore, draft='int8'"] for who in runners},
                "same_ids": {who: f"{count} of {rounds}" for who, count in same.items()},
                "accepted": right / guesses if guesses else None,
                "run": guesses / runs if runs else None,
                "limit": limit(ours, batch, tokens * rounds, runs, guesses),
                "load": report.load(),
            }
        )
        show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    run = "no drafts" if row["run"] is None else f"accepted {row['accepted']:.3f}, run {row['run']:.1f}"
    print(f"{row['model']}, {row['case']}: {run}, limit {row['limit']:.2f}")
    for who, seconds in row["seconds"].items():
        print(f"    {who:<24}{seconds:>8.3f} s{row['ratio'][who]:>8.2f}   same ids {row['same_ids'][who]}", flush=True)


def main() -> None:
    parser = report.arguments(__doc__, rounds=9)
    parser.add_argument("--model", nargs="+", choices=TOKENS, default=["vit-gpt2"], dest="models")
    parser.add_argument("--minutes", type=float, default=15.0, help="of fitting (default: 15)")
    parser.add_argument(
        "--folder", type=Path, help="of the fitted weights (default: one in the system's temporary folder)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    options = parser.parse_args()
    place = options.folder or Path(tempfile.gettempdir()) / "vedcore-drafting"
    torch.set_num_threads(options.threads)
    rows, counts = [], Guesses()
    for name in options.models:
        if not (place / name / "model.safetensors").exists():
            plain_benchmark.in_new_process(fit, name, place / name, 0.5 if options.quick else options.minutes)
        rows += measure(name, place / name, 1 if options.quick else options.rounds, options.threads, counts)
    if options.json:
        report.write(options.json, rows, options.threads, preliminary=options.quick)


if __name__ == "__main__":
    main()
