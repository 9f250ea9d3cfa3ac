"""`generate`, `generate_text` and `stream`: from images to ids, to texts, and to a text piece by piece.

Shape letters: N images, B rows of text (N times the captions or beams of an image), C channels, H x W pixels, S encoder
tokens, T prompt tokens, L tokens of a text so far, V vocabulary size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from vedcore.config import TokenIds
from vedcore.errors import GenerationError, ImageError, IncompatibleError, UsageError, VedcoreError
from vedcore.generation.arguments import (
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
from vedcore.generation.results import constraint_of, encode_prompt, require_tokenizer, text_results, with_inner_states
from vedcore.generation.search.assisted.drafters import DraftModel
from vedcore.generation.search.dispatch import search
from vedcore.generation.search.dispatch import stream as stream_tokens
from vedcore.generation.state import DecodingState
from vedcore.generation.streaming import Streamer, check_streamer, text_pieces
from vedcore.layers.cache import DecoderCache
from vedcore.outputs import EncoderOutput, GenerateOutput, TextResult
from vedcore.processing.pages import Pages
from vedcore.processing.processor import Batch, Processor
from vedcore.processing.reader import ImageReader

__all__ = ["generate", "generate_text", "stream"]


def generate(
    model: ImageToTextModel,
    pixel_values: Tensor | None = None,
    generation_config: Any = None,
    *,
    inputs: Tensor | None = None,
    decoder_input_ids: Tensor | None = None,
    decoder_attention_mask: Tensor | None = None,
    encoder_outputs: EncoderOutput | Sequence[Any] | None = None,
    encoder_attention_mask: Tensor | None = None,
    past_key_values: DecoderCache | None = None,
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None,
    stopping_criteria: StoppingCriterion | Sequence[StoppingCriterion] | None = None,
    prefix_allowed_tokens_fn: PrefixFunction | None = None,
    assistant_model: ImageToTextModel | None = None,
    streamer: Streamer | None = None,
    tokenizer: Any = None,
    interpolate_pos_encoding: bool = False,
    **options: Any,
) -> Tensor | GenerateOutput:
    """Token ids of a text for each image.

    Dropout is off meanwhile, whatever mode the model is in.

    Args:
        model: writes the text.
        pixel_values: (N, C, H, W), prepared as ``model.processor`` does.
        generation_config: settings in place of ``model.generation_config``; or transformers' object, over them.
        inputs: transformers' other name of ``pixel_values``.
        decoder_input_ids: (N, T) the start of each text; the start id by default. Where no row begins with the start
            id, it is put before them, but not where ``model.takes_task_prompts``.
        decoder_attention_mask: (N, T) 0 or False where no token may attend. Padding at the left takes no position; a
            masked token behind a text's first one does.
        encoder_outputs: the output of ``model.encode``, in place of ``pixel_values``.
        encoder_attention_mask: (N, S) 0 or False marks tokens that show only padding of the image.
        past_key_values: the cache of earlier tokens of ``decoder_input_ids``, which are the whole text so far; only
            the others are read. It is extended in place. Images are not needed then.
        logits_processor: one or several of ``(input_ids (B, L), scores (B, V)) -> scores (B, V)``, called after
            those of the options, and before those that sampling adds.
        stopping_criteria: one or several of ``(input_ids (B, L), scores) -> (B,) bool``, True where a row is done;
            ``scores`` is a tuple of those so far with ``output_scores=True``, else None. In assisted decoding it gets
            one row at a time, and so do processors. A criterion or processor of a class of transformers' that an option
            makes too takes the place of the option's.
        prefix_allowed_tokens_fn: ``(number of the image, ids (L,) of a row so far) -> ids that may follow``.
        assistant_model: a smaller model with the same vocabulary, which guesses the next tokens for this one to
            check; the texts stay the same. It encodes the images itself; given ``encoder_outputs``, it takes them.
        streamer: gets the ids as they come; of one image under beams or in assisted decoding.
        tokenizer: makes text of ids for ``stop_strings``, where the model has no tokenizer of its own.
        interpolate_pos_encoding: take images of another size than the encoder's own; its positions are resampled for
            this call.
        options: fields of `GenerationConfig`, by transformers' names, for this call.

    Returns:
        (N * num_return_sequences, L) ids with the start id first, padded behind their ends; with
        ``return_dict_in_generate=True`` a `GenerateOutput`.

    Raises:
        UsageError: an unknown option, options that contradict each other, a cache that does not fit.
        GenerationError: a prompt that leaves no position; `NonFiniteError` for NaN in the logits.

    Warns:
        UserWarning: options without effect, or whose place an argument takes.
    """
    check_streamer(streamer)
    if inputs is not None:
        if pixel_values is not None:
            raise UsageError("contradicts pixel_values", field="inputs", hint="give the images once")
        pixel_values = inputs
    call = _Call.of(
        model,
        generation_config,
        options,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
        assistant_model=assistant_model,
        tokenizer=tokenizer,
        interpolate_pos_encoding=interpolate_pos_encoding,
    )
    decoder_input_ids, decoder_attention_mask = call.from_start(decoder_input_ids, decoder_attention_mask)
    out = call.write(
        pixel_values,
        encoder_attention_mask,
        encoder_outputs=encoder_outputs,
        decoder_input_ids=decoder_input_ids,
        decoder_attention_mask=decoder_attention_mask,
        past_key_values=past_key_values,
        returns_cache=call.options.return_dict_in_generate and call.options.use_cache,
        streamer=streamer,
    )
    return out if call.options.return_dict_in_generate else out.sequences


def stream(
    model: ImageToTextModel,
    image: Any,
    *,
    pages: Pages | None = None,
    dpi: float | None = None,
    skip_special_tokens: bool = True,
    prompt: str | None = None,
    untrusted: bool = False,
    generation_config: Any = None,
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None,
    stopping_criteria: StoppingCriterion | Sequence[StoppingCriterion] | None = None,
    prefix_allowed_tokens_fn: PrefixFunction | None = None,
    assistant_model: ImageToTextModel | None = None,
    interpolate_pos_encoding: bool = False,
    **options: Any,
) -> Iterator[str]:
    """The text in, or about, one image, piece by piece as it is written: ``for piece in model.stream(image)``.

    The pieces join to exactly the text of `generate_text`. A character comes once it is whole; under beams, once all
    hypotheses that may still win agree on it. Nothing runs ahead of the caller; the model is in eval mode meanwhile.

    Args:
        model: writes the text.
        image: a path, bytes, PIL image, array or tensor, or pixels (1, C, H, W) as ``model.processor`` makes them.
        pages: the page to read of a file of several.
        dpi: as `generate_text` takes it.
        skip_special_tokens: as `generate_text` takes it.
        prompt: as `generate_text` takes it.
        untrusted: see `generate_text`.
        generation_config: as `generate` takes it, like all that follows.
        logits_processor: see `generate`.
        stopping_criteria: see `generate`.
        prefix_allowed_tokens_fn: see `generate`.
        assistant_model: see `generate`.
        interpolate_pos_encoding: see `generate`.
        options: see `generate`.

    Raises:
        ImageError: not an image, or a page that is not there.
        UsageError: options as in `generate`; more than one text or page; the model has no tokenizer.
    """
    call = _Call.of(
        model,
        generation_config,
        options,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
        assistant_model=assistant_model,
        interpolate_pos_encoding=interpolate_pos_encoding,
    )
    if call.options.num_return_sequences > 1:
        raise UsageError(
            f"{call.options.num_return_sequences} texts cannot be one stream",
            field="num_return_sequences",
            hint="pass 1, or call generate with streamer=",
        )
    probe_id = require_tokenizer(model.processor).token_to_id("<0xFF>")  # no character has this byte
    batch = _one_image(model.processor, image, pages, dpi).to(model.device)
    with torch.no_grad(), call.inference():
        state, request, _ = call.begin(
            batch["pixel_values"],
            batch.get("encoder_attention_mask"),
            decoder_input_ids=call.prompts(prompt, 1, untrusted),
        )
    tokens = stream_tokens(state, request)

    def pieces() -> Iterator[str]:
        with call.inference():
            text_of = partial(model.processor.decode, skip_special_tokens=skip_special_tokens)
            yield from text_pieces(tokens, request.input_ids[0].tolist(), text_of, probe_id)

    return pieces()


def _one_image(processor: Processor, image: Any, pages: Pages | None, dpi: float | None) -> Batch:
    """The only image of a stream."""
    if isinstance(image, Tensor) and image.ndim == 4:
        if len(image) > 1:
            raise UsageError(f"{len(image)} images cannot be one stream", field="image", hint="call stream for each")
        return Batch(pixel_values=image)
    with processor.open_images([image], pages=pages, dpi=dpi) as reader:
        if len(reader.places) > 1:
            hint = f"choose one: pages={reader.places[0].page}, or --pages {reader.places[0].page} in a shell"
            raise UsageError(f"{len(reader.places)} pages cannot be one stream", field="image", hint=hint)
        return processor.batch_of([processor.pixels_at(reader, reader.places[0])])


def generate_text(
    model: ImageToTextModel,
    images: Any,
    *,
    pages: Pages | None = None,
    dpi: float | None = None,
    batch_size: int = 8,
    on_error: Literal["raise", "return"] = "raise",
    skip_special_tokens: bool = True,
    prompt: str | None = None,
    untrusted: bool = False,
    generation_config: Any = None,
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None,
    stopping_criteria: StoppingCriterion | Sequence[StoppingCriterion] | None = None,
    prefix_allowed_tokens_fn: PrefixFunction | None = None,
    assistant_model: ImageToTextModel | None = None,
    interpolate_pos_encoding: bool = False,
    **options: Any,
) -> list[TextResult]:
    """The text in, or about, each image; all pages of a TIFF and of a PDF are images.

    Args:
        model: writes the text.
        images: a path, bytes, PIL image, array or tensor, or a list of them; see `vedcore.processing`.
        pages: the pages to read of each of them, such as ``2``, ``"1-3"``, ``"1,4-"`` or ``range(1, 4)``; all by
            default.
        dpi: pixels an inch of a page of a PDF; by default 200, or fewer on a large page.
        batch_size: images that go through the model together.
        on_error: ``"return"`` gives an image that cannot be read or written about a result with ``error`` in place of
            a text, and the others theirs.
        skip_special_tokens: False keeps them in the texts: the start id, the prompt's, and the end id; not the padding
            behind it, which depends on the other images.
        prompt: the start of every text. Names of special and added tokens in it are those tokens; one that does not
            begin with the name of a special token stands behind the start id.
        untrusted: spell out such names in the prompt, so that only their characters count.
        generation_config: as `generate` takes it, like all that follows.
        logits_processor: see `generate`.
        stopping_criteria: see `generate`.
        prefix_allowed_tokens_fn: see `generate`; gets the number of the image among all of them, where a page is one.
        assistant_model: see `generate`.
        interpolate_pos_encoding: see `generate`.
        options: see `generate`.

    Returns:
        One result an image or a page, or ``num_return_sequences`` of them side by side.

    Raises:
        ImageError: naming the image that cannot be read, or a page that is not there.
        UsageError: the model has no tokenizer.
    """
    require_tokenizer(model.processor)
    call = _Call.of(
        model,
        generation_config,
        options,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
        assistant_model=assistant_model,
        interpolate_pos_encoding=interpolate_pos_encoding,
    )
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UsageError(f"batches of {batch_size!r}", field="batch_size", hint="give 1 or more")
    if on_error not in ("raise", "return"):
        raise UsageError(f"{on_error!r} is unknown", field="on_error", hint="give 'raise' or 'return'")
    sources = images if isinstance(images, (list, tuple)) else [images]
    with model.processor.open_images(sources, pages=pages, dpi=dpi) as reader:
        prompts = call.prompts(prompt, len(reader.places), untrusted)
        texts = _Texts(call, reader, prompts, on_error == "return", skip_special_tokens)
        return [result for results in texts.batches(batch_size) for result in results]


class _Texts:
    """The texts of the images of a reader."""

    def __init__(
        self, call: _Call, reader: ImageReader, prompts: Tensor, return_errors: bool, skip_special_tokens: bool
    ) -> None:
        self.call = call
        self.reader = reader
        self.return_errors = return_errors
        self.skip_special_tokens = skip_special_tokens
        self.prompts = prompts
        call.options.limits(self.prompts.shape[1], call.model.decoder.max_positions)  # an error of all images
        unread = next((place.error for place in reader.places if place.error is not None), None)
        if unread is not None and not return_errors:
            raise unread

    def batches(self, size: int) -> Iterator[list[TextResult]]:
        """The results in order. Texts are written of images side by side, so that an unreadable one ends a batch."""
        pixels: list[Tensor] = []
        for number, place in enumerate(self.reader.places):
            try:
                pixels.append(self.call.model.processor.pixels_at(self.reader, place))
            except ImageError as error:
                if not self.return_errors:
                    raise
                if pixels:
                    yield self.write(number - len(pixels), pixels)
                    pixels = []
                yield self.failed(number, error)
            if len(pixels) == size:
                yield self.write(number + 1 - size, pixels)
                pixels = []
        if pixels:
            yield self.write(len(self.reader.places) - len(pixels), pixels)

    def write(self, first: int, pixels: list[Tensor]) -> list[TextResult]:
        """The results of the images from number ``first`` on."""
        call, last = self.call, first + len(pixels)
        batch = call.model.processor.batch_of(pixels).to(call.model.device)
        try:
            out = call.write(
                batch["pixel_values"],
                batch.get("encoder_attention_mask"),
                decoder_input_ids=self.prompts[first:last],
                first=first,
            )
        except GenerationError as error:
            if not self.return_errors:
                raise
            if len(pixels) == 1:
                return self.failed(first, error)
            return [result for number in range(first, last) for result in self.write(number, [pixels[number - first]])]
        results = text_results(out, call.model.processor, call.token_ids.eos, self.skip_special_tokens)
        each = len(results) // len(pixels)
        return [self.placed(first + row // each, result) for row, result in enumerate(results)]

    def failed(self, number: int, error: VedcoreError) -> list[TextResult]:
        """The results of an image without a text."""
        error.__context__ = error.__traceback__ = None  # which hold the images of the batch
        result = TextResult("", 0.0, (), "error", error=error)
        return [self.placed(number, result)] * self.call.options.num_return_sequences

    def placed(self, number: int, result: TextResult) -> TextResult:
        """The same result, with where its image comes from."""
        place = self.reader.places[number]
        return replace(result, source=place.source, page=place.page)


@dataclass(frozen=True)
class _Call:
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
    ) -> _Call:
        """The call that the arguments mean, before any work."""
        base = model.generation_config
        if generation_config is not None:
            base = model.as_generation_config(generation_config)
        config = base.with_options(**options)
        _check_assistant(model, assistant_model, config)
        vocab_size = model.decoder.vocab_size
        token_ids = config.token_ids(model.token_ids, vocab_size)
        as_functions("prefix_allowed_tokens_fn", prefix_allowed_tokens_fn)
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
    def inference(self) -> Iterator[None]:
        """Both models ready for inference for a while."""
        models = [self.model] if self.assistant in (None, self.model) else [self.model, self.assistant]
        with contextlib.ExitStack() as stack:
            for model in filter(None, models):
                stack.enter_context(model.ready_for_inference(compiled=self.options.compile))
            yield

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
        cached = isinstance(past_key_values, DecoderCache) and past_key_values.length > 0
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
            hint = "leave out one of them"
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
            hint="leave out one of them",
        )
    if decoder.vocab_size != model.decoder.vocab_size:
        raise IncompatibleError(
            f"its vocabulary has {decoder.vocab_size} tokens, this model's {model.decoder.vocab_size}",
            field="assistant_model",
            hint="give a model with the same tokenizer",
        )
