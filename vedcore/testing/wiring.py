"""`check_wiring`: the checks of behaviour on a composed model as it is, with its own weights.

Shape letters: N images, T tokens, S encoder tokens, S' tokens after the projector, D width of the encoder, E that of
the decoder's cross-attention.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from vedcore.errors import UsageError
from vedcore.model import VisionEncoderDecoder
from vedcore.model.wiring import Result, WiringReport, structure_of
from vedcore.outputs import EncoderOutput
from vedcore.testing import decoder_caches, decoder_sight
from vedcore.testing.calls import logits
from vedcore.testing.cases import IMAGE_TOKENS, Case, Kind
from vedcore.testing.checks import Check, check, checks_for, difference, fail, run_one_check, same

__all__ = ["check_wiring"]

TOKENS = 5
"""T of the texts."""
MAX_IMAGE_TOKENS = 32
"""Tokens of an image that the decoder gets where steps are compared: a decoder takes any number."""
IMAGE = "image_changes_every_token"
_OF_DECODERS = (decoder_sight.__name__, decoder_caches.__name__)
"""Modules whose checks of decoders hold for the decoder of a model, given states of images."""


@dataclass(frozen=True)
class _Wired(Case):
    """The decoder of a model with its own weights, which gets projected states of images of noise."""

    model: Any = None
    encoded: list[EncoderOutput] = field(default_factory=list)
    """The encoder's output for `pixels`, once it has run."""

    @property
    def kind(self) -> Kind:
        return "wiring"

    def build(self, *, draw: int = 0) -> Any:
        return self.model.decoder

    def pixels(self) -> Tensor:
        """Two images of noise in the size of the model's preprocessing, on its device."""
        with torch.device("cpu"):
            drawn = self.images(self.model.encoder, 2, self.model.processor.preprocessing.image_size)
        return drawn.to(self.model.device, self.model.dtype)

    def encode(self) -> EncoderOutput:
        """The encoder's output for `pixels`."""
        if not self.encoded:
            self.encoded.append(self.model.encode(self.pixels()))
        return self.encoded[0]

    def states(self, decoder: Any, rows: int = 2, tokens: int = IMAGE_TOKENS, draw: int = 0) -> Tensor:
        """Projected states of every few tokens; of the other image in each row for another ``draw``."""
        states: Tensor = self.model.project(EncoderOutput(self.encode().last_hidden_state))[0]
        return (states.flip(0) if draw % 2 else states)[:, :: -(-states.shape[1] // MAX_IMAGE_TOKENS)].clone()

    def ids(self, decoder: Any, rows: int = 2, tokens: int = TOKENS, draw: int = 0) -> Tensor:
        with torch.device("cpu"):
            return super().ids(decoder, rows, tokens, draw).to(self.model.device)

    def other_ids(self, decoder: Any, ids: Tensor) -> Tensor:
        with torch.device("cpu"):
            return super().other_ids(decoder, ids.cpu()).to(ids.device)


def check_wiring(model: VisionEncoderDecoder) -> WiringReport:
    """Prove that the parts of a model work together: the checks of behaviour, on the model with its own weights.

    The image changes the scores of every token, no token sees a later one, steps with a cache give what one call
    gives, a row alone has what it has in a batch, padding of texts and images is masked, the rows of beams share an
    image and follow a reordering, and the sizes that the parts publish are those that come out. A model of which a
    gate shuts the image out fails, until training opens the gate.

    The model is left as it was: its weights, gradients, mode and type, and the random numbers. The report is kept in
    ``model.wiring``, and `save_pretrained` writes it as ``wiring.json``.

    Args:
        model: a composed or loaded model, on any device, in any type.

    Raises:
        UsageError: something else.
    """
    if not isinstance(model, VisionEncoderDecoder):
        raise UsageError(
            f"{type(model).__name__} is not a composed model",
            field="model",
            hint="give what vedcore.compose or vedcore.load gave",
        )
    case = _Wired(lambda: model.decoder, "model", model=model)
    with model.ready_for_inference(compiled=True), torch.no_grad(), torch.device(model.device):
        results = tuple(_run(each, case) for each in _checks())
    report = WiringReport(results, str(model.dtype).removeprefix("torch."), structure_of(model))
    model.wiring = report
    return report


def _checks() -> list[Check]:
    decoders = [each for each in checks_for("decoder") if each.function.__module__ in _OF_DECODERS]
    return [*checks_for("wiring"), *decoders]


def _run(each: Check, case: _Wired) -> Result:
    result = run_one_check(each, case, None)
    if each.name == IMAGE and result.outcome == "failed":
        return replace(result, message=f"{result.message}; {_why_unseen(case)}")
    return result


@check("wiring")
def sizes_of_the_parts_fit(case: _Wired) -> None:
    """The tokens and widths that encoder, projector and decoder publish are those of the states of real images."""
    model = case.model
    states = case.encode().last_hidden_state
    tokens, width = model.encoder.num_tokens(model.processor.preprocessing.image_size), model.encoder.hidden_size
    if tuple(states.shape) != (2, tokens, width):
        fail(f"states of (2, {tokens}, {width}) from the encoder, as it publishes", str(tuple(states.shape)))
    projected, _ = model.project(case.encode())
    tokens, width = model.projector.num_tokens(tokens), model.decoder.cross_attention_size
    if tuple(projected.shape) != (2, tokens, width):
        fail(f"states of (2, {tokens}, {width}) from the projector, as the decoder takes", str(tuple(projected.shape)))


@check("wiring")
def forward_is_the_parts_in_a_row(case: _Wired) -> None:
    """``forward`` gives for one image the logits that encoder, projector and decoder give it in a batch."""
    model, ids = case.model, case.ids(case.model.decoder)
    came = model(pixel_values=case.pixels()[1:], decoder_input_ids=ids[1:]).logits
    states, mask = model.project(case.encode())
    same("the logits of the parts", logits(model.decoder, ids, states, encoder_attention_mask=mask)[1:], came)


@check("wiring")
def mask_of_the_image_reaches_the_decoder(case: _Wired) -> None:
    """Masked tokens of the encoder change no logits, through the projector and its mask."""
    model, ids = case.model, case.ids(case.model.decoder)
    states = case.encode().last_hidden_state
    mask = torch.ones(states.shape[:2], dtype=torch.bool)
    mask[1, (states.shape[1] + 1) // 2 :] = False
    if bool(mask.all()):
        return  # a single token
    projected, seen = model.project(EncoderOutput(states, mask))
    if seen is None or seen.dtype != torch.bool or seen.shape != projected.shape[:2]:
        fail(f"a mask of {tuple(projected.shape[:2])} bool from the projector", "another, or none")
    if not bool(seen[0].all()):
        fail("every token of an image without padding to be seen", f"{int((~seen[0]).sum())} masked")
    expected = model(encoder_outputs=EncoderOutput(states, mask), decoder_input_ids=ids).logits
    if model.projector.num_tokens(states.shape[1]) == states.shape[1] or getattr(
        model.projector, "takes_attention_mask", False
    ):
        other = torch.where(mask[..., None], states, states.flip(1) + 3)
        came = model(encoder_outputs=EncoderOutput(other, mask), decoder_input_ids=ids).logits
    else:  # a token of the projector may be of several, of which only some are padding
        other = torch.where(seen[..., None], projected, projected.flip(1) + 3)
        came = logits(model.decoder, ids, other, encoder_attention_mask=seen)
    same("the same logits for other padding", expected, came)


def _why_unseen(case: _Wired) -> str:
    """Whether parameters that are zero shut the image out, or it is not wired at all."""
    decoder = case.model.decoder
    fresh = decoder.fresh_parameters()
    zero = {name: p for name, p in decoder.named_parameters() if name in fresh and not bool(p.any())}
    generator = torch.Generator().manual_seed(case.seed)
    with torch.device("cpu"):
        drawn = {name: torch.randn(p.shape, generator=generator).to(p) for name, p in zero.items()}
    ids = case.ids(decoder)
    first, second = (
        functional_call(decoder, drawn, (), {"input_ids": ids, "encoder_hidden_states": case.states(decoder, draw=n)})
        for n in range(2)
    )
    if not zero or difference(first.logits, second.logits) == 0:
        return "no zero among its weights explains it"
    names = [name for name in zero if not name.endswith("bias")] or list(zero)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"decoder.{names[0]}{more} is zero, which shuts the image out until it is trained"
