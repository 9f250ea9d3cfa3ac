"""Time of a step of a decoder of SmolLM-135M's sizes: cross-attention over an image, and a prefix in transformers.

    python plugins/vedcore-llama/benchmarks/step.py [--every 1] [--threads 2] [--rounds 5] [--profile]

Both generate 32 tokens from 196 image tokens of random states, in float32, greedily and with 4 beams: vedcore's decoder
attends to them after every ``--every``-th layer, and transformers' ``LlamaForCausalLM`` of the same sizes has them
before its text, as ``inputs_embeds``. They run in turns (A B A B …). "call" is the time of a whole call, "step" that of
a token after the first; "ratio" is transformers' median over vedcore's, with the lowest and the highest of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import transformers

import vedcore

IMAGE_TOKENS, NEW_TOKENS, WIDTH = 196, 32, 576


def build(every: int) -> tuple[vedcore.VisionEncoderDecoder, transformers.LlamaForCausalLM]:
    """vedcore's model, whose encoder does not run, and transformers' with the weights of its decoder's layers."""
    encoder = {"name": "vit", "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 9}
    model = vedcore.compose(encoder, {"name": "smollm-135m", "cross_attention_every": every}, seed=0)
    model.token_ids = model.token_ids.changed(eos=(), pad=0)
    config = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=WIDTH,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    return model, transformers.LlamaForCausalLM(config).eval()


def calls(every: int, beams: int) -> dict[str, Callable[[int], object]]:
    """A function of each library that writes so many tokens."""
    model, theirs = build(every)
    states = torch.randn(1, IMAGE_TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    encoded = vedcore.EncoderOutput(states)

    def ours(tokens: int) -> object:
        return model.generate(encoder_outputs=encoded, max_new_tokens=tokens, min_new_tokens=tokens, num_beams=beams)

    @torch.no_grad()
    def prefixed(tokens: int) -> object:
        start = theirs.get_input_embeddings()(torch.zeros(1, 1, dtype=torch.long))
        prefix = torch.cat([states, start], 1)
        mask = torch.ones(prefix.shape[:2], dtype=torch.long)
        return theirs.generate(
            inputs_embeds=prefix,
            attention_mask=mask,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            num_beams=beams,
            do_sample=False,
        )

    return {"vedcore": ours, "transformers": prefixed}


def seconds(function: Callable[[int], object], tokens: int) -> float:
    """Time of a call: of its one thread, which other programs do not lengthen, or by the clock where it has several."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    function(tokens)
    return clock() - begin


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print where the time of vedcore's call goes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for search, beams in (("greedy", 1), ("4 beams", 4)):
        both = calls(options.every, beams)
        for function in both.values():
            function(NEW_TOKENS)
        if options.profile:
            with torch.profiler.profile() as profile:
                both["vedcore"](NEW_TOKENS)
            print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=40))
        found: dict[str, dict[str, list[float]]] = {"call": {}, "step": {}}
        for _ in range(options.rounds):
            for name, function in both.items():
                whole, first = seconds(function, NEW_TOKENS), seconds(function, 1)
                found["call"].setdefault(name, []).append(whole)
                found["step"].setdefault(name, []).append((whole - first) / (NEW_TOKENS - 1))
        for what, times in found.items():
            each = {name: statistics.median(runs) * 1000 for name, runs in times.items()}
            ratios = [b / a for a, b in zip(times["vedcore"], times["transformers"], strict=True)]
            print(
                f"{search:8} {what}: vedcore {each['vedcore']:7.1f} ms, transformers {each['transformers']:7.1f} ms, "
                f"ratio {each['transformers'] / each['vedcore']:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )


if __name__ == "__main__":
    main()
