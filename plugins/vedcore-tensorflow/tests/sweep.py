"""Encoders of timm through ``encode`` in TensorFlow, beside the model in torch.

    PYTHONPATH=. python plugins/vedcore-tensorflow/tests/sweep.py [NAME ...] > docs/exports-tensorflow-sweep.txt

A line a model: seconds to record it, seconds of the first run in TensorFlow, and the greatest difference relative to
the greatest number, at two images, where three were recorded.
"""

from __future__ import annotations

import gc
import sys
import time
import warnings

import torch._dynamo  # before TensorFlow

from tests.export.sweep import BOUND, DECODER, IDS, NAMES

FEWER = ("densenet121", "vgg11", "nfnet_l0", "regnetx_002", "ghostnet_100", "repvit_m0_9", "xcit_nano_12_p16_224")
"""Models that the sweep of graphs has beside those of here."""


def tried(name: str) -> str:
    """The line of a model."""
    import tensorflow as tf

    import vedcore
    from vedcore.export import Graphs
    from vedcore.export.programs import programs
    from vedcore.export.tracing import trace
    from vedcore_tensorflow.programs import Programs

    options = {"decoder_vocab_size": 50, "tokenizer": None, "seed": 0, "token_ids": IDS}
    model = vedcore.compose(f"timm/{name}", DECODER, **options)  # type: ignore[arg-type]
    began = time.perf_counter()
    graph, tensors = trace(next(programs(model)))
    recorded = time.perf_counter()
    height, width = model.encoder.preprocessing.image_size
    pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        due = model.project(model.encode(pixels))[0]
    graphs = Graphs({"encode": graph}, {}, (), {}, (3, None, None), 50, None)
    ours = Programs(graphs, {key: tf.constant(each.detach().numpy()) for key, each in tensors.items()})
    start = time.perf_counter()
    encode = tf.function(ours.encode, input_signature=[tf.TensorSpec([None, 3, height, width])], autograph=False)
    found = encode(pixels.numpy()).numpy()
    ran = time.perf_counter()
    difference = float(abs(torch.from_numpy(found) - due).max() / due.abs().max())
    said = "" if difference <= BOUND else "  TOO LARGE"
    return f"{recorded - began:6.1f} s  {ran - start:6.1f} s  {difference:.1e}{said}"


def main(names: list[str]) -> None:
    """Print the lines."""
    import tensorflow as tf

    import vedcore

    warnings.simplefilter("ignore")
    print(f"tensorflow {tf.__version__}, torch {torch.__version__}, timm's models with random weights")
    for name in names or [each for each in NAMES if each not in FEWER]:
        try:
            said = tried(name)
        except vedcore.VedcoreError as error:
            said = f"refused: {error}"
        print(f"{name:<30}  {said}", flush=True)
        gc.collect()


if __name__ == "__main__":
    main(sys.argv[1:])
