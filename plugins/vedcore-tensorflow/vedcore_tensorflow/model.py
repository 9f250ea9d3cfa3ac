"""A model of vedcore as a `keras.Model`: forward, loss, ``fit`` and ``generate``. Nothing here imports torch.

Shape letters: N images, B rows of text, C channels, H x W pixels, S encoder tokens, E their width, T text tokens, V
vocabulary size, L tokens of a written text.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vedcore import GenerationConfig, IncompatibleError, UsageError
from vedcore.export import GRAPH, Graphs, read_graphs
from vedcore_tensorflow.decoding import generate
from vedcore_tensorflow.options import options_for
from vedcore_tensorflow.programs import Programs

__all__ = ["GenerateOutput", "Output", "VisionEncoderDecoder"]

if keras.backend.backend() != "tensorflow":
    raise IncompatibleError(
        f"Keras computes with {keras.backend.backend()}",
        field="KERAS_BACKEND",
        hint="set KERAS_BACKEND=tensorflow before Python starts",
    )


class Output(NamedTuple):
    """The output of a call of a model."""

    loss: Any
    """() mean loss of the labels that count; None without labels."""
    logits: Any
    """(B, T, V)."""
    encoder_last_hidden_state: Any
    """(N, S, E) as cross-attention takes them."""


class GenerateOutput(NamedTuple):
    """The result of ``generate`` with ``return_dict_in_generate=True``."""

    sequences: Any
    """(B, L) ids, the prompt first, padded behind the end."""
    sequences_scores: Any
    """(B,) of each text; None without beams."""


@keras.saving.register_keras_serializable("vedcore_tensorflow")
class VisionEncoderDecoder(keras.Model):  # type: ignore[misc]
    """An exported model; `vedcore_tensorflow.load` makes one with its weights.

    Args:
        graphs: the text of ``graph.json``.
        generation_config: the options that ``generate`` has by default.
        image_size: H and W of the images that the model's processor makes.
    """

    def __init__(
        self,
        graphs: str,
        generation_config: Mapping[str, Any] | None = None,
        image_size: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._text = graphs
        self.image_size = None if image_size is None else tuple(image_size)
        self.generation_config = GenerationConfig.parse(dict(generation_config or {}))
        found = _parsed(graphs)
        ports = {port.name: port for graph in found.graphs.values() for port in graph.tensors}
        self._by_name = {
            name: self.add_weight(
                shape=port.shape,
                dtype=port.dtype,
                initializer="zeros",
                trainable=name in found.trained,
                autocast=False,
                name=name,
            )
            for name, port in ports.items()
        }
        self._functions = _Untracked()
        self.programs = Programs(found, {name: each.value for name, each in self._by_name.items()})
        self.supports_jit = False  # XLA compiles for each size of a batch; compile(jit_compile=True) asks for it
        self.built = True

    @property
    def graphs(self) -> Graphs:
        """The graphs, and the token ids and sizes beside them."""
        return self.programs.graphs

    def call(
        self,
        pixel_values: Any = None,
        decoder_input_ids: Any = None,
        labels: Any = None,
        decoder_attention_mask: Any = None,
        encoder_outputs: Any = None,
        training: bool = False,
    ) -> Output:
        """Images and texts to logits, and to the mean loss where labels are given.

        Args:
            pixel_values: (N, C, H, W); or a mapping with all arguments by name.
            decoder_input_ids: (B, T); where it is not given, the labels, shifted by one.
            labels: (B, T), -100 where one does not count.
            decoder_attention_mask: (B, T), 0 for padding.
            encoder_outputs: (N, S, E) encoder states in place of images, or an `Output` with them.
            training: with dropout, as the model in torch is in training.

        Raises:
            UsageError: neither images nor their states, or neither ids nor labels.
        """
        if isinstance(pixel_values, Mapping):
            return self.call(**pixel_values, training=training)
        states = getattr(encoder_outputs, "encoder_last_hidden_state", encoder_outputs)
        if states is None:
            states = self.programs.encode(self._images(pixel_values), training)
        labels = None if labels is None else tf.cast(labels, tf.int64)
        if decoder_input_ids is None:
            if labels is None:
                raise UsageError("no text", field="decoder_input_ids", hint="give them, or labels")
            decoder_input_ids = self.programs.shifted(labels)
        ids = tf.cast(decoder_input_ids, tf.int64)
        most = self.graphs.max_positions
        if most is not None and ids.shape[1] is not None and ids.shape[1] > most:
            message = f"a text of {ids.shape[1]} tokens, but the decoder has {most} positions"
            raise UsageError(message, field="decoder_input_ids", hint=f"cut the text to {most} tokens")
        logits = self.programs.logits(states, ids, decoder_attention_mask, training)
        loss = None if labels is None else self.programs.loss(logits, labels)
        return Output(loss, logits, states)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The model's own loss where ``compile`` has none."""
        if self._compile_loss is None and y_pred.loss is not None:
            return y_pred.loss
        logits = y_pred.logits if isinstance(y_pred, Output) else y_pred
        return super().compute_loss(x, y, logits, sample_weight, training)

    def train_step(self, data: Any) -> Any:
        """A step of ``fit``; labels may be among the inputs, or the targets."""
        return super().train_step(self._joined(data))

    def test_step(self, data: Any) -> Any:
        """A step of ``evaluate``."""
        return super().test_step(self._joined(data))

    def _joined(self, data: Any) -> Any:
        """A batch with the targets among the inputs, from which the decoder's input is made."""
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        if y is not None:
            x = {"labels": y, **(x if isinstance(x, Mapping) else {"pixel_values": x})}
        if self._compile_loss is not None:
            return x, y, weight
        if weight is not None:
            hint = "leave it out, and put -100 for labels that do not count"
            raise UsageError("the model's own loss takes no weights", field="sample_weight", hint=hint)
        return (x,)

    def generate(
        self,
        pixel_values: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        **options: Any,
    ) -> Any:
        """Ids of texts (B, L), the prompt first, padded behind the end: those that the model in torch writes.

        Args:
            pixel_values: (N, C, H, W).
            decoder_input_ids: (N, T) prompts; the start id where they are not given.
            decoder_attention_mask: (N, T), 0 where a prompt is padded, at the left.
            options: of `vedcore.GenerationConfig`: lengths, ``num_beams``, ``do_sample`` and what belongs to them, and
                the processors of scores; others are refused. A ``seed`` gives the same draws in each call, but not
                those of torch.

        Raises:
            UsageError: no images, or an option that is not here.
        """
        pixel_values = self._images(pixel_values)
        prompt_length = 1 if decoder_input_ids is None else decoder_input_ids.shape[1]
        chosen, max_length = options_for(self.generation_config, self.graphs, prompt_length, **options)
        if decoder_input_ids is None:
            starts = chosen.config.start_ids(chosen.ids.required("start"), pixel_values.shape[0])
            decoder_input_ids = tf.constant(starts, tf.int64)[:, None]
        ids = tf.cast(decoder_input_ids, tf.int64)
        counts = (
            tf.ones_like(ids, tf.bool) if decoder_attention_mask is None else tf.cast(decoder_attention_mask, tf.bool)
        )
        key = (
            chosen.config.model_dump_json(exclude={"max_length", "max_new_tokens"}),
            chosen.min_length,
            prompt_length,
            *pixel_values.shape[1:],
        )
        if key not in self._functions.made:

            def written(pixel_values: Any, ids: Any, counts: Any, max_length: Any) -> tuple[Any, Any]:
                states = self.programs.encode(pixel_values)
                return generate(self.programs, chosen, states, ids, counts, max_length)

            self._functions.made[key] = tf.function(
                written,
                autograph=False,
                input_signature=[
                    tf.TensorSpec([None, *pixel_values.shape[1:]], pixel_values.dtype),
                    tf.TensorSpec([None, prompt_length], tf.int64),
                    tf.TensorSpec([None, prompt_length], tf.bool),
                    tf.TensorSpec([], tf.int32),
                ],
            )
        sequences, scores = self._functions.made[key](pixel_values, ids, counts, max_length)
        return GenerateOutput(sequences, scores) if chosen.config.return_dict_in_generate else sequences

    def _images(self, pixel_values: Any) -> Any:
        """Images (N, C, H, W) as the graphs take them.

        Raises:
            UsageError: none, or of another shape.
        """
        hint = "give what the model's processor makes"
        if pixel_values is None:
            raise UsageError("no images", field="pixel_values", hint=hint)
        pixel_values = tf.convert_to_tensor(pixel_values)
        pairs = zip(pixel_values.shape[1:], self.graphs.image, strict=False)
        if len(pixel_values.shape) != 4 or any(given not in (None, due) and due is not None for given, due in pairs):
            due = ", ".join("any" if each is None else str(each) for each in self.graphs.image)
            message = f"images of shape {tuple(pixel_values.shape)}, (N, {due}) expected"
            raise UsageError(message, field="pixel_values", hint=hint)
        return pixel_values

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The weights by their names in torch: ``model.load_state_dict`` takes them, made tensors."""
        return {name: np.array(each.value) for name, each in self._by_name.items()}

    def set_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Give each weight the array of its name.

        Raises:
            IncompatibleError: one is not there, or has another shape.
        """
        for name, weight in self._by_name.items():
            given = arrays.get(name)
            if given is None or tuple(given.shape) != tuple(weight.shape):
                found = "not there" if given is None else f"of shape {tuple(given.shape)}"
                message = f"a tensor of shape {tuple(weight.shape)} expected, it is {found}"
                raise IncompatibleError(message, field=name, hint="export the model anew")
            weight.assign(given)

    def get_config(self) -> dict[str, Any]:
        """All that a ``.keras`` file needs beside the weights."""
        options = self.generation_config.model_dump(mode="json", exclude_unset=True)
        own = {"graphs": self._text, "generation_config": options, "image_size": self.image_size}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> VisionEncoderDecoder:
        """The model that `get_config` described, with weights that are all 0."""
        del custom_objects
        return cls(**config)


class _Untracked:
    """Compiled functions, which Keras does not save."""

    def __init__(self) -> None:
        self.made = dict[Any, Any]()


def _parsed(text: str) -> Graphs:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, GRAPH).write_text(text, encoding="utf-8")
        return read_graphs(folder)
