"""The contract of a text decoder, and how every family reads a text: masks, positions, the cache, the outputs.

Shape letters: N images, B rows of text (a multiple of N), S encoder tokens, T new text tokens, L text tokens so far,
D width, E width of the encoder states that cross-attention takes, V vocabulary size.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vedcore.components import Component
from vedcore.config import MAX_VOCAB_SIZE, DecoderConfig
from vedcore.errors import IncompatibleError, UsageError
from vedcore.layers.attention import causal_mask
from vedcore.layers.cache import DecoderCache
from vedcore.layers.checkpointing import without_cache
from vedcore.layers.tracing import holds, is_traced
from vedcore.outputs import DecoderOutput

__all__ = ["TextDecoder"]


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
        given = input_ids if inputs_embeds is None else inputs_embeds
        assert given is not None
        (rows, queries), device = given.shape[:2], given.device
        cache = past_key_values
        if self.gradient_checkpointing and self.training:
            use_cache, cache = without_cache(use_cache, cache)
        if cache is None and use_cache:
            cache = self.make_cache()
        self._check_encoder_states(encoder_hidden_states, rows)
        past = cache.length if cache is not None else 0
        if cache is not None and cache.rows != rows and past:
            raise UsageError(
                f"{rows} rows of text for a cache of {cache.rows}",
                field="past_key_values",
                hint="give the same rows at each step, or reorder the cache",
            )
        if self.max_positions is not None and holds(past + queries > self.max_positions):
            raise IncompatibleError(
                f"a text of {past + queries} tokens, but the decoder has {self.max_positions} positions",
                field="decoder_input_ids",
                hint=f"cut the text to {self.max_positions - past} tokens"
                if past < self.max_positions
                else "begin a new text, without past_key_values",
            )
        padding = _full_mask(attention_mask, cache, rows, past, queries)
        positions, counted = self._positions(input_ids, padding, cache, past, queries, device, prompt_length)
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
        )
        if cache is not None:  # after the text was read: an error leaves the cache as it was
            cache.attention_mask, cache.positions, cache.encoder_mask = padding, counted, encoder_attention_mask
        return out

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
    ) -> DecoderOutput:
        """The tensors' half of `forward`: nothing is checked, and no value of a tensor is read.

        Args:
            text: (B, T) ids, or (B, T, D) embeddings.
            positions: (1 or B, T), as `embed` takes them.
            mask: (1 or B, 1, T, L) True where a token attends, or None, as `causal_mask` makes it.
            encoder_hidden_states: (N, S, E); None takes what the cache holds of them.
            encoder_mask: (N, 1, 1, S) True where an encoder token counts, or None.
            cache: gets the new keys and values, and those of the images at the first call.
            output_attentions: as in `forward`, and so the rest.
            output_hidden_states: see there.
            last_logits_only: see there.
        """
        x = self.embed(self._lookup(text) if text.ndim == 2 else text, positions)
        states, attentions, cross_attentions = [x], [], []
        drops = self.training and self.layerdrop > 0 and cache is None
        for i, layer in enumerate(self.layers):
            drawn = torch.rand(()) if drops else None
            if drawn is not None and not is_traced() and drawn.item() < self.layerdrop:
                continue
            before = x
            arguments = (
                x,
                mask,
                encoder_hidden_states,
                encoder_mask,
                None if cache is None else cache.layers[i],
                output_attentions,
            )
            if self.gradient_checkpointing and self.training:
                x, weights, cross_weights = self.checkpointing.run(i, layer, *arguments)
            else:
                x, weights, cross_weights = layer(*arguments)
            if drawn is not None and is_traced():  # a recorded program cannot leave out what it computes
                x = torch.where(drawn.to(x.device) < self.layerdrop, before, x)
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

    def _lookup(self, input_ids: Tensor) -> Tensor:
        try:
            return self.embed_tokens(input_ids)
        except IndexError:  # only a CPU says so; checking first would make a GPU wait
            low, high = int(input_ids.min()), int(input_ids.max())
            hint = "use the model's own tokenizer"
            if low < 0:
                hint = "give ids from 0 on; -100 is for labels alone"
            elif high < MAX_VOCAB_SIZE:
                hint = f"leave such tokens out, or first call model.resize_vocabulary({high + 1})"
            raise UsageError(
                f"token ids run from {low} to {high}, but the vocabulary has {self.vocab_size}",
                field="decoder_input_ids",
                hint=hint,
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
        images = states.shape[0]
        if not rows or not images or rows % images:
            raise UsageError(f"{rows} rows of text for {images} images", hint="give every image as many rows")

    def _positions(
        self,
        input_ids: Tensor | None,
        padding: Tensor | None,
        cache: DecoderCache | None,
        past: int,
        queries: int,
        device: torch.device,
        prompt_length: int | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Positions (1 or B, T) of the new tokens, and those taken so far (B, 1), which the cache is to remember."""
        real = None if padding is None else padding[:, past:]  # (B, T)
        begun = None if padding is None else (padding.cumsum(1) > 0)[:, past:]  # (B, T) all but padding at the left
        taken = self.takes_position(input_ids, begun)
        before = cache.positions if cache is not None else None
        if taken is None and before is None:
            return torch.arange(past, past + queries, device=device)[None], None  # (1, T)
        start = torch.full((1, 1), past, device=device) if before is None else before  # (1 or B, 1)
        every = torch.ones(start.shape[0], queries, dtype=torch.bool, device=device) if begun is None else begun
        after = start + every.long().cumsum(1)  # (B, T)
        last = after[:, -1:] if begun is not None or before is not None else None
        if taken is None:
            return after - 1, last
        counted = start + taken.long().cumsum(1)
        if prompt_length is not None:
            indices = torch.arange(past, past + queries, device=device)
            counted = torch.where(indices < prompt_length, counted, after)
        return torch.where(taken if real is None else taken & real, counted - 1, -1), last


def _full_mask(mask: Tensor | None, cache: DecoderCache | None, rows: int, past: int, queries: int) -> Tensor | None:
    """The padding mask (B, L) of all tokens so far, from a mask of the new ones or of all."""
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
    return full


def _resized(old: Tensor, rows: int) -> Tensor:
    kept = min(rows, old.shape[0])
    new = old.new_empty(rows, *old.shape[1:])
    new[:kept] = old.detach()[:kept]
    if rows > kept:
        mean, std = old.detach().float().mean(0), old.detach().float().std(0, unbiased=False)
        new[kept:] = (mean + std * torch.randn(rows - kept, *old.shape[1:], device=old.device)).to(old.dtype)
    return new
