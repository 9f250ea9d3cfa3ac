"""`generate`, `generate_text` and `stream`: from images to ids, to texts, and to a text piece by piece.

Shape letters: N images, B rows of text (N times the captions or beams of an image), C channels, H x W pixels, S encoder
tokens, T prompt tokens, L tokens of a text so far, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from vedcore.errors import GenerationError, ImageError, UsageError, VedcoreError
from vedcore.generation.arguments import check_synced
from vedcore.generation.call import Call
from vedcore.generation.processors.logits import LogitsProcessor, PrefixFunction
from vedcore.generation.protocol import ImageToTextModel
from vedcore.generation.request import StoppingCriterion
from vedcore.generation.results import require_tokenizer, text_results
from vedcore.generation.search.dispatch import stream as stream_tokens
from vedcore.generation.streaming import Streamer, check_streamer, text_pieces
from vedcore.layers.cache import DecoderCache
from vedcore.layers.sharing import resting
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
    labels: Tensor | None = None,
    synced_gpus: bool | None = None,
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
        labels: have no part in it; Seq2SeqTrainer gives a whole batch.
        synced_gpus: whether processes go on until the last has ended, as weights that are spread over them need it:
            True is refused where there are several processes, or none that ``torch.distributed`` knows.
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
    if synced_gpus:
        check_synced()
    if inputs is not None:
        if pixel_values is not None:
            raise UsageError("contradicts pixel_values", field="inputs", hint="give the images once")
        pixel_values = inputs
    call = Call.of(
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
    call = Call.of(
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
            hint="pass 1, or take them whole: from generate_text, or without --stream in a shell",
        )
    probe_id = require_tokenizer(model.processor).token_to_id("<0xFF>")  # no character has this byte
    batch = _one_image(model.processor, image, pages, dpi).to(model.device)
    pieces = _pieces(call, batch, call.prompts(prompt, 1, untrusted), skip_special_tokens, probe_id)
    next(pieces)  # what is wrong with the arguments is said now; and what has begun also ends when it is dropped
    return pieces


def _pieces(
    call: Call, batch: Batch, prompts: Tensor, skip_special_tokens: bool, probe_id: int | None
) -> Iterator[str]:
    """An empty piece once the image is encoded, then the text of it. Others may not change the model until it ends."""
    with call.inference() as holds:
        with torch.no_grad():
            state, request, _ = call.begin(
                batch["pixel_values"], batch.get("encoder_attention_mask"), decoder_input_ids=prompts
            )
        tokens = stream_tokens(state, request)
        text_of = partial(call.model.processor.decode, skip_special_tokens=skip_special_tokens)
        with resting(holds):
            yield ""
        for piece in text_pieces(tokens, request.input_ids[0].tolist(), text_of, probe_id):
            with resting(holds):
                yield piece


def _one_image(processor: Processor, image: Any, pages: Pages | None, dpi: float | None) -> Batch:
    """The only image of a stream."""
    if isinstance(image, Tensor) and image.ndim == 4:
        if len(image) > 1:
            raise UsageError(f"{len(image)} images cannot be one stream", field="image", hint="call stream for each")
        return Batch(pixel_values=image)
    with processor.open_images([image], pages=pages, dpi=dpi) as reader:
        if len(reader.origins) > 1:
            hint = f"choose one: pages={reader.origins[0].page}, or --pages {reader.origins[0].page} in a shell"
            raise UsageError(f"{len(reader.origins)} pages cannot be one stream", field="image", hint=hint)
        return processor.batch_of([processor.pixels_at(reader, reader.origins[0])])


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
    call = Call.of(
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
        prompts = call.prompts(prompt, len(reader.origins), untrusted)
        texts = _Texts(call, reader, prompts, on_error == "return", skip_special_tokens)
        return [result for results in texts.batches(batch_size) for result in results]


class _Texts:
    """The texts of the images of a reader."""

    def __init__(
        self, call: Call, reader: ImageReader, prompts: Tensor, return_errors: bool, skip_special_tokens: bool
    ) -> None:
        self.call = call
        self.reader = reader
        self.return_errors = return_errors
        self.skip_special_tokens = skip_special_tokens
        self.prompts = prompts
        call.options.limits(self.prompts.shape[1], call.model.decoder.max_positions)  # an error of all images
        unread = next((origin.error for origin in reader.origins if origin.error is not None), None)
        if unread is not None and not return_errors:
            raise unread

    def batches(self, size: int) -> Iterator[list[TextResult]]:
        """The results in order. Texts are written of images side by side, so that an unreadable one ends a batch."""
        pixels: list[Tensor] = []
        for number, origin in enumerate(self.reader.origins):
            try:
                pixels.append(self.call.model.processor.pixels_at(self.reader, origin))
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
            yield self.write(len(self.reader.origins) - len(pixels), pixels)

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
        return [self.with_origin(first + row // each, result) for row, result in enumerate(results)]

    def failed(self, number: int, error: VedcoreError) -> list[TextResult]:
        """The results of an image without a text."""
        error.__context__ = error.__traceback__ = None  # which hold the images of the batch
        result = TextResult("", 0.0, (), "error", error=error)
        return [self.with_origin(number, result)] * self.call.options.num_return_sequences

    def with_origin(self, number: int, result: TextResult) -> TextResult:
        """The same result, with where its image comes from."""
        origin = self.reader.origins[number]
        return replace(result, source=origin.source, page=origin.page)
