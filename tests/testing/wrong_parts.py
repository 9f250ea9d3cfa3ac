"""Wrong parts, one small class each, and the check that is to catch each of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vedcore
from tests.encoders.conftest import SMALL
from tests.testing.right_parts import Mean, Patches, Shuffle, decoder
from vedcore.layers.cache import DecoderCache
from vedcore.transformers_class import ConfigField
from vedcore.weights.keymap import TRANSPOSED, Change
from vedcore_decoders.gpt2 import GPT2_MODEL, GPT2Config, GPT2Decoder
from vedcore_encoders.beit import BeitEncoder


class IgnoresTheImage(GPT2Decoder):
    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        encoder_hidden_states: Any = None,
        *rest: Any,
        **given: Any,
    ) -> Any:
        if encoder_hidden_states is not None:
            encoder_hidden_states = torch.ones_like(encoder_hidden_states) + 0 * encoder_hidden_states
        return super().forward(input_ids, attention_mask, encoder_hidden_states, *rest, **given)


class IgnoresItAfterTheFirstToken(GPT2Decoder):
    def run(self, text: Tensor, positions: Tensor, mask: Any, states: Any = None, *rest: Any) -> Any:
        if bool((positions == 0).any()):
            return super().run(text, positions, mask, states, *rest)
        cache = rest[1] if len(rest) > 1 else None
        for layer in [] if cache is None else cache.layers:
            if layer.cross is not None:
                layer.cross = tuple(torch.zeros_like(each) for each in layer.cross)
        return super().run(text, positions, mask, states, *rest)


class SeesTheFirstStepAlone(GPT2Decoder):
    """With a cache, the image counts in the first call and not after it."""

    def run(
        self,
        text: Tensor,
        positions: Tensor,
        mask: Any,
        states: Any = None,
        image_mask: Any = None,
        cache: Any = None,
        *rest: Any,
    ) -> Any:
        out = super().run(text, positions, mask, states, image_mask, cache, *rest)
        for layer in [] if cache is None else cache.layers:
            layer.cross = tuple(torch.zeros_like(each) for each in layer.cross)
        return out


class LeaksTheFuture(GPT2Decoder):
    def run(self, text: Tensor, positions: Tensor, mask: Any, *rest: Any) -> Any:
        return super().run(text, positions, None if mask is None else torch.ones_like(mask), *rest)


class LeaksOneToken(GPT2Decoder):
    """Only the token before the last sees the last."""

    def run(self, text: Tensor, positions: Tensor, mask: Any, *rest: Any) -> Any:
        if mask is not None and mask.shape[-2] > 1:
            mask = mask.clone()
            mask[..., -2, -1] = True
        return super().run(text, positions, mask, *rest)


class CountsOffByOne(GPT2Decoder):
    """A step stands at the position of the token before it."""

    def embed(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        if positions.shape[-1] == 1 and bool((positions > 0).all()):
            positions = positions - 1
        return super().embed(embeddings, positions)


class ForgetsTheFirstKey(GPT2Decoder):
    """A call of several tokens with a cache does not see the oldest one."""

    def run(self, text: Tensor, positions: Tensor, mask: Any, *rest: Any) -> Any:
        if mask is not None and mask.shape[-1] > mask.shape[-2] > 1:
            mask = mask.clone()
            mask[..., 0] = False
        return super().run(text, positions, mask, *rest)


class _KeepsItsOrder(DecoderCache):
    def reorder(self, index: Tensor, start: int = 0) -> None:
        super().reorder(torch.arange(len(index)) * self.rows // len(index), start)


class CacheOfAnotherRow(GPT2Decoder):
    def make_cache(self, capacity: int | None = None) -> DecoderCache:
        return _KeepsItsOrder(len(self.layers), capacity)


class _LosesImages(DecoderCache):
    def select(self, rows: Tensor, images: Tensor) -> None:
        super().select(rows, torch.zeros_like(images))


class SelectsTheFirstImage(GPT2Decoder):
    def make_cache(self, capacity: int | None = None) -> DecoderCache:
        return _LosesImages(len(self.layers), capacity)


class _KeepsAll(DecoderCache):
    def crop(self, length: int) -> None:
        for layer in self.layers:
            layer.crop(length + 1)
            layer.length = min(length, layer.length)
            layer.keys = None if layer.keys is None else layer.keys.roll(1, 2)


class CropsBadly(GPT2Decoder):
    def make_cache(self, capacity: int | None = None) -> DecoderCache:
        return _KeepsAll(len(self.layers), capacity)


class ReversesStatesOfSingleTokens(GPT2Decoder):
    """The encoder states of one-token calls are those of the other images."""

    def run(self, text: Tensor, positions: Tensor, mask: Any, states: Any = None, *rest: Any) -> Any:
        if states is not None and text.shape[1] == 1:
            states = states.flip(0)
        return super().run(text, positions, mask, states, *rest)


class IgnoresTheMaskOfTheImage(GPT2Decoder):
    def run(
        self, text: Tensor, positions: Tensor, mask: Any, states: Any = None, image_mask: Any = None, *rest: Any
    ) -> Any:
        return super().run(text, positions, mask, states, None, *rest)


class CountsPadding(GPT2Decoder):
    """Padding at the left takes positions."""

    def embed(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        if positions.shape[1] > 1 and bool((positions < 0).any() | (positions[:, :1] != positions[:, 1:2] - 1).any()):
            positions = torch.arange(positions.shape[1])[None]
        return super().embed(embeddings, positions)


class UnfoldsWrongly(GPT2Decoder):
    """The rows of an image are taken to be N apart, not adjacent."""

    def run(
        self, text: Tensor, positions: Tensor, mask: Any, states: Any = None, image_mask: Any = None, *rest: Any
    ) -> Any:
        if states is not None and len(text) > len(states):
            each = len(text) // len(states)
            states = states.repeat(each, 1, 1)
            image_mask = None if image_mask is None else image_mask.repeat(each, 1, 1, 1)
        return super().run(text, positions, mask, states, image_mask, *rest)


class LiesAboutTheVocabulary(GPT2Decoder):
    def head(self, hidden_states: Tensor) -> Tensor:
        return F.pad(super().head(hidden_states), (0, 1))


class DeadParameter(GPT2Decoder):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.unused = nn.Linear(3, 3)


class DetachesTheImage(GPT2Decoder):
    def run(self, text: Tensor, positions: Tensor, mask: Any, states: Any = None, *rest: Any) -> Any:
        return super().run(text, positions, mask, None if states is None else states.detach(), *rest)


class LosesItsTie(GPT2Decoder):
    def resize_token_embeddings(self, vocab_size: int) -> None:
        super().resize_token_embeddings(vocab_size)
        self.output.weight = nn.Parameter(self.output.weight.detach().clone())


class ClaimsATie(GPT2Decoder):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.output.weight = nn.Parameter(self.output.weight.detach().clone())


class GivesNoAttentions(GPT2Decoder):
    def forward(self, *rest: Any, output_attentions: bool = False, **given: Any) -> Any:
        return super().forward(*rest, **given)


class NamesTooFewFresh(GPT2Decoder):
    def fresh_parameters(self) -> set[str]:
        return {name for name in super().fresh_parameters() if "norm" not in name}


class KeepsState(Patches):
    last: Any = None

    def encode(self, x: Tensor) -> Tensor:
        self.last = x = super().encode(x)
        return x


class KeepsARunningMean(Patches):
    def __init__(self, config: Any, pretrained: bool = False) -> None:
        super().__init__(config)
        self.register_buffer("mean", torch.zeros(16))

    def encode(self, x: Tensor) -> Tensor:
        x = super().encode(x)
        self.mean.lerp_(x.detach().mean((0, 1)), 0.1)
        return x


class DropsInEval(Patches):
    def encode(self, x: Tensor) -> Tensor:
        return F.dropout(super().encode(x), 0.2)


class RandomTensorInAList(Patches):
    def __init__(self, config: Any, pretrained: bool = False) -> None:
        super().__init__(config)
        self.tables = [torch.randn(16)]

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x) + self.tables[0].to(x)


class BufferNotStored(Patches):
    def __init__(self, config: Any, pretrained: bool = False) -> None:
        super().__init__(config)
        self.register_buffer("table", torch.randn(16), persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x) + self.table


class RandomNumber(Patches):
    def __init__(self, config: Any, pretrained: bool = False) -> None:
        super().__init__(config)
        self.shift = torch.rand(()).item()

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x * (1 + self.shift))


class LiesAboutItsTokens(Patches):
    def num_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        return super().num_tokens(image_size) + 1


class LiesAboutOtherSizes(Patches):
    """The number is right for its own size alone."""

    def num_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        return super().num_tokens()


class LiesWhereForwardNeedsANumber(Patches):
    """A forward that reads values, which no shape on the meta device can tell."""

    def num_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        return super().num_tokens(image_size) + 1

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x / max(x.abs().max().item(), 1e-6))


class WrongWidth(Patches):
    def __init__(self, config: Any, pretrained: bool = False) -> None:
        super().__init__(config)
        self.hidden_size = 17


class MixesTheBatch(Patches):
    def encode(self, x: Tensor) -> Tensor:
        x = super().encode(x)
        return x + x.mean(0, keepdim=True)


class SeesNothing(Patches):
    def encode(self, x: Tensor) -> Tensor:
        return super().encode(torch.zeros_like(x) + 0 * x) + self.projection(x).mean() * 0


class LosesTheMaskOfImages(Patches):
    def forward(self, pixel_values: Tensor, attention_mask: Any = None, *rest: Any, **given: Any) -> Any:
        return super().forward(pixel_values)


class StaysInFloat32(Patches):
    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x).float()

    def forward(self, pixel_values: Tensor, attention_mask: Any = None, *rest: Any, **given: Any) -> Any:
        states = F.layer_norm(self.encode(pixel_values), (16,), self.norm.weight.float(), self.norm.bias.float())
        return vedcore.EncoderOutput(states, attention_mask=attention_mask)


class LosesTheMask(Shuffle):
    def project_mask(self, attention_mask: Tensor) -> Tensor:
        return torch.ones(len(attention_mask), self.num_tokens(attention_mask.shape[1]), dtype=torch.bool)


class KeepsTheLongMask(Shuffle):
    def project_mask(self, attention_mask: Tensor) -> Tensor:
        return attention_mask


class LiesAboutTokensOut(Mean):
    def num_tokens(self, tokens: int) -> int:
        return tokens


class SeesPadding(Mean):
    """It takes the mask of the image, and does not look at it."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return super().forward(hidden_states)


