"""Exports as a proof runs them, with NumPy's arrays. Nothing here imports torch.

TensorFlow is imported by the methods: what exports a model reads the classes, and imports torch after that.

Shape letters: N images, B rows of text, T text tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vedcore.export import Runtime
from vedcore_tensorflow.exporter import SAVED_MODEL, TFLITE

__all__ = ["SavedModelRuntime", "TFLiteRuntime"]


class SavedModelRuntime(Runtime):
    """The signatures of the SavedModel; what trains, and steps, by the `keras.Model` of the folder."""

    def __init__(self, folder: Path) -> None:
        import tensorflow as tf

        self.folder = folder
        self.saved = tf.saved_model.load(folder / SAVED_MODEL)
        self.signatures: Mapping[str, Any] = self.saved.signatures

    def encode(self, pixel_values: Any) -> Any:
        """By the signature ``encode``."""
        return (
            self.signatures["encode"](pixel_values=_real(pixel_values))["encoder_hidden_states"]
            .numpy()
            .astype(np.float32)
        )

    def logits(self, pixel_values: Any, input_ids: Any, attention_mask: Any = None) -> Any:
        """By the signature ``forward``."""
        import tensorflow as tf

        mask = np.ones_like(input_ids) if attention_mask is None else attention_mask
        given = {
            "decoder_input_ids": tf.constant(input_ids, tf.int64),
            "decoder_attention_mask": tf.constant(mask, tf.bool),
        }
        return (
            self.signatures["forward"](pixel_values=_real(pixel_values), **given)["logits"].numpy().astype(np.float32)
        )

    def steps(self, pixel_values: Any, input_ids: Any) -> Any:
        """By the step that the loop of ``generate`` runs."""
        import tensorflow as tf

        from vedcore_tensorflow.loading import load

        programs = load(self.folder).programs
        ids = tf.constant(input_ids, tf.int64)

        def all_steps(pixel_values: Any, ids: Any) -> Any:
            cache, found = programs.start(programs.encode(pixel_values), tf.shape(ids)[0]), []
            for i in range(ids.shape[1]):
                mask = tf.ones_like(ids[:, : i + 1], tf.bool)
                tokens, after = ids[:, i : i + 1], tf.fill([tf.shape(ids)[0], 1], tf.constant(i, tf.int64))
                positions = programs.written_positions(tokens, after) if i else programs.positions(tokens, mask)
                logits, cache = programs.step(tokens, positions, mask[:, None, None], cache)
                found.append(logits)
            return tf.concat(found, 1)

        return tf.function(all_steps, autograph=False)(_real(pixel_values), ids).numpy().astype(np.float32)

    def generate(self, pixel_values: Any, max_new_tokens: int) -> Any:
        """By the signature ``generate``."""
        import tensorflow as tf

        most = tf.constant(max_new_tokens, tf.int32)
        return self.signatures["generate"](pixel_values=_real(pixel_values), max_new_tokens=most)["sequences"].numpy()

    def loss(self, pixel_values: Any, labels: Any) -> float:
        """By a call of the `keras.Model`."""
        from vedcore_tensorflow.loading import load

        return float(load(self.folder)(_real(pixel_values), labels=labels).loss)

    def gradients(self, pixel_values: Any, labels: Any) -> dict[str, Any]:
        """By a tape over the graphs in float64."""
        import tensorflow as tf

        from vedcore_tensorflow.loading import load
        from vedcore_tensorflow.programs import Programs

        model = load(self.folder)
        tensors = {
            name: tf.Variable(
                each.astype("float64") if each.dtype in (np.float32, tf.bfloat16.as_numpy_dtype, np.float16) else each
            )
            for name, each in model.arrays().items()
        }
        programs = Programs(model.graphs, tensors, tf.float64)
        labels = tf.constant(labels, tf.int64)
        trained = {name: tensors[name] for name in model.graphs.trained if name in tensors}
        with tf.GradientTape() as tape:
            states = programs.encode(tf.constant(pixel_values, tf.float64))
            loss = programs.loss(programs.logits(states, programs.shifted(labels)), labels)
        found = tape.gradient(loss, trained)
        return {name: tf.convert_to_tensor(each).numpy() for name, each in found.items() if each is not None}

    def train(self, pixel_values: Any, labels: Any, learning_rate: float, steps: int) -> list[float]:
        """By Keras' AdamW over the graphs of eval mode."""
        import keras
        import tensorflow as tf

        from vedcore_tensorflow.loading import load

        model = load(self.folder)
        optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=0.0, epsilon=1e-8)
        pixel_values, labels, losses = _real(pixel_values), tf.constant(labels, tf.int64), list[float]()
        for _ in range(steps):
            with tf.GradientTape() as tape:
                loss = model(pixel_values, labels=labels).loss
            losses.append(float(loss))
            trained = model.trainable_weights
            found = tape.gradient(loss, [each.value for each in trained])
            pairs = [(tf.convert_to_tensor(g), w) for g, w in zip(found, trained, strict=True) if g is not None]
            optimizer.apply_gradients(pairs)
        return losses


class TFLiteRuntime(Runtime):
    """The file in an interpreter: the encoder, and greedy texts."""

    abilities = frozenset({"encode", "generate"})

    def __init__(self, folder: Path) -> None:
        interpreter = _interpreter()(str(folder / TFLITE))
        self.encode_ = interpreter.get_signature_runner("encode")
        self.generate_ = interpreter.get_signature_runner("generate")

    def encode(self, pixel_values: Any) -> Any:
        """By the signature ``encode``."""
        return self.encode_(pixel_values=np.asarray(pixel_values, np.float32))["encoder_hidden_states"]

    def generate(self, pixel_values: Any, max_new_tokens: int) -> Any:
        """By the signature ``generate``."""
        most = np.int32(max_new_tokens)
        return self.generate_(pixel_values=np.asarray(pixel_values, np.float32), max_new_tokens=most)["sequences"]


def _interpreter() -> Any:
    """LiteRT's where it is installed, else that of TensorFlow."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        return tf.lite.Interpreter
    return Interpreter


def _real(pixel_values: Any) -> Any:
    import tensorflow as tf

    return tf.constant(pixel_values, tf.float32)
