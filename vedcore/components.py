"""The contracts: what a vision encoder, a text decoder and a projector are.

A part of a third party subclasses one of these three, or is any module that has their attributes.

Shape letters: N images, B rows of text (a multiple of N), C channels, H x W pixels, S encoder tokens, T new text
tokens, L text tokens so far, D width, E width of the encoder states that cross-attention takes, V vocabulary size.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vedcore.config import Config, DecoderConfig, EncoderConfig, Preprocessing, ProjectorConfig
from vedcore.errors import IncompatibleError, UnknownComponentError, UsageError, did_you_mean
from vedcore.layers.attention import causal_mask
from vedcore.layers.cache import DecoderCache
from vedcore.outputs import DecoderOutput, EncoderOutput
from vedcore.transformers_class import TransformersClass

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "Component",
    "Projector",
    "TextDecoder",
    "VisionEncoder",
    "check_interpolation",
    "fit_to",
    "parameters_of",
    "torch_dtype",
]


def parameters_of(module: nn.Module) -> Iterator[Tensor]:
    """The parameters of a module; of a replica of DataParallel, which has none, the copies that it has instead."""
    yield from module.parameters()
    for part in module.modules():
        yield from getattr(part, "_former_parameters", {}).values()


class Component(nn.Module, abc.ABC):
    """Base of all three kinds of parts: a config class, variants, and a constructor that takes a config."""

    config_class: ClassVar[type[Config]]
    config: Any
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sizes: what each sets of the config."""
    transformers: ClassVar[tuple[TransformersClass, ...]] = ()
    """The classes of transformers whose checkpoints this part opens; it is written as the first that can be it."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass instead of kept."""

    @classmethod
    def make_config(
        cls, variant: str | None, fields: Mapping[str, Any], *, path: object = None, prefix: str = ""
    ) -> Config:
        """The complete config of ``variant`` with ``fields`` on top.

        Args:
            variant: a name of ``variants``; None for the config class's own defaults.
            fields: what the user set.
            path: the file that it came from, for messages.
            prefix: what to put before a field's name in messages, such as ``"decoder."``.

        Raises:
            UnknownComponentError: no such variant.
            ConfigSchemaError: a field that the family does not have, or a bad value.
        """
        if variant is not None and variant not in list(cls.variants):  # it may be anything that a file can hold
            hint = did_you_mean(str(variant), cls.variants) or f"choose one of {', '.join(cls.variants)}"
            raise UnknownComponentError(f"{cls.__name__} has no variant {variant!r}", path=path, hint=hint)
        words = cls.config_class.attribute_map
        given = {words.get(field, field) for field in fields}
        base = {field: value for field, value in cls.variants.get(variant or "", {}).items() if field not in given}
        return cls.config_class.parse({**base, **fields}, path=path, prefix=prefix)

    def settings(self) -> dict[str, Any]:
        """All fields of the config as this part has them, none left to a variant."""
        config: Config = self.config
        return config.model_dump()