_MAP = GPT2_MODEL.key_map
DROPS = tuple(row for row in _MAP if "ln_f" not in row.theirs)
SWAPPED = {"layers.{}.self_attention_norm": "layers.{}.mlp_norm", "layers.{}.mlp_norm": "layers.{}.self_attention_norm"}
SWAPS = tuple(replace(row, ours=SWAPPED.get(row.ours, row.ours)) for row in _MAP)
MISREADS = tuple(
    replace(row, change=Change("reversed", TRANSPOSED.to_ours, lambda t: TRANSPOSED.to_theirs(t).flip(0)))
    if row.ours == "layers.{}.mlp.input"
    else row
    for row in _MAP
)


class DropsATensor(GPT2Decoder):
    transformers = (replace(GPT2_MODEL, key_map=DROPS),)


class SwapsTensors(GPT2Decoder):
    transformers = (replace(GPT2_MODEL, key_map=SWAPS),)


class WritesInAnotherOrder(GPT2Decoder):
    transformers = (replace(GPT2_MODEL, key_map=MISREADS),)


def _fields(**changed: Any) -> Any:
    """GPT2's class of transformers with other rows in place of some."""
    return (replace(GPT2_MODEL, fields=tuple(changed.get(row.name, row) for row in GPT2_MODEL.fields)),)


