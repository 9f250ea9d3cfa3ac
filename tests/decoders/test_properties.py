"""Properties of every decoder, whatever its family, that no check of `vedcore.testing` holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vedcore.errors import IncompatibleError, UsageError
from vedcore.layers.linear import Linear

TOLERANCE = {"rtol": 0.0, "atol": 1e-4}


def close(a: Tensor, b: Tensor) -> None:
    """The tensors are equal to 1e-4."""
    torch.testing.assert_close(a, b, **TOLERANCE)


@torch.no_grad()
def logits(model: Any, ids: Tensor, states: Tensor | None = None, **given: Any) -> Tensor:
    """Logits of one call, without gradients."""
    out: Tensor = model(ids, encoder_hidden_states=states, **given).logits
    return out


@pytest.mark.parametrize("capacity", [7, 3])
def test_a_cache_of_any_capacity(family: Any, capacity: int, ids: Tensor, states: Tensor) -> None:
    """A cache that is full or grows gives the logits of one call, with padding of texts and images."""
    model, encoder_mask = family.build(), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    ids[1, :2] = model.config.pad_token_id or 0
    mask = torch.tensor([[1] * 7, [0] * 2 + [1] * 5])
    whole = logits(model, ids, states, attention_mask=mask, encoder_attention_mask=encoder_mask)
    cache, seen, parts = model.make_cache(capacity), 0, []
    for chunk in (3, 1, 2, 1):
        given: dict[str, Any] = {} if seen else {"states": states, "encoder_attention_mask": encoder_mask}
        so_far = mask[:, : seen + chunk]
        parts.append(logits(model, ids[:, seen : seen + chunk], past_key_values=cache, attention_mask=so_far, **given))
        seen += chunk
    close(torch.cat(parts, 1)[mask.bool()], whole[mask.bool()])
    assert cache.length == cache.get_seq_length() == 7


def test_the_mask_of_the_new_tokens_is_enough(family: Any, ids: Tensor, states: Tensor) -> None:
    """In a step the cache knows the mask of the tokens before."""
    model = family.build()
    mask = torch.tensor([[1] * 6, [0] * 2 + [1] * 4])
    cache = model(ids[:, :6], mask, states, use_cache=True).past_key_values
    step = logits(model, ids[:, 6:], past_key_values=cache, attention_mask=torch.ones(2, 1))
    close(step, logits(model, ids, states, attention_mask=torch.cat([mask, torch.ones(2, 1)], 1))[:, 6:])


def test_a_cache_of_inference_mode_goes_on_outside_of_it(family: Any, ids: Tensor, states: Tensor) -> None:
    model = family.build()
    with torch.inference_mode():
        cache = model(ids[:, :4], encoder_hidden_states=states, use_cache=True).past_key_values
    parts = [logits(model, ids[:, at : at + 1], past_key_values=cache) for at in range(4, 7)]
    close(torch.cat(parts, 1), logits(model, ids, states)[:, 4:])


def test_rows_of_one_image_share_its_keys(family: Any, states: Tensor) -> None:
    """Three rows for one image give the logits and attentions of three rows with repeated states."""
    model, ids = family.build(), torch.randint(5, 61, (6, 4))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    copies, copied_mask = states.repeat_interleave(3, 0), mask.repeat_interleave(3, 0)
    whole = model(ids, None, copies, copied_mask, output_attentions=True)
    for attentions in (False, True):
        out = model(ids, None, states, mask, use_cache=True, output_attentions=attentions)
        close(out.logits, whole.logits)
        assert out.past_key_values.layers[0].cross[0].shape[0] == 2
    for a, b in zip(out.cross_attentions, whole.cross_attentions, strict=True):
        close(a, b)


def test_beams_are_reordered(family: Any, states: Tensor) -> None:
    """Rows that are reordered within their image continue as if computed in that order, with padding too."""
    model, ids = family.build(), torch.randint(5, 61, (4, 5))
    mask = torch.ones(4, 5, dtype=torch.long)
    mask[0, :2] = mask[3, :1] = 0
    ids[mask == 0] = model.config.pad_token_id or 0
    cache = model(ids[:, :4], mask[:, :4], states, use_cache=True).past_key_values
    order = torch.tensor([1, 0, 3, 3])
    cache.reorder(order)
    step = logits(model, ids[:, 4:], past_key_values=cache)
    moved = torch.cat([ids[order, :4], ids[:, 4:]], 1)
    moved_mask = torch.cat([mask[order, :4], mask[:, 4:]], 1)
    close(step, logits(model, moved, states, attention_mask=moved_mask)[:, 4:])


def test_attentions_are_given_always(family: Any, ids: Tensor, states: Tensor) -> None:
    """One for each layer, of rows that sum to one; cross-attentions where there are encoder states."""
    model = family.build()
    out = model(ids, encoder_hidden_states=states, output_attentions=True)
    heads = model.num_attention_heads
    assert [a.shape for a in out.attentions] == [(2, heads, 7, 7)] * 2
    assert [a.shape for a in out.cross_attentions] == [(2, heads, 7, 5)] * 2
    for a in (*out.attentions, *out.cross_attentions):
        close(a.sum(-1), torch.ones(a.shape[:-1]))
    alone = model(ids, output_attentions=True)
    assert len(alone.attentions) == 2
    assert alone.cross_attentions is None


def test_gradient_checkpointing_gives_the_same_gradients(family: Any, ids: Tensor, states: Tensor) -> None:
    """Gradients of every parameter are equal, with dropout too."""
    gradients = []
    for checkpointing in (False, True):
        model = family.build().train()
        model.gradient_checkpointing = checkpointing
        torch.manual_seed(5)
        model(ids, encoder_hidden_states=states).logits.square().mean().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None
        assert gradient.abs().sum() > 0 or name.endswith("key.bias"), name
        torch.testing.assert_close(gradient, gradients[1][name])
    with pytest.warns(UserWarning, match="use_cache=False"):
        assert model(ids, use_cache=True).past_key_values is None


@pytest.mark.parametrize("token", [61, -1, 10**12])
def test_ids_outside_the_vocabulary(families: dict[str, Any], token: int, ids: Tensor) -> None:
    """The id is named with the size of the vocabulary."""
    ids[0, 0] = token
    with pytest.raises(UsageError, match=f"{token}.*vocabulary has 61|vocabulary has 61"):
        families["gpt2"].build()(ids)


def test_bad_calls(family: Any, ids: Tensor, states: Tensor) -> None:
    """Too many tokens, in one call or with the cache; widths, rows and masks that do not fit."""
    model = family.build()
    with pytest.raises(IncompatibleError, match="33 tokens, but the decoder has 32 positions"):
        model(torch.full((1, 33), 5))
    cache = model(torch.full((1, 32), 5), use_cache=True).past_key_values
    with pytest.raises(IncompatibleError, match="33 tokens"):
        model(torch.full((1, 1), 5), past_key_values=cache)
    with pytest.raises(IncompatibleError, match="width 9, but cross-attention takes 24"):
        model(ids, encoder_hidden_states=states[..., :9])
    with pytest.raises(UsageError, match="3 rows of text for 2 images"):
        model(torch.full((3, 1), 5), encoder_hidden_states=states)
    with pytest.raises(UsageError, match=r"mask of shape \(2, 3\)"):
        model(ids, attention_mask=torch.ones(2, 3))
    with pytest.raises(UsageError, match=r"ids of shape \(7,\)"):
        model(ids[0])
    with pytest.raises(UsageError, match="type torch.float32"):
        model(ids.float())
    with pytest.raises(UsageError, match=r"shape \(2, 3, 9\).*give \(B, T, 24\)"):
        model(inputs_embeds=torch.zeros(2, 3, 9))
    cache = model(ids, use_cache=True).past_key_values
    with pytest.raises(UsageError, match="1 rows of text for a cache of 2"):
        model(ids[:1], past_key_values=cache)
    with pytest.raises(UsageError, match="no text is given"):
        model()
    with pytest.raises(UsageError, match="not both"):
        model(ids, inputs_embeds=torch.zeros(2, 7, 24))


def test_ties(family: Any) -> None:
    """A tied weight is one parameter."""
    tied, untied = family.build(), family.build(tie_word_embeddings=False)
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight
    assert len(list(untied.parameters())) == len(list(tied.parameters())) + 1


def test_fresh_weights_are_spread_as_said(family: Any) -> None:
    """Fresh weights have the spread of ``initializer_range`` or ``init_std``; biases are zero.

    GPT2's layers that write to the residual have less.
    """
    field = "init_std" if "init_std" in type(family.build().config).model_fields else "initializer_range"
    spread = family.build(**{field: 0.05})
    model = type(spread)(spread.config)
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(0.05, rel=0.1)
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            scale = 0.5 if family.name == "gpt2" and name.endswith(".output") else 1.0  # 1 / sqrt(2 * 2 layers)
            assert module.weight.std().item() == pytest.approx(0.05 * scale, rel=0.2), name
            assert module.bias is None or not module.bias.any()


def test_layerdrop(families: dict[str, Any], ids: Tensor) -> None:
    """Layers are dropped in training only."""
    for name in ("bart", "mbart", "trocr"):
        model = families[name].build(decoder_layerdrop=0.999)
        assert len(model(ids, output_hidden_states=True).hidden_states) == 3
        assert len(model.train()(ids, output_hidden_states=True).hidden_states) == 1


def test_sinusoids_have_no_end(families: dict[str, Any]) -> None:
    """A TrOCR with sinusoids takes more tokens than ``max_position_embeddings``."""
    model = families["trocr"].build(use_learned_position_embeddings=False)
    assert model.max_positions is None
    assert model(torch.full((1, 50), 5)).logits.shape == (1, 50, 61)
