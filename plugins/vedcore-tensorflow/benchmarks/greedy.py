"""Seconds of a greedy text of 24 tokens: our model in torch, its export in TensorFlow, and transformers' TF class.

    python greedy.py --theirs PYTHON    # of an environment with transformers 4.57, tensorflow and tf-keras

Each is a process of its own that waits for its turn, so that all meet the same machine. The weights are random, and no
text ends early.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

TOKENS = 24
MODELS = {"vit-small, gpt2 of 6 layers": (384, 6, 6), "vit-base, gpt2": (768, 12, 12)}
"""Width and heads of the encoder, layers of the decoder."""
BATCHES = (1, 8)


def torch_worker(name: str, folder: str) -> None:
    """Ours in torch."""
    import torch

    import vedcore

    model = vedcore.load(folder)
    serve(lambda n: model.generate(torch.ones(n, 3, 224, 224), max_new_tokens=TOKENS, eos_token_id=None))


def tensorflow_worker(name: str, folder: str) -> None:
    """Ours in TensorFlow."""
    import numpy as np

    import vedcore_tensorflow

    model = vedcore_tensorflow.load(folder)
    pixels = np.ones((max(BATCHES), 3, 224, 224), np.float32)
    serve(lambda n: model.generate(pixels[:n], max_new_tokens=TOKENS, eos_token_id=()).numpy())


def theirs_worker(name: str, folder: str) -> None:
    """transformers' TFVisionEncoderDecoderModel."""
    import tensorflow as tf
    from transformers import (
        GPT2Config,
        TFVisionEncoderDecoderModel,
        VisionEncoderDecoderConfig,
        ViTConfig,
    )

    width, heads, layers = MODELS[name]
    vit = ViTConfig(hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width)
    gpt2 = GPT2Config(n_layer=layers, add_cross_attention=True, is_decoder=True)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, gpt2)
    config.decoder_start_token_id = config.pad_token_id = gpt2.bos_token_id
    model = TFVisionEncoderDecoderModel(config)
    serve(
        lambda n: model.generate(tf.ones([n, 3, 224, 224]), max_new_tokens=TOKENS, min_new_tokens=TOKENS, num_beams=1)
    )


def serve(write: object) -> None:
    """Time a batch for each line of stdin."""
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        found = write(int(line))
        assert found.shape[1] == TOKENS + 1, found.shape
        print(json.dumps(time.perf_counter() - began), flush=True)


WORKERS = {"torch": torch_worker, "tensorflow": tensorflow_worker, "theirs": theirs_worker}


def main() -> None:
    """Record the models and time them in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--theirs", required=True, help="the Python that has transformers 4.57")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", nargs=3, metavar=("WHAT", "NAME", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        what, name, folder = given.worker
        WORKERS[what](name, folder)
        return
    for name, (width, heads, layers) in MODELS.items():
        with tempfile.TemporaryDirectory() as place:
            folder = os.path.join(place, "model")
            record(folder, width, heads, layers)
            pythons = {"torch": sys.executable, "tensorflow": sys.executable, "theirs": given.theirs}
            workers = {what: start(python, what, name, folder) for what, python in pythons.items()}
            for count in BATCHES:
                times = {what: [] for what in workers}
                for turn in range(given.rounds + 1):
                    for what, worker in workers.items():
                        worker.stdin.write(f"{count}\n")
                        worker.stdin.flush()
                        seconds = json.loads(worker.stdout.readline())
                        if turn:
                            times[what].append(seconds)
                shown = "  ".join(f"{what} {statistics.median(each):.2f}" for what, each in times.items())
                print(f"{name}, batch {count}: {shown}", flush=True)
            for worker in workers.values():
                worker.stdin.close()
                worker.wait()


def record(folder: str, width: int, heads: int, layers: int) -> None:
    """The folder of a model with its graphs, made in a process of its own."""
    vit = {"name": "vit", "hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width}
    gpt2 = {"name": "gpt2", "n_layer": layers}
    code = (
        "import vedcore, pathlib; from vedcore.export.recording import record; "
        f"record(vedcore.compose({vit!r}, {gpt2!r}, tokenizer=None, seed=0), pathlib.Path({folder!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def start(python: str, what: str, name: str, folder: str) -> subprocess.Popen[str]:
    """A worker that is ready."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "TF_USE_LEGACY_KERAS": "1"}
    if what != "theirs":
        del quiet["TF_USE_LEGACY_KERAS"]
    worker = subprocess.Popen(
        [python, __file__, "--theirs", python, "--worker", what, name, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=quiet,
    )
    while (line := worker.stdout.readline()).strip() != "ready":
        assert line, f"{what} does not start"
    return worker


if __name__ == "__main__":
    main()
