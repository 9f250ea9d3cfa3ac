"""`explain`: the text of an image, with the cross-attention of each of its tokens.

Shape letters: S' tokens of the image that the decoder sees, Y x X their grid, L ids of a text with its prompt, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vedcore.components import Projector, VisionEncoder
from vedcore.errors import IncompatibleError, UsageError
from vedcore.explaining.explanation import ExplainedToken, Explanation
from vedcore.explaining.words import explain_words, split_words
from vedcore.generation.call import Call
from vedcore.generation.results import require_tokenizer, text_results
from vedcore.processing.pages import Pages
from vedcore.token_grids import TokenGrid

__all__ = ["explain"]


@torch.no_grad()
def explain(
    model: Any,
    image: Any,
    *,
    pages: Pages | None = None,
    dpi: float | None = None,
    prompt: str | None = None,
    untrusted: bool = False,
    skip_special_tokens: bool = True,
    generation_config: Any = None,
    layer: int | None = None,
    head: int | None = None,
    grid: tuple[int, int] | None = None,
    **options: Any,
) -> Explanation:
    """Write the text of an image, and show where the decoder's cross-attention was at each token.

    The text is that of `generate_text`, by any search; its attention is computed in one pass over the whole of it.

    Args:
        model: writes the text.
        image: one image, as `generate_text` takes it.
        pages: the page of a TIFF or a PDF; by default the first, with a warning if there are more.
        dpi: as `generate_text` takes it.
        prompt: the start of the text, as `generate_text` takes it; its own tokens are not explained.
        untrusted: as `generate_text` takes it, like the next two.
        skip_special_tokens: False keeps them in the text, where they are parts of words.
        generation_config: settings in place of ``model.generation_config``.
        layer: number of the layer, from 0, among those with cross-attention; None takes the mean of all.
        head: number of the attention head, from 0; None takes the mean of all.
        grid: rows and columns in which the last tokens of the image lie on it, for an encoder or a projector that does
            not say.
        options: of `generate`; of several texts of the image, the first is explained.

    Raises:
        ImageError: the image cannot be read.
        UsageError: no tokenizer, several pages, a layer or head that the decoder does not have, or a grid that the
            tokens do not fill.
        IncompatibleError: a part that does not say where its tokens lie, or a decoder that records no cross-attention.
    """
    processor = model.processor
    require_tokenizer(processor)
    call = Call.of(
        model,
        generation_config,
        options,
        logits_processor=None,
        stopping_criteria=None,
        prefix_allowed_tokens_fn=None,
        assistant_model=None,
    )
    with processor.open_images([image], pages=pages, dpi=dpi, first_page_only=True) as reader:
        if len(reader.origins) != 1:
            hint = f"choose one, such as pages={reader.origins[0].page}"
            raise UsageError(f"{len(reader.origins)} pages cannot be one explanation", field="pages", hint=hint)
        original = reader.read(reader.origins[0])
    placement = processor.placement_of(original)
    batch = processor.batch_of([processor.pixels_of(original)]).to(model.device)
    pixels, mask = batch["pixel_values"], batch.get("encoder_attention_mask")
    with call.inference():
        encoded = model.run_encoder(pixels, mask)
        prompts = call.prompts(prompt, 1, untrusted)
        out = call.write(None, mask, encoder_outputs=encoded, decoder_input_ids=prompts)
        begin = prompts.shape[1]
        assert out.lengths is not None
        row = out.sequences[0, : begin + out.lengths[0]]  # (L,)
        states, states_mask = model.project(encoded, mask)
        weights = model.decoder(
            input_ids=row[None, :-1],
            encoder_hidden_states=states,
            encoder_attention_mask=states_mask,
            output_attentions=True,
        ).cross_attentions
    size = int(pixels.shape[2]), int(pixels.shape[3])
    cells = _grid(model, size, states.shape[1], grid)
    shares = _chosen(model, weights, layer, head)[begin - 1 :, states.shape[1] - cells.rows * cells.columns :]
    ends = call.token_ids.eos
    kept = [number for number, token in enumerate(row[begin:].tolist()) if token not in ends]
    result = text_results(out, processor, ends, skip_special_tokens)[0]
    tokens = tuple(
        ExplainedToken(text, probability, shares[number].reshape(cells.rows, cells.columns))
        for number, (text, probability) in zip(kept, result.tokens, strict=True)
    )
    words = split_words(
        partial(processor.decode, skip_special_tokens=skip_special_tokens),
        row.tolist(),
        [begin + number for number in kept],
        processor.tokenizer.all_special_ids if skip_special_tokens else (),
    )
    explained = explain_words(words, tokens, placement, size, original.size)
    return Explanation(result.text, result.confidence, tokens, explained, original, placement, size)


def _chosen(model: Any, weights: Sequence[Tensor] | None, layer: int | None, head: int | None) -> Tensor:
    """(L - 1, S') of a layer and a head, or the means over them, of each layer's (1, H, L - 1, S')."""
    if not weights:
        name = type(model.decoder).__name__
        raise IncompatibleError(
            f"{name} records no cross-attention", field="decoder", hint="explain a model with another decoder"
        )
    layers = list(weights) if layer is None else [weights[_checked(layer, len(weights), "layer", "layers")]]
    each = [
        one[0].float().mean(0) if head is None else one[0, _checked(head, one.shape[1], "head", "heads")].float()
        for one in layers
    ]
    return torch.stack(each).mean(0).cpu()


def _checked(number: object, count: int, field: str, what: str) -> int:
    if isinstance(number, int) and 0 <= number < count:
        return number
    raise UsageError(
        f"{number!r}, and the decoder has {count} {what}", field=field, hint=f"give one from 0 to {count - 1}"
    )


def _grid(model: Any, size: tuple[int, int], tokens: int, given: tuple[int, int] | None) -> TokenGrid:
    """How the tokens that the decoder sees lie on the image.

    Args:
        model: the model.
        size: height and width of the image in pixels, as the encoder gets it.
        tokens: S'.
        given: rows and columns that the user gave.
    """
    if given is not None:
        rows, columns = given
        if not (rows >= 1 and columns >= 1 and rows * columns <= tokens):
            raise UsageError(
                f"{rows} x {columns}, and the image has {tokens} tokens",
                field="grid",
                hint=f"give no more cells than tokens, such as 1 x {tokens}",
            )
        return TokenGrid(rows, columns, tokens - rows * columns)
    of_encoder = getattr(type(model.encoder), "token_grid", VisionEncoder.token_grid)
    of_projector = getattr(type(model.projector), "token_grid", Projector.token_grid)
    found = TokenGrid(*of_projector(model.projector, TokenGrid(*of_encoder(model.encoder, size))))
    if found.tokens != tokens:
        message = f"{found.tokens} tokens by its token_grid, and {tokens} tokens that the decoder sees"
        raise IncompatibleError(message, field="encoder", hint=f"give grid=(rows, columns), such as grid=(1, {tokens})")
    return found