class VisionEncoder(Component):
    """Images to token sequences.

    A subclass sets ``config``, ``hidden_size`` and ``preprocessing`` in its constructor, which is called as
    ``cls(config)``, or ``cls(config, pretrained=True)`` to take published weights.
    """

    config_class: ClassVar[type[EncoderConfig]]
    config: EncoderConfig
    hidden_size: int
    """D, the width of ``last_hidden_state``."""
    preprocessing: Preprocessing
    """How an image becomes the input: size, mean, std, interpolation."""
    takes_task_prompts: bool = False
    """Whether prompts of its models name a task in place of the start id, as Donut's do."""
    key_map: ClassVar[tuple[Any, ...]] = ()
    """Rows of `vedcore.weights.keymap`: the names that transformers' class of this family has."""
    num_channels: int = 3
    """C, the channels of an image: 3 for RGB, 1 for grey."""
    interpolates_positions: bool = False
    """Whether `forward` takes ``interpolate_pos_encoding=True``: images of another size, for one call."""

    @abc.abstractmethod
    def num_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        """S, the tokens that an image of ``image_size`` pixels (height, width) gives; None means its own size."""

    @abc.abstractmethod
    def forward(
        self,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> EncoderOutput:
        """Encode images.

        Args:
            pixel_values: (N, C, H, W) float, prepared as ``preprocessing`` says.
            attention_mask: (N, S) bool, False where a token shows padding.
            output_attentions: return attention weights.
            output_hidden_states: return the states between the blocks.
        """

    def fit_tensor(self, name: str, tensor: Tensor, image_size: int | Sequence[int] | None = None) -> Tensor | None:
        """A stored tensor made for images of another size, resampled for the size of this encoder.

        Args:
            name: its name in this encoder's ``state_dict``.
            tensor: its values, maybe on the meta device.
            image_size: height and width of the images that it was stored for, or one number for both; None means a
                square.

        Returns:
            A new tensor of the same type; None where the stored one is to be taken as it is, or cannot be resampled.
        """
        return None

    def preprocess(self, image: Image.Image) -> Tensor | None:
        """An RGB image to (C, H, W) float, for an encoder that prepares images its own way.

        None, the default, leaves it to ``preprocessing``. Images of one batch may come out in different sizes:
        they are padded with zeros at the right and at the bottom, and `token_mask` tells padding from image.
        """
        return None

    def token_mask(self, sizes: Tensor, padded_size: tuple[int, int]) -> Tensor | None:
        """Which tokens of padded images show image.

        Args:
            sizes: (N, 2) height and width of each image before padding.
            padded_size: height and width after it.

        Returns:
            (N, S) bool, True where a token shows the image; None where the encoder cannot tell.
        """
        return None


def check_interpolation(encoder: Any) -> None:
    """Refuse ``interpolate_pos_encoding=True`` for an encoder that does not resample its positions.

    Raises:
        UsageError: with the size of images that the encoder takes.
    """
    if not getattr(encoder, "interpolates_positions", False):
        height, width = encoder.preprocessing.image_size
        raise UsageError(
            f"{type(encoder).__name__} does not resample its positions",
            field="interpolate_pos_encoding",
            hint=f"leave it out, and give images of {height} x {width} pixels",
        )


def fit_to(
    encoder: Any, image_size: int | Sequence[int] | None, prefix: str = ""
) -> Callable[[str, Tensor], Tensor | None] | None:
    """The function that `vedcore.weights.loading.Weights` asks to resample an encoder's stored tensors.

    Args:
        encoder: the module that the tensors are for; one without ``fit_tensor`` resamples none.
        image_size: size of the images that they were stored for; None means a square.
        prefix: prepended to the names of the encoder's tensors, such as ``"encoder."``.
    """
    fit = getattr(encoder, "fit_tensor", None)
    if fit is None:
        return None
    return lambda name, tensor: fit(name.removeprefix(prefix), tensor, image_size) if name.startswith(prefix) else None


class Projector(Component):
    """Maps encoder states to the width of cross-attention: (N, S, D_encoder) to (N, S', D_decoder).

    Its constructor is called as ``cls(config, in_features, out_features)``.
    """

    config_class: ClassVar[type[ProjectorConfig]]
    config: ProjectorConfig
    in_features: int
    out_features: int

    @abc.abstractmethod
    def forward(self, hidden_states: Tensor) -> Tensor:
        """(N, S, D_encoder) to (N, S', D_decoder)."""

    def num_tokens(self, tokens: int) -> int:
        """S' for S; the same unless a projector says otherwise."""
        return tokens

    def project_mask(self, attention_mask: Tensor) -> Tensor:
        """(N, S) bool to (N, S') bool; a projector that changes the number of tokens must say how."""
        return attention_mask


class TextDecoder(Component):
    """Token ids and encoder states to the logits of the next tokens.

    A family gives ``config``, ``embed``, ``layers``, ``final_norm`` and ``head``; masks, positions, the cache and
    what is returned are here, once. A decoder of another make may override `forward` as a whole.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in cls.__dict__ and "uneven_rows" not in cls.__dict__:
            cls.uneven_rows = False

    config_class: ClassVar[type[DecoderConfig]]
    config: DecoderConfig
    hub_repos: ClassVar[Mapping[str, str]] = {}
    """Variants to the repositories of their published weights, which ``pretrained=True`` takes."""
    hidden_size: int
    """D."""
    vocab_size: int
    """V."""
    max_positions: int | None
    """Tokens a text may have; None for any number."""
    num_attention_heads: int
    cross_attention_size: int
    """E, the width of encoder states that cross-attention takes."""
    layers: nn.ModuleList
    final_norm: nn.Module
    positions_by_id: bool = False
    """Whether `takes_position` reads the token ids; `forward` is then told ``prompt_length`` during generation."""
    uneven_rows: ClassVar[bool] = True
    """Whether rows that share a cache may have different lengths, as `DecoderCache.positions` counts them. False in a
    subclass that overrides `forward`, unless it declares it."""
    layerdrop: float = 0.0
    """Share of the layers that a training step leaves out ("LayerDrop", Fan et al. 2019)."""

    @abc.abstractmethod
    def embed(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """Add positions, and norm, as the family does.

        Args:
            embeddings: (B, T, D) rows of the input embedding, or what the caller gave in their place.
            positions: (1 or B, T) numbers from 0; -1 marks a token that is padding.

        Returns:
            (B, T, D).
        """

    @abc.abstractmethod
    def head(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) to logits (B, T, V)."""

    @abc.abstractmethod
    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding of tokens, (V, D)."""

    @abc.abstractmethod
    def get_output_embeddings(self) -> nn.Linear:
        """The last layer, D to V; its weight is that of the input embedding where they are tied."""

    def embed_tokens(self, input_ids: Tensor) -> Tensor:
        """Token ids (B, T) to (B, T, D); a family that scales its embeddings says so here."""
        out: Tensor = self.get_input_embeddings()(input_ids)
        return out

    def takes_position(self, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor | None:
        """Which of the new tokens count as a position, (B, T) bool; None means all.

        Args:
            input_ids: (B, T) or None.
            attention_mask: (B, T) False for padding at the left, or None.
        """
        return attention_mask

    def fresh_parameters(self) -> set[str]:
        """Names of parameters that no language model's checkpoint holds: those of cross-attention."""
        return {name for name, _ in self.named_parameters() if ".cross_attention" in f".{name}"}

    def compiled(self) -> Callable[..., DecoderOutput]:
        """`forward` through ``torch.compile``: made at the first call, and kept."""
        found: Callable[..., DecoderOutput] | None = self.__dict__.get("_compiled")
        if found is None:
            found = self.__dict__["_compiled"] = torch.compile(self.forward, dynamic=True)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k != "_compiled"}  # type: ignore[no-untyped-call]

    def make_cache(self, capacity: int | None = None) -> DecoderCache:
        """An empty cache, with room for ``capacity`` tokens when given."""
        return DecoderCache(len(self.layers), capacity)

    def resize_token_embeddings(self, vocab_size: int) -> None:
        """Grow or cut the vocabulary; kept rows stay, new ones are drawn around the mean of the old ones.

        New rows get the old rows' mean and standard deviation, so that no new token stands out at the start.
        """
        embedding, output = self.get_input_embeddings(), self.get_output_embeddings()
        tied = output.weight is embedding.weight
        embedding.weight = nn.Parameter(_resized(embedding.weight, vocab_size), embedding.weight.requires_grad)
        output.weight = (
            embedding.weight if tied else nn.Parameter(_resized(output.weight, vocab_size), output.weight.requires_grad)
        )
        if output.bias is not None:
            output.bias = nn.Parameter(_resized(output.bias, vocab_size), output.bias.requires_grad)
        embedding.num_embeddings = output.out_features = self.vocab_size = vocab_size
        self.config = self.config.changed(vocab_size=vocab_size)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: DecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        last_logits_only: bool = False,
        prompt_length: int | None = None,
    ) -> DecoderOutput:
        """Scores of the token that follows each position.

        Args:
            input_ids: (B, T) the new tokens.
            attention_mask: (B, T), or (B, L) with those in the cache; 1 or True where a token counts, 0 where no token
                attends to it. Padding at the left takes no position; any other masked token does, as in transformers.
            encoder_hidden_states: (N, S, E), N dividing B; not needed again once the cache holds their keys.
            encoder_attention_mask: (N, S), 1 or True where an encoder token counts.
            past_key_values: the cache of earlier calls, which this one extends.
            inputs_embeds: (B, T, D) in place of ``input_ids``.
            use_cache: return a cache, a new one when none is given.
            output_attentions: return the attention weights of every layer.
            output_hidden_states: return the states between the layers; the last is the final one, after its norm.
            last_logits_only: compute the logits of the last position alone, (B, 1, V).
            prompt_length: index of the first generated token. Where a family gives the padding id no position, one that
                was generated still counts for the positions after it.

        Raises:
            UsageError: both or none of ids and embeddings, shapes that do not fit each other or the cache, an id
                outside the vocabulary.
            IncompatibleError: more tokens than the decoder has positions, encoder states of another width.
        """
        if input_ids is None and inputs_embeds is None:
            raise UsageError(
                "no text is given",
                field="decoder_input_ids",
                hint="give it, or labels to train; model.generate writes texts",
            )
        if input_ids is not None and inputs_embeds is not None:
            raise UsageError("give either decoder_input_ids or decoder_inputs_embeds, and not both")
        self._check_text(input_ids, inputs_embeds)
        embeddings = self._lookup(input_ids) if inputs_embeds is None else inputs_embeds
        cache = past_key_values
        if self.gradient_checkpointing and self.training and (use_cache or cache is not None):
            raise UsageError("gradient checkpointing keeps no cache", field="use_cache", hint="pass use_cache=False")
        if cache is None and use_cache:
            cache = self.make_cache()
        self._check_encoder_states(encoder_hidden_states, embeddings.shape[0])

        queries, past = embeddings.shape[1], cache.length if cache is not None else 0
        if cache is not None and past and cache.rows != len(embeddings):
            raise UsageError(
                f"{len(embeddings)} rows of text for a cache of {cache.rows}",
                field="past_key_values",
                hint="give the same rows at each step, or reorder the cache",
            )
        if self.max_positions is not None and past + queries > self.max_positions:
            raise IncompatibleError(
                f"a text of {past + queries} tokens, but the decoder has {self.max_positions} positions",
                field="decoder_input_ids",
                hint=f"cut the text to {self.max_positions - past} tokens",
            )
        padding = _full_mask(attention_mask, cache, embeddings.shape[0], past, queries)
        positions = self._positions(input_ids, padding, cache, past, queries, embeddings.device, prompt_length)
        mask = causal_mask(queries, past + queries, padding, embeddings.device)
        encoder_mask = _encoder_mask(encoder_attention_mask, cache)

        x = self.embed(embeddings, positions)
        states, attentions, cross_attentions = [x], [], []
        for i, layer in enumerate(self.layers):
            if self.training and self.layerdrop and cache is None and torch.rand(()).item() < self.layerdrop:
                continue
            arguments = (
                x,
                mask,
                encoder_hidden_states,
                encoder_mask,
                cache.layers[i] if cache else None,
                output_attentions,
            )
            if self.gradient_checkpointing and self.training:
                x, weights, cross_weights = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                x, weights, cross_weights = layer(*arguments)
            states.append(x)
            attentions.append(weights)
            if cross_weights is not None:
                cross_attentions.append(cross_weights)
        states[-1] = x = self.final_norm(x)
        return DecoderOutput(
            logits=self.head(x[:, -1:] if last_logits_only else x),
            past_key_values=cache,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            cross_attentions=tuple(cross_attentions) if output_attentions and cross_attentions else None,
        )

    def _lookup(self, input_ids: Tensor | None) -> Tensor:
        assert input_ids is not None
        try:
            return self.embed_tokens(input_ids)
        except IndexError:  # only a CPU says so; checking first would make a GPU wait
            low, high = int(input_ids.min()), int(input_ids.max())
            raise UsageError(
                f"token ids run from {low} to {high}, but the vocabulary has {self.vocab_size}",
                field="decoder_input_ids",
                hint=f"for added tokens first call model.resize_vocabulary({high + 1})"
                if high >= self.vocab_size
                else "use the model's own tokenizer",
            ) from None

    def _check_text(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> None:
        if input_ids is not None and (input_ids.ndim != 2 or input_ids.dtype not in (torch.long, torch.int)):
            raise UsageError(
                f"ids of shape {tuple(input_ids.shape)} and type {input_ids.dtype}",
                field="decoder_input_ids",
                hint="give (B, T) of torch.long",
            )
        if inputs_embeds is None:
            return
        width = self.get_input_embeddings().embedding_dim
        if inputs_embeds.ndim != 3 or inputs_embeds.shape[-1] != width:
            raise UsageError(
                f"embeddings of shape {tuple(inputs_embeds.shape)}",
                field="decoder_inputs_embeds",
                hint=f"give (B, T, {width})",
            )

    def _check_encoder_states(self, states: Tensor | None, rows: int) -> None:
        if states is None:
            return
        if states.shape[-1] != self.cross_attention_size:
            raise IncompatibleError(
                f"encoder states of width {states.shape[-1]}, but cross-attention takes {self.cross_attention_size}",
                field="decoder.cross_attention_hidden_size",
                hint="give what model.project made of what model.encode gave",
            )
        if not rows or not len(states) or rows % len(states):
            raise UsageError(f"{rows} rows of text for {states.shape[0]} images", hint="give every image as many rows")

    def _positions(
        self,
        input_ids: Tensor | None,
        padding: Tensor | None,
        cache: DecoderCache | None,
        past: int,
        queries: int,
        device: torch.device,
        prompt_length: int | None,
    ) -> Tensor:
        real = None if padding is None else padding[:, past:]  # (B, T)
        begun = None if padding is None else (padding.cumsum(1) > 0)[:, past:]  # (B, T) all but padding at the left
        taken = self.takes_position(input_ids, begun)
        before = cache.positions if cache is not None else None
        if taken is None and before is None:
            return torch.arange(past, past + queries, device=device)[None]  # (1, T)
        start = torch.full((1, 1), past, device=device) if before is None else before  # (1 or B, 1)
        every = torch.ones(start.shape[0], queries, dtype=torch.bool, device=device) if begun is None else begun
        after = start + every.long().cumsum(1)  # (B, T)
        if cache is not None and (begun is not None or before is not None):
            cache.positions = after[:, -1:]
        if taken is None:
            return after - 1
        counted = start + taken.long().cumsum(1)
        if prompt_length is not None:
            indices = torch.arange(past, past + queries, device=device)
            counted = torch.where(indices < prompt_length, counted, after)
        return torch.where(taken if real is None else taken & real, counted - 1, -1)


def torch_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The type of that name.

    Raises:
        UsageError: no type for weights.
    """
    choices = {str(t).removeprefix("torch."): t for t in (torch.float32, torch.float16, torch.bfloat16, torch.float64)}
    if dtype is None or (isinstance(dtype, torch.dtype) and dtype in choices.values()):
        return dtype
    if dtype in choices:
        return choices[dtype]
    raise UsageError(f"{dtype!r} is not a type of weights", field="dtype", hint=f"choose one of {', '.join(choices)}")


def _full_mask(mask: Tensor | None, cache: DecoderCache | None, rows: int, past: int, queries: int) -> Tensor | None:
    """The padding mask (B, L) of all tokens so far, from a mask of the new ones or of all; kept in the cache."""
    before = cache.attention_mask if cache is not None else None
    if mask is None and before is None:
        return None
    if mask is not None and (mask.ndim != 2 or mask.shape[0] != rows or mask.shape[1] not in (queries, past + queries)):
        raise UsageError(
            f"a mask of shape {tuple(mask.shape)} for {rows} rows of {queries} tokens",
            field="decoder_attention_mask",
            hint=f"give ({rows}, {past + queries})",
        )
    if mask is None:
        assert before is not None
        mask = before.new_ones(rows, queries)
    full = mask.bool()
    if full.shape[1] != past + queries:
        full = torch.cat([full.new_ones(rows, past) if before is None else before, full], 1)
    if cache is not None:
        cache.attention_mask = full
    return full


def _encoder_mask(mask: Tensor | None, cache: DecoderCache | None) -> Tensor | None:
    """(N, S) or what the cache remembers, as (N, 1, 1, S)."""
    if mask is not None:
        mask = mask.bool()
        if cache is not None:
            cache.encoder_mask = mask
    elif cache is not None:
        mask = cache.encoder_mask
    return None if mask is None else mask[:, None, None]


def _resized(old: Tensor, rows: int) -> Tensor:
    kept = min(rows, old.shape[0])
    new = old.new_empty(rows, *old.shape[1:])
    new[:kept] = old.detach()[:kept]
    if rows > kept:
        mean, std = old.detach().float().mean(0), old.detach().float().std(0, unbiased=False)
        new[kept:] = (mean + std * torch.randn(rows - kept, *old.shape[1:], device=old.device)).to(old.dtype)
    return new
