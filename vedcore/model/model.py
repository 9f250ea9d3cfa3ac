"""The composed model: images in; logits and a loss out. How it writes text stands in `vedcore.generation`.

Shape letters: N images, B rows of text (N times the captions of an image), C channels, H x W pixels, S encoder tokens,
S' tokens after the projector, T text tokens, D width of the decoder, E that of its cross-attention, V vocabulary size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from vedcore.components import check_interpolation, parameters_of, torch_dtype
from vedcore.errors import UsageError
from vedcore.explaining import explain
from vedcore.generation.arguments import as_cache, as_encoder_output, check_pixels, check_tensors
from vedcore.generation.generate import generate, generate_text, stream
from vedcore.generation.results import transition_scores
from vedcore.layers.cache import DecoderCache
from vedcore.layers.int8 import int8_copy
from vedcore.layers.linear import pack, refresh
from vedcore.layers.sharing import Hold, shares
from vedcore.layers.tracing import is_traced
from vedcore.loss import check_labels, cross_entropy
from vedcore.model.folders import SavedModel
from vedcore.model.origins import warns_untrained
from vedcore.outputs import EncoderOutput, VisionEncoderDecoderOutput

__all__ = ["VisionEncoderDecoder"]

MAX_IMAGES_ENCODED = 8
"""Images that a CPU encodes at a time."""


class VisionEncoderDecoder(SavedModel):
    """A vision encoder, a projector and a text decoder in a row.

    `vedcore.compose` and `vedcore.load` build it. Threads may share it. Its arguments are those of `ComposedParts`.
    """

    @shares
    def encode(
        self,
        pixel_values: Tensor,
        encoder_attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        interpolate_pos_encoding: bool = False,
    ) -> EncoderOutput:
        """Images (N, C, H, W) to encoder states (N, S, D_encoder), to be passed on as ``encoder_outputs``.

        A frozen encoder runs without a graph. With ``interpolate_pos_encoding`` images may have another size: the
        encoder resamples its positions for this call.
        """
        check_pixels(pixel_values, self.num_channels)
        check_tensors(encoder_attention_mask=encoder_attention_mask)
        return self.run_encoder(
            pixel_values, encoder_attention_mask, output_attentions, output_hidden_states, interpolate_pos_encoding
        )

    def run_encoder(
        self,
        pixel_values: Tensor,
        encoder_attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        interpolate_pos_encoding: bool = False,
    ) -> EncoderOutput:
        """`encode` for arguments that were checked."""
        options = {}  # an encoder of a third party may not know the argument
        if interpolate_pos_encoding:
            check_interpolation(self.encoder)
            options = {"interpolate_pos_encoding": True}
        no_graph = "encoder" in self._frozen and not any(p.requires_grad for p in parameters_of(self.encoder))
        with torch.no_grad() if no_graph else contextlib.nullcontext():
            pixel_values = pixel_values.to(self.dtype)
            more = encoder_attention_mask is not None or output_attentions or output_hidden_states
            if not more and self._pays_in_parts(pixel_values):
                parts = pixel_values.chunk(-(-pixel_values.shape[0] // MAX_IMAGES_ENCODED))
                return _joined([self.encoder(part, **options) for part in parts])
            out: EncoderOutput = self.encoder(
                pixel_values,
                attention_mask=encoder_attention_mask,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                **options,
            )
        return out

    def _pays_in_parts(self, pixel_values: Tensor) -> bool:
        """Whether to encode few images at a time: more would leave the CPU's cache. Dropout would draw differently."""
        whole = torch.is_grad_enabled() or self.encoder.training or is_traced()
        return not whole and pixel_values.shape[0] > MAX_IMAGES_ENCODED and pixel_values.is_cpu

    @shares
    def forward(
        self,
        pixel_values: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutput | Sequence[Any] | None = None,
        past_key_values: DecoderCache | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        encoder_attention_mask: Tensor | None = None,
        num_items_in_batch: int | Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **more: Any,
    ) -> VisionEncoderDecoderOutput | tuple[Any, ...]:
        """Logits for a text about each image, and the loss where ``labels`` are given.

        Args:
            pixel_values: (N, C, H, W), prepared as ``model.processor`` does.
            decoder_input_ids: (B, T); B may be a multiple of N: so many texts for each image, side by side.
            decoder_attention_mask: (B, T), or with a cache (B, T so far); 0 or False marks padding.
            encoder_outputs: what `encode` gave, in place of ``pixel_values``; a tuple counts by position.
            past_key_values: the cache of an earlier call; then only the new tokens are given.
            decoder_inputs_embeds: (B, T, D) in place of ``decoder_input_ids``.
            labels: (B, T) the target text, without the start id; -100 is ignored. The decoder's input is by default
                the labels shifted right behind the start id.
            use_cache: return a cache; by default in eval mode without labels.
            output_attentions: return all attention weights.
            output_hidden_states: return all states between layers.
            return_dict: False returns the set fields as a tuple.
            encoder_attention_mask: (N, S) 0 or False marks tokens that show only padding of the image.
            num_items_in_batch: divides the summed loss, in place of the number of labels that count; for gradient
                accumulation.
            interpolate_pos_encoding: take images of another size than the encoder's own; its positions are resampled
                for this call.
            more: ``label_smoothing``, the share of the target that the loss spreads over the vocabulary, 0 by default
                (it has no place in the signature, where Trainer would take it for labels); any other name with None,
                as PEFT gives ``input_ids=None``.

        Raises:
            UsageError: arguments that contradict each other or are missing.
            IncompatibleError: sizes that do not fit.
            TypeError: an argument that there is not.
        """
        label_smoothing = more.pop("label_smoothing", 0.0)
        for name, value in more.items():
            if value is not None:
                raise TypeError(f"VisionEncoderDecoder.forward() got an unexpected keyword argument {name!r}")
        check_tensors(
            pixel_values=pixel_values,
            decoder_input_ids=decoder_input_ids,
            labels=labels,
            decoder_attention_mask=decoder_attention_mask,
            decoder_inputs_embeds=decoder_inputs_embeds,
            encoder_attention_mask=encoder_attention_mask,
        )
        past_key_values = as_cache(past_key_values)
        shifts = labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None
        if labels is not None:
            start = self.token_ids.start if shifts else None
            check_labels(labels, self.decoder.vocab_size, start, self.processor.tokenizer)
        if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            refresh(self.decoder)
        if labels is not None and shifts:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if use_cache is None:
            use_cache = past_key_values is not None or (labels is None and not self.training)
        attentions, hidden = bool(output_attentions), bool(output_hidden_states)
        cached = past_key_values is not None and past_key_values.length > 0
        if encoder_outputs is None and pixel_values is not None:
            encoder_outputs = self.encode(
                pixel_values, encoder_attention_mask, attentions, hidden, interpolate_pos_encoding
            )
        elif encoder_outputs is not None and pixel_values is not None:
            raise UsageError("give pixel_values or encoder_outputs, not both")
        elif encoder_outputs is None and not cached:
            raise UsageError("give pixel_values, or encoder_outputs from model.encode", field="pixel_values")
        encoded = as_encoder_output(encoder_outputs)
        states, mask = self.project(encoded, encoder_attention_mask) if encoded is not None else (None, None)

        out = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            output_attentions=attentions,
            output_hidden_states=hidden,
        )
        result = VisionEncoderDecoderOutput(
            loss=None if labels is None else cross_entropy(out.logits, labels, label_smoothing, num_items_in_batch),
            logits=out.logits,
            past_key_values=out.past_key_values,
            decoder_hidden_states=out.hidden_states,
            decoder_attentions=out.attentions,
            cross_attentions=out.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state if encoded is not None else None,
            encoder_hidden_states=encoded.hidden_states if encoded is not None else None,
            encoder_attentions=encoded.attentions if encoded is not None else None,
        )
        return result.to_tuple() if return_dict is False else result

    def project(
        self, encoded: EncoderOutput, encoder_attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Encoder states as the decoder takes them, (N, S', E), and their mask (N, S') or None.

        Raises:
            UsageError: states that are not the encoder's, or a mask that does not fit them.
        """
        mask = encoded.attention_mask if encoder_attention_mask is None else encoder_attention_mask
        states = encoded.last_hidden_state
        if states.ndim != 3 or states.shape[-1] != self.encoder.hidden_size:
            raise UsageError(
                f"states of shape {tuple(states.shape)} from an encoder of width {self.encoder.hidden_size}",
                field="encoder_outputs",
                hint="give what model.encode gave",
            )
        if mask is not None and mask.shape != states.shape[:2]:
            raise UsageError(
                f"a mask of shape {tuple(mask.shape)} for {states.shape[0]} images of {states.shape[1]} tokens",
                field="encoder_attention_mask",
                hint=f"give {tuple(states.shape[:2])}",
            )
        mask = None if mask is None else mask.bool()
        seen = {"attention_mask": mask} if getattr(self.projector, "takes_attention_mask", False) else {}
        return self.projector(states, **seen), None if mask is None else self.projector.project_mask(mask)

    # -- inference ----------------------------------------------------------------------------------------------

    generate = shares(generate)
    generate_text = shares(warns_untrained(generate_text))
    stream = shares(warns_untrained(stream))
    explain = shares(warns_untrained(explain))

    def prepare_inputs_for_generation(self, input_ids: Tensor, **inputs: Any) -> dict[str, Any]:
        """The arguments of `forward` for a step, as transformers' ``generate`` asks for them; PEFT wraps it.

        `generate` does not call it.

        Args:
            input_ids: (B, L) the texts so far.
            inputs: ``encoder_outputs``, ``past_key_values``, ``use_cache`` and ``decoder_attention_mask``.
        """
        past = inputs.get("past_key_values")
        names = ("encoder_outputs", "past_key_values", "use_cache", "decoder_attention_mask")
        return {"decoder_input_ids": input_ids[:, past.length if past else 0 :], **{n: inputs.get(n) for n in names}}

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: Sequence[Tensor],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """The score by which each new token of `generate` was chosen, as transformers computes it.

        Args:
            sequences: (B, T) of `GenerateOutput`.
            scores: for each step (rows, V), with ``output_scores=True``.
            beam_indices: (B, L) of the same output, with beams.
            normalize_logits: make log-probabilities of the scores first; those of beams are such already.

        Returns:
            (B, L), 0 where a beam's text has ended.

        Raises:
            UsageError: arguments that are not of one output.
        """
        return transition_scores(sequences, scores, beam_indices, normalize_logits)

    @shares
    def optimize_for_inference(
        self, dtype: str | torch.dtype | None = None, *, draft: Literal["int8"] | None = None
    ) -> Self:
        """Put the model into eval mode and lay its weights out for speed, as the first `generate` does by itself.

        On CPUs where it makes them faster, the decoder's linear layers then have a second copy of their weights, in
        blocks. It follows every change of the weights; `train` drops it.

        Args:
            dtype: the type to change the parameters to, such as ``"bfloat16"``; None leaves it.
            draft: ``"int8"`` makes that the default of ``generate(draft=)``, and the int8 copy at once; None changes
                nothing.

        Raises:
            UsageError: not a type of weights, or a default that contradicts the others.
        """
        if (type_ := torch_dtype(dtype)) not in (None, self.dtype):
            self.to(type_)
        if draft is not None:
            self.generation_config = self.generation_config.with_options(draft=draft)
        self.eval()
        pack(self.decoder)
        if draft is not None:
            int8_copy(self.decoder)
        return self

    @contextlib.contextmanager
    def ready_for_inference(self, compiled: bool = False) -> Iterator[Hold]:
        """Eval mode for a while, in which nobody changes the model; packed where it is in that mode already."""
        with self.lock.held(alone=self._is_partly_training) as hold:
            training: list[nn.Module] = []
            if not compiled and not self.training:
                pack(self.decoder)

            def set_resting(rests: bool) -> None:
                """Give the modules that are in training mode their mode back while a stream rests."""
                if not rests:
                    training[:] = [module for module in self.modules() if module.training]
                for module in training:
                    module.training = rests

            hold.set_resting = set_resting
            set_resting(False)
            yield hold


def _joined(parts: Sequence[EncoderOutput]) -> EncoderOutput:
    """The outputs of several parts of a batch as one."""
    states, masks = [part.last_hidden_state for part in parts], [part.attention_mask for part in parts]
    if all(mask is None for mask in masks):
        return EncoderOutput(torch.cat(states))
    every = [s.new_ones(s.shape[:2], dtype=torch.bool) if m is None else m for s, m in zip(states, masks, strict=True)]
    return EncoderOutput(torch.cat(states), torch.cat(every))
