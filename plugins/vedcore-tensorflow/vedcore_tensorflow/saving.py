"""Files that run without vedcore: a SavedModel, and one for TensorFlow Lite."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from vedcore import IncompatibleError, UsageError
from vedcore_tensorflow.decoding import generate
from vedcore_tensorflow.model import VisionEncoderDecoder
from vedcore_tensorflow.options import Options, options_for

__all__ = ["write_saved_model", "write_tflite"]


class _Served(tf.Module):  # type: ignore[misc]
    """A model as functions of tensors.

    Args:
        model: the model.
        image: sizes (C, H, W) of an image, None where one varies.
        options: of ``generate``.
        max_length: greatest length of a row, where a caller gives none.
    """

    def __init__(self, model: VisionEncoderDecoder, image: list[int | None], options: Options, max_length: int) -> None:
        super().__init__()
        self.programs = model.programs
        self.tensors = list(model.programs.tensors.values())  # which the module owns then
        self.options, self.max_length = options, max_length
        pixels = tf.TensorSpec([None, *image], name="pixel_values")
        ids = tf.TensorSpec([None, None], tf.int64, "decoder_input_ids")
        mask = tf.TensorSpec([None, None], tf.bool, "decoder_attention_mask")
        most = tf.TensorSpec([], tf.int32, "max_new_tokens")

        def function(given: Any, *inputs: Any) -> Any:
            return tf.function(given, input_signature=inputs, autograph=False)

        self.encode = function(self._encode, pixels)
        self.forward = function(self._forward, pixels, ids, mask)
        self.generate = function(self._generate, pixels, most)
        self.write = function(self._write, pixels)

    def _encode(self, pixel_values: Any) -> dict[str, Any]:
        return {"encoder_hidden_states": self.programs.encode(pixel_values)}

    def _forward(self, pixel_values: Any, decoder_input_ids: Any, decoder_attention_mask: Any) -> dict[str, Any]:
        states = self.programs.encode(pixel_values)
        return {"logits": self.programs.logits(states, decoder_input_ids, decoder_attention_mask)}

    def _generate(self, pixel_values: Any, max_new_tokens: Any) -> dict[str, Any]:
        return self._written(pixel_values, max_new_tokens + 1)

    def _write(self, pixel_values: Any) -> dict[str, Any]:
        return self._written(pixel_values, self.max_length)

    def _written(self, pixel_values: Any, max_length: Any) -> dict[str, Any]:
        ids = tf.fill([tf.shape(pixel_values)[0], 1], tf.constant(self.options.ids.required("start"), tf.int64))
        states = self.programs.encode(pixel_values)
        counts = tf.ones_like(ids, tf.bool)
        return {"sequences": generate(self.programs, self.options, states, ids, counts, max_length)[0]}


def write_saved_model(model: VisionEncoderDecoder, folder: str | os.PathLike[str], **options: Any) -> None:
    """Write a SavedModel, which ``tf.saved_model.load`` opens without vedcore.

    Its signatures are ``encode`` (pixel_values), ``forward`` (pixel_values, decoder_input_ids, decoder_attention_mask),
    ``generate`` (pixel_values, max_new_tokens) and ``serving_default`` (pixel_values), whose texts have the greatest
    length that the options say; all take any number of images.

    Args:
        model: the model.
        folder: to create.
        options: of ``generate``, in place of the model's own.

    Raises:
        UsageError: an option that ``generate`` does not have.
    """
    chosen, max_length = options_for(model.generation_config, model.graphs, 1, **options)
    served = _Served(model, list(model.graphs.image), chosen, max_length)
    signatures = {
        "serving_default": served.write,
        "encode": served.encode,
        "forward": served.forward,
        "generate": served.generate,
    }
    tf.saved_model.save(served, os.fspath(folder), signatures)


def write_tflite(
    model: VisionEncoderDecoder,
    path: str | os.PathLike[str],
    image_size: tuple[int, int] | None = None,
    quantize: bool = False,
    **options: Any,
) -> None:
    """Write one file for TensorFlow Lite, of its own operations alone.

    Its signatures are ``encode`` (pixel_values) and ``generate`` (pixel_values, max_new_tokens).

    Args:
        model: the model.
        path: of the file.
        image_size: H and W, where those of the model may vary; those of its processor by default.
        quantize: store the weights as 8 bits each; texts may differ then.
        options: of ``generate``, in place of the model's own; searches other than greedy are refused.

    Raises:
        UsageError: beams or sampling, an option that ``generate`` does not have, or a size of images that is not known.
        IncompatibleError: a model in bfloat16 or float16.
    """
    dtype = model.graphs["encode"].inputs[0].dtype
    if dtype != "float32":
        message = f"a model in {dtype}, and TensorFlow Lite computes in float32"
        raise IncompatibleError(message, field="dtype", hint="export model.float()")
    channels, *sides = model.graphs.image
    if None in sides or image_size is not None:
        sides = list(image_size or model.image_size or sides)
    if None in sides:
        raise UsageError("the model takes images of any size", field="image_size", hint="give (H, W) for the file")
    chosen, max_length = options_for(model.generation_config, model.graphs, 1, **options)
    if chosen.config.num_beams > 1 or chosen.config.do_sample:
        field = "num_beams" if chosen.config.num_beams > 1 else "do_sample"
        hint = "pass num_beams=1, do_sample=False"
        raise UsageError("a file for TensorFlow Lite holds greedy search alone", field=field, hint=hint)
    served = _Served(model, [channels, *sides], chosen, max_length)
    with tempfile.TemporaryDirectory() as folder:
        signatures = {"encode": served.encode, "generate": served.generate}
        tf.saved_model.save(served, folder, signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(signatures))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        Path(path).write_bytes(converter.convert())
