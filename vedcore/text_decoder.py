"""The contract of a text decoder, and how every family reads a text: masks, positions, the cache, the outputs.

Shape letters: N images, B rows of text (a multiple of N), S encoder tokens, T new text tokens, L text tokens so far,
D width, E width of the encoder states that cross-attention takes, V vocabulary size, H heads, K head size.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from vedcore.components import Component
from vedcore.config import DecoderConfig
from vedcore.errors import UsageError
from vedcore.layers.attention import causal_mask
from vedcore.layers.cache import DecoderCache
from vedcore.layers.checkpointing import without_cache
from vedcore.layers.context import LayerContext
from vedcore.layers.tracing import holds, is_traced
from vedcore.outputs import DecoderOutput, RunOutput
from vedcore.text_inputs import (
    check_embeddings,
    check_encoder_states,
    check_ids,
    check_room,
    count_positions,
    full_mask,
)

__all__ = ["TextDecoder"]


class TextDecoder(Component):
    """Token ids and encoder states to the logits of the next tokens.

    A family gives ``config``, ``embed``, ``layers``, ``final_norm`` and ``head``; masks, positions, the cache and
    what is returned are here, once. A layer is any module that is called as ``layer(hidden_states, context)`` with a
    `LayerContext` and gives the new (B, T, D). A decoder of another make overrides `run`, the tensors' half, and keeps
    `forward`, which decides what a call means.
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
    relative_positions: ClassVar[bool] = False
    """Whether `score_bias` is asked: the cache then keeps the positions of its tokens."""
    records_attention: ClassVar[bool] = True
    """Whether all layers record the weights of self-attention; False gives those over the image alone."""
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

    def position_states(self, positions: Tensor) -> tuple[Tensor, ...]:
        """Turn positions (1 or B, T) into states for the layers, once a call: cosines and sines of rotary ones."""
        return ()

    def score_bias(self, positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """(1 or B, H, T, L) added to the scores of self-attention, with ``relative_positions``.

        Args:
            positions: (1 or B, T) of the new tokens.
            key_positions: (1 or B, L) of all tokens so far.
        """
        return None

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
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {name: value for name, value in state.items() if name not in ("_compiled", "_int8_copy")}

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``; the int8 copy, whose weights are about to change, is given up."""
        if mode:
            self.__dict__.pop("_int8_copy", None)
        return super().train(mode)

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
        if input_ids is not None:
            check_ids(input_ids, self.vocab_size)
        given = input_ids if inputs_embeds is None else inputs_embeds
        assert given is not None
        if inputs_embeds is not None:
            check_embeddings(inputs_embeds, self.get_input_embeddings().embedding_dim)
        (rows, queries), device = given.shape[:2], given.device
        cache = past_key_values
        if self.gradient_checkpointing and self.training:
            use_cache, cache = without_cache(use_cache, cache)
        if cache is None and use_cache:
            cache = self.make_cache()
        if encoder_hidden_states is not None:
            check_encoder_states(encoder_hidden_states, rows, self.cross_attention_size)
        past = cache.length if cache is not None else 0
        if cache is not None and cache.rows != rows and past:
            raise UsageError(
                f"{rows} rows of text for a cache of {cache.rows}",
                field="past_key_values",
                hint="give the same rows at each step, or reorder the cache",
            )
        check_room(past, queries, self.max_positions)
        padding = full_mask(attention_mask, cache, rows, past, queries)
        positions, counted = count_positions(
            self.takes_position, input_ids, padding, cache, past, queries, device, prompt_length
        )
        key_positions = None
        if self.relative_positions:
            before = None if cache is None else cache.key_positions
            key_positions = positions if before is None else _joined(before, positions)
        if encoder_attention_mask is not None:
            encoder_attention_mask = encoder_attention_mask.bool()
        elif cache is not None:
            encoder_attention_mask = cache.encoder_mask

        out = self.run(
            given,
            positions,
            causal_mask(queries, past + queries, padding, device),
            encoder_hidden_states,
            None if encoder_attention_mask is None else encoder_attention_mask[:, None, None],
            cache,
            output_attentions,
            output_hidden_states,
            last_logits_only,
            key_positions,
        )
        if cache is not None:  # after the text was read: an error leaves the cache as it was
            if out.new is not None and holds(cache.length == past):
                cache.extend(out.new)
            cache.attention_mask, cache.positions, cache.encoder_mask = padding, counted, encoder_attention_mask
            cache.key_positions = key_positions
        return DecoderOutput(out.logits, cache, out.hidden_states, out.attentions, out.cross_attentions)

    def cross(self, encoder_hidden_states: Tensor) -> tuple[tuple[Tensor, Tensor] | None, ...]:
        """Keys and values (N, H, S, K) of images (N, S, E), layer by layer; None of a layer that does not see them.

        `run` computes them where its cache has none: `LayerCache.cross` is their place.
        """
        seeing = (getattr(layer, "cross_attention", None) for layer in self.layers)
        return tuple(None if each is None else each.project(encoder_hidden_states) for each in seeing)

    def run(
        self,
        text: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        encoder_hidden_states: Tensor | None = None,
        encoder_mask: Tensor | None = None,
        cache: DecoderCache | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        last_logits_only: bool = False,
        key_positions: Tensor | None = None,
    ) -> RunOutput:
        """The tensors' half of `forward`: nothing is checked, and no value of a tensor is read.

        What stands in its place reads ``cache.layers``, and either extends each by `LayerCache.update`, as the layers
        here do in place, or leaves them: `forward` then appends the new keys and values that are returned.

        Args:
            text: (B, T) ids, or (B, T, D) embeddings.
            positions: (1 or B, T), as `embed` takes them.
            mask: (1 or B, 1, T, L) True where a token attends, or None, as `causal_mask` makes it.
            encoder_hidden_states: (N, S, E); None takes what the cache holds of them.
            encoder_mask: (N, 1, 1, S) True where an encoder token counts, or None.
            cache: gets the new keys and values, and those of the images at the first call.
            output_attentions: as in `forward`, and so the next two.
            output_hidden_states: see there.
            last_logits_only: see there.
            key_positions: (1 or B, L) of all tokens so far, with ``relative_positions``.
        """
        x = self.embed(self.embed_tokens(text) if text.ndim == 2 else text, positions)
        turned = tuple(each.to(x.dtype) for each in self.position_states(positions))
        bias = None if key_positions is None else self.score_bias(positions, key_positions)
        if bias is not None:
            bias = bias.to(x.dtype)
            bias = bias if mask is None else bias.masked_fill(~mask, torch.finfo(x.dtype).min)
        past = None if cache is None else cache.length
        states, attentions, cross_attentions = [x], [], []
        drops = self.training and self.layerdrop > 0 and cache is None
        for i, layer in enumerate(self.layers):
            drawn = torch.rand(()) if drops else None
            if drawn is not None and not is_traced() and drawn.item() < self.layerdrop:
                continue
            before, place = x, None if cache is None else cache.layers[i]
            context = LayerContext(
                positions, mask, encoder_hidden_states, encoder_mask, turned, bias, place, output_attentions
            )
            if self.gradient_checkpointing and self.training:
                x = self.checkpointing.run_layer(i, layer, x, context)
            else:
                x = layer(x, context)
            if drawn is not None and is_traced():  # a recorded program cannot leave out what it computes
                x = torch.where(drawn.to(x.device) < self.layerdrop, before, x)
            states.append(x)
            if output_attentions:
                if self.records_attention and context.attention is None:
                    raise UsageError(
                        f"layer {i} records no weights of self-attention",
                        field="output_attentions",
                        hint="leave it out, or declare records_attention = False",
                    )
                attentions.append(context.attention)
                cross_attentions.append(context.cross_attention)
        states[-1] = x = self.final_norm(x)
        return RunOutput(
            self.head(x[:, -1:] if last_logits_only else x),
            x,
            None if cache is None or past is None else cache.since(past),
            tuple(states) if output_hidden_states else None,
            _recorded(attentions) if self.records_attention else None,
            _recorded(cross_attentions),
        )


def _recorded(weights: Sequence[Tensor | None]) -> tuple[Tensor, ...] | None:
    """The weights of the layers that have recorded any; None where none has."""
    return tuple(each for each in weights if each is not None) or None


def _joined(before: Tensor, new: Tensor) -> Tensor:
    """(1 or B, L) and (1 or B, T) to (1 or B, L + T)."""
    rows = max(before.shape[0], new.shape[0])
    return torch.cat([before.expand(rows, -1), new.expand(rows, -1)], 1)


def _resized(old: Tensor, rows: int) -> Tensor:
    kept = min(rows, old.shape[0])
    new = old.new_empty(rows, *old.shape[1:])
    new[:kept] = old.detach()[:kept]
    if rows > kept:
        mean, std = old.detach().float().mean(0), old.detach().float().std(0, unbiased=False)
        new[kept:] = (mean + std * torch.randn(rows - kept, *old.shape[1:], device=old.device)).to(old.dtype)
    return new
