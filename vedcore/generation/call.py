"""One call of `generate` and its relatives: options and functions resolved once, then a state and a request a batch.

Shape letters: N images, S encoder tokens, T prompt tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vedcore.config import TokenIds
from vedcore.errors import IncompatibleError, UsageError
from vedcore.generation.arguments import (
    as_cache,
    as_encoder_output,
    as_functions,
    check_cache,
    check_pixels,
    check_tensors,
    prompt_ids,
)
from vedcore.generation.constraints.token_automaton import TokenAutomaton
from vedcore.generation.options.config import GenerationConfig
from vedcore.generation.options.strategies import check_assisted
from vedcore.generation.own_criteria import OwnCriteria, warn_of_replaced
from vedcore.generation.processors.logits import LogitsProcessor, PrefixFunction
from vedcore.generation.protocol import ImageToTextModel
from vedcore.generation.request import Request, StoppingCriterion
from vedcore.generation.results import constraint_of, encode_prompt, with_inner_states
from vedcore.generation.search.assisted.drafters import DraftModel
from vedcore.generation.search.dispatch import search
from vedcore.generation.state import DecodingState
from vedcore.generation.streaming import Streamer
from vedcore.layers.cache import DecoderCache
from vedcore.layers.sharing import Hold
from vedcore.outputs import EncoderOutput, GenerateOutput

__all__ = ["Call"]


@dataclass(frozen=True)
class Call:
    """The options of one call, checked and resolved once for all of its batches."""

    model: ImageToTextModel
    assistant: ImageToTextModel | None
    options: GenerationConfig
    token_ids: TokenIds
    constraint: TokenAutomaton | None
    logits_processor: tuple[LogitsProcessor, ...]
    own_criteria: OwnCriteria
    prefix_allowed_tokens_fn: PrefixFunction | None
    tokenizer: Any
    """The caller's, where the model has none."""
    interpolate_pos_encoding: bool

    @property
    def text_of(self) -> Callable[[Sequence[int]], str] | None:
        """Ids to text, special tokens too; None without a tokenizer."""
        processor = self.model.processor
        source = self.tokenizer if processor.tokenizer is None else processor
        return None if source is None else partial(source.decode, skip_special_tokens=False)

    @classmethod
    def of(
        cls,
        model: ImageToTextModel,
        generation_config: Any,
        options: dict[str, Any],
        *,
        logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None,
        stopping_criteria: StoppingCriterion | Sequence[StoppingCriterion] | None,
        prefix_allowed_tokens_fn: PrefixFunction | None,
        assistant_model: ImageToTextModel | None,
        tokenizer: Any = None,
        interpolate_pos_encoding: bool = False,
    ) -> Call:
        """The call that the arguments mean, before any work."""
        base = model.generation_config
        if generation_config is not None:
            base = model.as_generation_config(generation_config)
        if assistant_model is not None:
            options = {"draft": None, **options}  # the model's own default gives way
        config = base.with_options(**options)
        _check_assistant(model, assistant_model, config)
        vocab_size = model.decoder.vocab_size
        token_ids = config.token_ids(model.token_ids, vocab_size)
        if tokenizer is not None and not callable(getattr(tokenizer, "decode", None)):
            message = f"{type(tokenizer).__name__} does not decode ids"
            raise UsageError(message, field="tokenizer", hint="give a tokenizer, or leave it out")
        processors = as_functions("logits_processor", logits_processor)
        own_criteria = OwnCriteria.of(config, token_ids, as_functions("stopping_criteria", stopping_criteria))
        warn_of_replaced(config, own_criteria, processors, prefix_allowed_tokens_fn)
        return cls(
            model,
            assistant_model,
            own_criteria.options,
            token_ids,
            constraint_of(model.processor.tokenizer, config, token_ids.eos, vocab_size),
            processors,
            own_criteria,
            prefix_allowed_tokens_fn,
            tokenizer,
            interpolate_pos_encoding,
        )

    @contextlib.contextmanager
    def inference(self) -> Iterator[list[Hold]]:
        """Both models ready for inference for a while, and held."""
        models = [self.model] if self.assistant in (None, self.model) else [self.model, self.assistant]
        with contextlib.ExitStack() as stack:
            compiled = self.options.compile
            in_order = sorted((model for model in models if model is not None), key=id)  # so that two calls never cross
            yield [stack.enter_context(model.ready_for_inference(compiled)) for model in in_order]

    def prompts(self, prompt: str | None, images: int, untrusted: bool = False) -> Tensor:
        """(N, T) ids of the prompt, or the start id, for each image."""
        if prompt is not None:
            return encode_prompt(self.model.processor, prompt, self.token_ids.start, untrusted).expand(images, -1)
        return torch.tensor(self.options.start_ids(self.token_ids.required("start"), images))[:, None]

    def from_start(self, ids: Tensor | None, mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The caller's prompts (N, T) and their mask, behind the start id where none of them begins with it."""
        if ids is None or self.token_ids.start is None or self.model.takes_task_prompts:
            return ids, mask
        ids, mask = prompt_ids(ids, mask)
        starts = ids.new_tensor(self.options.start_ids(self.token_ids.start, len(ids)))[:, None]
        if bool((ids[:, :1] == starts).any()):
            return ids, mask
        return torch.cat([starts, ids], 1), None if mask is None else torch.cat([torch.ones_like(mask[:, :1]), mask], 1)

    @torch.no_grad()
    def write(
        self,
        pixel_values: Tensor | None,
        encoder_attention_mask: Tensor | None,
        streamer: Streamer | None = None,
        **begin: Any,
    ) -> GenerateOutput:
        """The texts of some images; ``begin`` as the method of that name takes it."""
        with self.inference():
            state, request, encoded = self.begin(pixel_values, encoder_attention_mask, **begin)
            out = search(state, request, streamer)
        rows = request.rows(self.options.rows_per_prompt)
        return with_inner_states(
            out, state, encoded, rows, request.keeps_cache and self.options.return_dict_in_generate
        )

    def begin(
        self,
        pixel_values: Tensor | None,
        encoder_attention_mask: Tensor | None,
        *,
        encoder_outputs: EncoderOutput | Sequence[Any] | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        past_key_values: DecoderCache | None = None,
        returns_cache: bool = False,
        first: int = 0,
    ) -> tuple[DecodingState, Request, EncoderOutput]:
        """All that a search needs of some images, number ``first`` the first; checked before the encoder runs.

        Returns:
            A fresh state, the request, and what the encoder recorded, without its last states.
        """
        model, options = self.model, self.options
        check_tensors(encoder_attention_mask=encoder_attention_mask)
        past_key_values = as_cache(past_key_values)
        cached = past_key_values is not None and past_key_values.length > 0
        given = (pixel_values is not None) + (encoder_outputs is not None)
        if given == 2 or (not given and not cached):
            raise UsageError(
                "give either pixel_values or encoder_outputs, and not both",
                field="pixel_values",
                hint="encoder_outputs come from model.encode",
            )
        encoded = as_encoder_output(encoder_outputs)
        projected = None if encoded is None else model.project(encoded, encoder_attention_mask)
        if pixel_values is not None:
            check_pixels(pixel_values, model.num_channels)
        images = len(projected[0]) if projected is not None else 0 if pixel_values is None else len(pixel_values)
        if decoder_input_ids is None:
            decoder_input_ids = self.prompts(None, images or 1)
        prompts, prompt_mask = prompt_ids(decoder_input_ids, decoder_attention_mask)
        if past_key_values is not None:
            self._check_cache(past_key_values, prompts)
        if len(prompts) != images and given:
            raise UsageError(
                f"{len(prompts)} prompts for {images} images", field="decoder_input_ids", hint="give one for each image"
            )
        limits, forced_length = self.own_criteria.limits(prompts.shape[1], model.decoder.max_positions)
        strategy = options.strategy(assisted=self.assistant is not None)
        request = Request(
            prompts.to(model.device),
            options,
            self.token_ids,
            limits,
            None if prompt_mask is None else prompt_mask.to(model.device),
            logits_processor=self.logits_processor,
            stopping_criteria=self.own_criteria.criteria,
            prefix_allowed_tokens_fn=self.prefix_allowed_tokens_fn,
            text_of=self.text_of,
            constraint=self.constraint,
            first=first,
            keeps_cache=past_key_values is not None or (returns_cache and strategy.takes_cache),
            stop_ids=self.own_criteria.stop_ids,
            forced_length=forced_length,
        )
        attentions, hidden = options.output_attentions, options.output_hidden_states
        if cached and not (given and (attentions or hidden)):  # the cache has what the decoder reads of the images
            projected = torch.empty(len(prompts), 0, model.decoder.cross_attention_size, device=model.device), None
            encoded = encoded or EncoderOutput(projected[0])
        elif encoded is None:
            assert pixel_values is not None
            encoded = model.run_encoder(
                pixel_values, encoder_attention_mask, attentions, hidden, self.interpolate_pos_encoding
            )
            projected = model.project(encoded, encoder_attention_mask)
        assert projected is not None
        state = DecodingState(
            model.decoder,
            *projected,
            request.attention_mask,
            limits.max_length - (not request.strategy.reads_last_token),
            options.use_cache,
            output_attentions=attentions,
            output_hidden_states=hidden,
            compiled=options.compile,
            cache=past_key_values,
        )
        if self.assistant is not None:
            own = encoded
            if pixel_values is not None:
                own = self.assistant.run_encoder(
                    pixel_values, encoder_attention_mask, interpolate_pos_encoding=self.interpolate_pos_encoding
                )
            request = replace(request, drafter=self._drafter(request, own, encoder_attention_mask))
        return state, request, replace(encoded, last_hidden_state=encoded.last_hidden_state.new_empty(0))

    def _check_cache(self, cache: DecoderCache, prompts: Tensor) -> None:
        strategy = self.options.strategy(assisted=self.assistant is not None)
        if not self.options.use_cache:
            hint = "pass use_cache=True, or leave it out"
            raise UsageError("contradicts use_cache=False", field="past_key_values", hint=hint)
        if not strategy.takes_cache:
            message = f"{strategy.name} does not go on with a cache"
            raise UsageError(message, field="past_key_values", hint="leave it out")
        check_cache(cache, self.model.decoder, prompts)

    def _drafter(self, request: Request, encoded: EncoderOutput, mask: Tensor | None) -> DraftModel:
        """The assistant over its own encoder states of the images."""
        assert self.assistant is not None
        decoder, options = self.assistant.decoder, self.options
        projected = self.assistant.project(encoded, mask)
        state = DecodingState(decoder, *projected, request.attention_mask, request.limits.max_length, options.use_cache)
        return DraftModel(state, request)


def _check_assistant(model: ImageToTextModel, assistant: object, config: GenerationConfig) -> None:
    if assistant is None:
        if config.prompt_lookup_num_tokens is not None:
            check_assisted(dict(config), "prompt_lookup_num_tokens")
        return
    decoder = getattr(assistant, "decoder", None)
    if decoder is None or not hasattr(assistant, "run_encoder"):
        raise UsageError(
            f"a model expected, got {type(assistant).__name__}",
            field="assistant_model",
            hint="give what vedcore.load or vedcore.compose gave",
        )
    check_assisted(dict(config), "assistant_model")
    if config.prompt_lookup_num_tokens is not None:
        raise UsageError(
            f"contradicts prompt_lookup_num_tokens={config.prompt_lookup_num_tokens}",
            field="assistant_model",
            hint="pass prompt_lookup_num_tokens=None, or leave it out",
        )
    if config.draft is not None:
        message = f"contradicts draft={config.draft!r}"
        raise UsageError(message, field="assistant_model", hint="pass draft=None, or leave it out")
    if decoder.vocab_size != model.decoder.vocab_size:
        raise IncompatibleError(
            f"its vocabulary has {decoder.vocab_size} tokens, this model's {model.decoder.vocab_size}",
            field="assistant_model",
            hint="give a model with the same tokenizer",
        )