class LosesASetting(GPT2Decoder):
    """The number of inner units is read as if it were not in the file."""

    transformers = _fields(n_inner=ConfigField("n_inner", None, read=lambda value: None))


class HonoursEverything(GPT2Decoder):
    """Any number of layers is read as the two that it has."""

    transformers = _fields(n_layer=ConfigField("n_layer", 12, read=lambda value: 2))


class AnotherDefault(GPT2Decoder):
    transformers = _fields(resid_pdrop=ConfigField("resid_pdrop", 0.2))


class MissesLayerScale(BeitEncoder):
    transformers = tuple(
        replace(
            each,
            key_map=tuple(
                replace(row, ours="", optional=True, read_only=True) if "lambda" in row.theirs else row
                for row in each.key_map
            ),
        )
        for each in BeitEncoder.transformers
    )


def misses_layer_scale() -> BeitEncoder:
    variant, fields = SMALL["beit"]
    return MissesLayerScale(MissesLayerScale.make_config(variant, fields))  # type: ignore[arg-type]


def wrong_decoder(cls: type[GPT2Decoder]) -> Any:
    return lambda: decoder(cls, n_inner=40)


def wrong_projector(cls: type[Mean]) -> Any:
    return lambda: cls(vedcore.ProjectorConfig())


WRONG: list[tuple[Any, str]] = [
    (wrong_decoder(IgnoresTheImage), "image_changes_every_token"),
    (wrong_decoder(IgnoresItAfterTheFirstToken), "image_changes_every_token"),
    (wrong_decoder(SeesTheFirstStepAlone), "image_changes_every_token"),
    (wrong_decoder(LeaksTheFuture), "later_tokens_change_nothing_before"),
    (wrong_decoder(LeaksOneToken), "later_tokens_change_nothing_before"),
    (wrong_decoder(CountsOffByOne), "steps_of_one_token_are_as_one_call"),
    (wrong_decoder(ForgetsTheFirstKey), "steps_of_several_tokens_are_as_one_call"),
    (wrong_decoder(CacheOfAnotherRow), "reordered_rows_continue_as_others"),
    (wrong_decoder(SelectsTheFirstImage), "selected_rows_go_on_alone"),
    (wrong_decoder(CropsBadly), "cropped_cache_goes_on_from_there"),
    (wrong_decoder(ReversesStatesOfSingleTokens), "steps_of_one_token_are_as_one_call"),
    (wrong_decoder(IgnoresTheMaskOfTheImage), "image_padding_is_masked"),
    (wrong_decoder(CountsPadding), "left_padding_is_masked"),
    (wrong_decoder(UnfoldsWrongly), "rows_of_an_image_share_its_states"),
    (wrong_decoder(LiesAboutTheVocabulary), "vocabulary_is_published"),
    (wrong_decoder(DeadParameter), "gradients_reach_every_parameter"),
    (wrong_decoder(DetachesTheImage), "gradients_reach_the_input"),
    (wrong_decoder(LosesItsTie), "resizing_keeps_the_scores"),
    (wrong_decoder(ClaimsATie), "ties_hold"),
    (wrong_decoder(GivesNoAttentions), "records_of_layers_are_given_when_asked_for"),
    (wrong_decoder(NamesTooFewFresh), "fresh_parameters_are_those_of_the_image"),
    (KeepsState, "eval_leaves_no_state"),
    (KeepsARunningMean, "eval_leaves_no_state"),
    (DropsInEval, "eval_is_deterministic"),
    (RandomTensorInAList, "tensors_are_registered"),
    (BufferNotStored, "unstored_buffers_are_rebuilt"),
    (RandomNumber, "saved_and_loaded_is_the_same"),
    (LiesAboutItsTokens, "number_of_tokens_is_published"),
    (LiesAboutOtherSizes, "number_of_tokens_is_published"),
    (LiesWhereForwardNeedsANumber, "number_of_tokens_is_published"),
    (WrongWidth, "width_is_published"),
    (MixesTheBatch, "alone_is_as_in_a_batch"),
    (SeesNothing, "each_row_has_its_own_output"),
    (LosesTheMaskOfImages, "image_padding_is_told"),
    (StaysInFloat32, "half_precision_is_near"),
    (wrong_decoder(DropsATensor), "key_map_is_total_both_ways"),
    (wrong_decoder(WritesInAnotherOrder), "key_map_is_total_both_ways"),
    (misses_layer_scale, "key_map_is_total_both_ways"),
    (wrong_decoder(SwapsTensors), "transformers_computes_the_same"),
    (wrong_projector(LosesTheMask), "mask_is_kept"),
    (wrong_projector(KeepsTheLongMask), "mask_is_kept"),
    (wrong_projector(LiesAboutTokensOut), "number_of_tokens_out_is_published"),
    (wrong_projector(SeesPadding), "image_padding_is_masked"),
    (wrong_decoder(LosesASetting), "settings_are_read_as_they_were_written"),
    (wrong_decoder(HonoursEverything), "settings_of_another_arithmetic_are_refused"),
    (wrong_decoder(AnotherDefault), "defaults_are_those_of_transformers"),
]
