"""A model that writes: `GenerationMixin` holds what `generate` and its relatives do around the network.

Shape letters: N images, B rows of text (N times the captions or beams of an image), H x W pixels, S encoder tokens, S'
tokens after the projector, T prompt tokens, L tokens of a text so far, E width of the decoder's cross-attention, V
vocabulary size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from vedcore.components import TextDecoder, VisionEncoder, torch_dtype
from vedcore.config import TokenIds
from vedcore.errors import IncompatibleError, UsageError
from vedcore.generation.arguments import as_encoder_output, as_functions, check_pixels, check_tensors, prompt_ids
from vedcore.generation.assisted import check_assistable
from vedcore.generation.config import GenerationConfig
from vedcore.generation.drafters import DraftModel
from vedcore.generation.request import Request, StoppingCriterion
from vedcore.generation.results import constraint_of, encode_prompt, require_tokenizer, text_results, with_inner_states
from vedcore.generation.search import search, stream
from vedcore.generation.state import DecodingState
from vedcore.generation.streaming import check_streamer, text_pieces
from vedcore.layers.linear import pack, packed, unpacked
from vedcore.outputs import EncoderOutput, GenerateOutput, TextResult
from vedcore.processing.processor import Batch, Processor

if TYPE_CHECKING:
    from vedcore.generation.logits import PrefixFunction
    from vedcore.generation.logits import Processor as LogitsProcessor
    from vedcore.generation.streaming import Streamer

__all__ = ["GenerationMixin"]


class GenerationMixin(nn.Module):
    """`generate`, `generate_text` and `stream`, for a model that has what is declared here."""

    encoder: VisionEncoder
    decoder: TextDecoder
    processor: Processor
    token_ids: TokenIds
    generation_config: GenerationConfig

    if TYPE_CHECKING:

        @property
        def device(self) -> torch.device:
            """Where the parameters are."""

        @property
        def dtype(self) -> torch.dtype:
            """The parameters' type."""

        def encode(
            self,
            pixel_values: Tensor,
            encoder_attention_mask: Tensor | None = None,
            output_attentions: bool = False,
            output_hidden_states: bool = False,
        ) -> EncoderOutput:
            """Images (N, 3, H, W) to encoder states."""

        def _project(self, encoded: EncoderOutput, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
            """Encoder states as the decoder takes them, (N, S', E), and their mask (N, S') or None."""

        def _check_states(self, states: Tensor) -> None:
            """Refuse states that are not the encoder's."""

        def _required(self, role: Literal["start", "pad"], ids: TokenIds) -> int:
            """The id of that role, which must be there."""

    def generate(
        self,
        pixel_values: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutput | Sequence[Any] | None = None,
        encoder_attention_mask: Tensor | None = None,
        logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None,
        stopping_criteria: StoppingCriterion | Sequence[StoppingCriterion] | None = None,
        prefix_allowed_tokens_fn: PrefixFunction | None = None,
        assistant_model: GenerationMixin | None = None,
        streamer: Streamer | None = None,
        **options: Any,
    ) -> Tensor | GenerateOutput:
        """Token ids of a text for each image.

        Dropout is off while this runs, whatever mode the model is in.

        Args:
            pixel_values: (N, 3, H, W), prepared as ``model.processor`` does.
            generation_config: settings in place of ``model.generation_config``.
            decoder_input_ids: (N, T) how every text starts; the start id where it is not given.
            decoder_attention_mask: (N, T) 0 or False where that start is padded at the left.
            encoder_outputs: what `encode` gave, in place of ``pixel_values``.
            encoder_attention_mask: (N, S) 0 or False marks tokens that show only padding of the image.
            logits_processor: one or several of ``(input_ids (B, L), scores (B, V)) -> scores (B, V)``, called after
                those that the options mean, and before those that sampling does.
            stopping_criteria: one or several of ``(input_ids (B, L), scores) -> (B,) bool``, True where a row is done;
                ``scores`` is a tuple of those so far with ``output_scores=True``, else None. With guesses it gets one
                row at a time, and so do processors.
            prefix_allowed_tokens_fn: ``(number of the image, ids (L,) of a row so far) -> ids that may follow``.
            assistant_model: a smaller model with the same vocabulary, which guesses the next tokens for this one to
                check; the texts stay the same. It encodes the images itself; given ``encoder_outputs``, it takes them.
            streamer: gets the ids as they come; of one image under beams or with guesses.
            options: fields of `GenerationConfig`, by transformers' names, for this call.

        Returns:
            (N * num_return_sequences, L) ids with the start id first, padded behind their ends; with
            ``return_dict_in_generate=True`` a `GenerateOutput`.

        Raises:
            UsageError: an unknown option, or options that contradict each other.
            GenerationError: a prompt that leaves no position; `NonFiniteError` for NaN in the logits.
        """
        config = self._options(generation_config, options)
        check_streamer(streamer)
        out = self._written(
            config,
            assistant_model,
            streamer,
            pixel_values=pixel_values,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            encoder_attention_mask=encoder_attention_mask,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
        )
        return out if config.return_dict_in_generate else out.sequences

    @torch.no_grad()
    def _written(
        self, config: GenerationConfig, assistant: GenerationMixin | None, streamer: Streamer | None, **given: Any
    ) -> GenerateOutput:
        """What `generate` does; ``given`` is what `_prepared` takes."""
        self._check_assistant(assistant, config)
        with _eval_mode(self, assistant, compiled=config.compile):
            state, request, encoded = self._prepared(config, **given)
            drafter = _drafter(assistant, request, given["pixel_values"], encoded, given["encoder_attention_mask"])
            encoded = replace(encoded, last_hidden_state=encoded.last_hidden_state.new_empty(0))  # not kept alive
            out = search(state, request, streamer, drafter)
        copies = config.num_beams if config.num_beams > 1 else config.num_return_sequences
        return with_inner_states(out, state, encoded, request.rows(copies))

    def _options(self, config: GenerationConfig | None, options: dict[str, Any]) -> GenerationConfig:
        if config is not None and not isinstance(config, GenerationConfig):
            raise UsageError(
                f"GenerationConfig expected, got {type(config).__name__}",
                field="generation_config",
                hint="give its fields as keywords: num_beams=4",
            )
        return (config or self.generation_config).with_options(**options)

    def _check_assistant(self, assistant: object, config: GenerationConfig) -> None:
        if assistant is None:
            if config.prompt_lookup_num_tokens is not None:
                check_assistable(config, "prompt_lookup_num_tokens")
            return
        if not isinstance(assistant, GenerationMixin):
            raise UsageError(
                f"a model expected, got {type(assistant).__name__}",
                field="assistant_model",
                hint="give what vedcore.load or vedcore.compose gave",
            )
        check_assistable(config, "assistant_model")
        if config.prompt_lookup_num_tokens is not None:
            raise UsageError(
                f"contradicts prompt_lookup_num_tokens={config.prompt_lookup_num_tokens}",
                field="assistant_model",
                hint="leave out one of them",
            )
        mine, other = self.decoder.vocab_size, assistant.decoder.vocab_size
        if mine != other:
            raise IncompatibleError(
                f"its vocabulary has {other} tokens, this model's {mine}",
                field="assistant_model",
                hint="give a model with the same tokenizer",
            )

    def _prepared(
        self,
        config: GenerationConfig,
        pixel_values: Tensor | None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutput | Sequence[Any] | None = None,
        encoder_attention_mask: Tensor | None = None,
        logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None,
        stopping_criteria: StoppingCriterion | Sequence[StoppingCriterion] | None = None,
        prefix_allowed_tokens_fn: PrefixFunction | None = None,
        first: int = 0,
    ) -> tuple[DecodingState, Request, EncoderOutput]:
        """All that a search needs; everything is checked before the encoder runs."""
        ids = config.token_ids(self.token_ids, self.decoder.vocab_size)
        check_tensors(encoder_attention_mask=encoder_attention_mask)
        if (pixel_values is None) == (encoder_outputs is None):
            raise UsageError(
                "give either pixel_values or encoder_outputs, and not both",
                field="pixel_values",
                hint="encoder_outputs come from model.encode",
            )
        if pixel_values is not None:
            check_pixels(pixel_values)
        encoded = as_encoder_output(encoder_outputs)
        if encoded is not None:
            self._check_states(encoded.last_hidden_state)
        images = len(pixel_values if encoded is None else encoded.last_hidden_state)  # type: ignore[arg-type]
        starts = config.start_ids(self._required("start", ids), images) if decoder_input_ids is None else None
        prompts, prompt_mask = prompt_ids(decoder_input_ids, decoder_attention_mask, starts)
        if len(prompts) != images:
            raise UsageError(
                f"{len(prompts)} prompts for {images} images", field="decoder_input_ids", hint="give one for each image"
            )
        processors = as_functions("logits_processor", logits_processor)
        criteria = as_functions("stopping_criteria", stopping_criteria)
        as_functions("prefix_allowed_tokens_fn", prefix_allowed_tokens_fn)
        limits = config.limits(prompts.shape[1], self.decoder.max_positions)
        tokenizer = self.processor.tokenizer
        request = Request(
            prompts.to(self.device),
            config,
            ids,
            limits,
            None if prompt_mask is None else prompt_mask.to(self.device),
            logits_processor=processors,
            stopping_criteria=criteria,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            text_of=None if tokenizer is None else partial(self.processor.decode, skip_special_tokens=False),
            constraint=constraint_of(tokenizer, config, ids.eos, self.decoder.vocab_size),
            first=first,
        )
        attentions, hidden = config.output_attentions, config.output_hidden_states
        if encoded is None:
            assert pixel_values is not None
            encoded = self.encode(pixel_values, encoder_attention_mask, attentions, hidden)
        states, mask = self._project(encoded, encoder_attention_mask)
        room = limits.max_length - (not config.penalty_alpha)  # a last token is not read, but by contrastive search
        state = DecodingState(
            self.decoder,
            states,
            mask,
            request.attention_mask,
            room,
            config.use_cache,
            output_attentions=attentions,
            output_hidden_states=hidden,
            compiled=config.compile,
        )
        return state, request, encoded

    def stream(
        self,
        image: Any,
        *,
        prompt: str | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None,
        stopping_criteria: StoppingCriterion | Sequence[StoppingCriterion] | None = None,
        prefix_allowed_tokens_fn: PrefixFunction | None = None,
        assistant_model: GenerationMixin | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """The text in, or about, one image, piece by piece as it is written: ``for piece in model.stream(image)``.

        The pieces make up exactly the text of `generate_text`. A character comes once it is whole; under beams, once
        all that may still win agree on it. Nothing runs ahead of what is taken; the model is in eval mode meanwhile.

        Args:
            image: a path, bytes, PIL image, array or tensor, or pixels (1, 3, H, W) as ``model.processor`` makes them.
            prompt: as `generate_text` takes it.
            generation_config: as `generate` takes it, and all that follows.

        Raises:
            ImageError: no image.
            UsageError: options as in `generate`; more than one text; the model has no tokenizer.
        """
        config = self._options(generation_config, options)
        if config.num_return_sequences > 1:
            raise UsageError(
                f"{config.num_return_sequences} texts cannot be one stream",
                field="num_return_sequences",
                hint="pass 1, or call generate with streamer=",
            )
        spoiler = require_tokenizer(self.processor).token_to_id("<0xFF>")  # no character has this byte
        batch = self._batch(image if isinstance(image, Tensor) and image.ndim == 4 else [image])
        if (count := len(batch["pixel_values"])) > 1:
            raise UsageError(f"{count} images cannot be one stream", field="image", hint="call stream for each")
        self._check_assistant(assistant_model, config)
        with torch.no_grad(), _eval_mode(self, assistant_model, compiled=config.compile):
            state, request, encoded = self._prepared(
                config,
                batch["pixel_values"],
                self._prompts(prompt, config, 1),
                encoder_attention_mask=batch.get("encoder_attention_mask"),
                logits_processor=logits_processor,
                stopping_criteria=stopping_criteria,
                prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            )
            mask = batch.get("encoder_attention_mask")
            drafter = _drafter(assistant_model, request, batch["pixel_values"], encoded, mask)
        tokens = stream(state, request, drafter)

        def pieces() -> Iterator[str]:
            with _eval_mode(self, assistant_model, compiled=config.compile):
                yield from text_pieces(tokens, request.input_ids[0].tolist(), self.processor.decode, spoiler)

        return pieces()

    def generate_text(
        self,
        images: Any,
        *,
        batch_size: int = 8,
        prompt: str | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None,
        stopping_criteria: StoppingCriterion | Sequence[StoppingCriterion] | None = None,
        prefix_allowed_tokens_fn: PrefixFunction | None = None,
        assistant_model: GenerationMixin | None = None,
        **options: Any,
    ) -> list[TextResult]:
        """The text in, or about, each image.

        Args:
            images: a path, bytes, PIL image, array or tensor, or a list of them; see `vedcore.processing`.
            batch_size: images that go through the model together.
            prompt: what every text starts with. Names of special tokens in it are those tokens; one that does not begin
                with such a name stands behind the start id.
            generation_config: as `generate` takes it, and all that follows; ``prefix_allowed_tokens_fn`` gets the
                number of the image among all of them.

        Returns:
            One result an image, or ``num_return_sequences`` of them side by side.

        Raises:
            ImageError: naming the image that cannot be read.
            UsageError: the model has no tokenizer.
        """
        require_tokenizer(self.processor)
        as_functions("prefix_allowed_tokens_fn", prefix_allowed_tokens_fn)
        config = self._options(generation_config, options)
        eos = config.token_ids(self.token_ids, self.decoder.vocab_size).eos
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UsageError(f"batches of {batch_size!r}", field="batch_size", hint="give 1 or more")
        sources = list(images) if isinstance(images, (list, tuple)) else [images]
        prompts = self._prompts(prompt, config, len(sources))
        results: list[TextResult] = []
        for at in range(0, len(sources), batch_size):
            batch = self._batch(sources[at : at + batch_size])
            out = self._written(
                config,
                assistant_model,
                None,
                first=at,
                pixel_values=batch["pixel_values"],
                encoder_attention_mask=batch.get("encoder_attention_mask"),
                decoder_input_ids=prompts[at : at + batch_size],
                logits_processor=logits_processor,
                stopping_criteria=stopping_criteria,
                prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            )
            results.extend(text_results(out, self.processor, eos))
        return results

    def _batch(self, images: Any) -> Batch:
        """Pixels and mask on the model's device."""
        batch = Batch(pixel_values=images) if isinstance(images, Tensor) else self.processor(images=images)
        return batch.to(self.device)

    def _prompts(self, prompt: str | None, config: GenerationConfig, images: int) -> Tensor:
        """(N, T) ids that the texts start with."""
        ids = config.token_ids(self.token_ids, self.decoder.vocab_size)
        if prompt is not None:
            return encode_prompt(self.processor, prompt, ids.start).expand(images, -1)
        return torch.tensor(config.start_ids(self._required("start", ids), images))[:, None]

    def optimize_for_inference(self, dtype: str | torch.dtype | None = None) -> Self:
        """Put the model into eval mode and lay its weights out for speed, as the first `generate` does by itself.

        On CPUs where it makes them faster, linear layers hold their weights in blocks, in place of the
        plain ones; only weights that two modules share (an output layer tied to the embedding) are then there twice.
        Whoever looks at a weight, and `train`, gets the plain one back.

        Args:
            dtype: the type to change the parameters to, such as ``"bfloat16"``; None leaves it.

        Raises:
            UsageError: no type of weights.
        """
        if (type_ := torch_dtype(dtype)) not in (None, self.dtype):
            self.to(type_)
        self.eval()
        pack(self)
        return self


def _drafter(
    assistant: GenerationMixin | None,
    request: Request,
    pixel_values: Tensor | None,
    encoded: EncoderOutput,
    mask: Tensor | None,
) -> DraftModel | None:
    """What guesses for ``request`` with another model: from the pixels where there are some, else from ``encoded``."""
    if assistant is None:
        return None
    own = encoded if pixel_values is None else assistant.encode(pixel_values, mask)
    states, states_mask = assistant._project(own, mask)
    limit, use_cache = request.limits.max_length, request.options.use_cache
    state = DecodingState(assistant.decoder, states, states_mask, request.attention_mask, limit, use_cache)
    return DraftModel(state, request)


@contextlib.contextmanager
def _eval_mode(*models: GenerationMixin | None, compiled: bool) -> Iterator[None]:
    """Eval mode for a while; a model that is in it anyway has its weights packed, unless what runs is compiled."""
    there = [model for model in models if model is not None]
    training = [module for model in there for module in model.modules() if module.training]
    ready = [unpacked(model) if compiled else packed(model) for model in there if not model.training]
    for module in training:
        module.training = False
    try:
        with contextlib.ExitStack() as stack:
            for context in ready:
                stack.enter_context(context)
            yield
    finally:
        for module in training:
            module.training = True
