"""With transformers' weights, every family computes what transformers' class of its name computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vedcore.layers.context import LayerContext
from vedcore.weights.keymap import to_ours, to_theirs

TOLERANCE = {"rtol": 0.0, "atol": 1e-4}


def copied(case: Any) -> tuple[Any, Any]:
    """transformers' decoder, and ours with its weights."""
    theirs, ours = case.build_theirs(seed=1), case.build(seed=2)
    absent = ours.load_state_dict(to_ours(theirs.state_dict(), ours.transformers[0].key_map), strict=False)
    assert not absent.unexpected_keys
    assert set(absent.missing_keys) == (ours.fresh_parameters() if case.name == "distilbert" else set())
    return theirs, ours


@pytest.mark.parametrize("padding", ["none", "masked", "unmasked"])
def test_logits_states_and_attentions(crossing_case: Any, padding: str, ids: Tensor) -> None:
    """With encoder states, which transformers' DistilBERT does not take; under padding, at the real tokens.

    A padding id that no mask names is a token as any, but has no position where the family counts by ids.
    """
    theirs, ours = copied(crossing_case)
    states = torch.randn(2, 5, ours.cross_attention_size)
    mask, encoder_mask = torch.ones(2, 7, dtype=torch.long), torch.ones(2, 5, dtype=torch.long)
    if padding == "masked":
        mask[1, 5:] = encoder_mask[1, 3:] = 0
    if padding != "none":
        ids[1, 5:] = ids[0, 2:4] = ours.config.pad_token_id or 0
    given = {
        "attention_mask": mask,
        "encoder_hidden_states": states,
        "encoder_attention_mask": encoder_mask,
        "output_attentions": True,
        "output_hidden_states": True,
        "use_cache": False,
    }
    with torch.no_grad():
        expected, out = theirs(ids, **given), ours(ids, **given)
        fast = ours(ids, **{**given, "output_attentions": False})
    real = mask.bool()
    assert expected.logits.std() > 0.5  # so that 1e-4 says something
    torch.testing.assert_close(out.logits[real], expected.logits[real], **TOLERANCE)
    torch.testing.assert_close(fast.logits[real], expected.logits[real], **TOLERANCE)
    assert len(out.hidden_states) == len(expected.hidden_states) == len(ours.layers) + 1
    for a, b in zip(out.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(a[real], b[real], **TOLERANCE)
    for name in ("attentions", "cross_attentions"):
        for a, b in zip(getattr(out, name), getattr(expected, name), strict=True):
            torch.testing.assert_close(a.transpose(1, 2)[real], b.transpose(1, 2)[real], **TOLERANCE)


def test_language_model_alone(case: Any, ids: Tensor) -> None:
    """Without encoder states, cross-attention is skipped."""
    theirs, ours = copied(case)
    if case.name == "distilbert":
        ids = ids[:, :1]  # theirs sees both ways, which for one token is the same
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, **TOLERANCE)


def test_distilbert_both_ways(distilbert_case: Any, ids: Tensor) -> None:
    """Embedding, layers and head without the causal mask are DistilBertForMaskedLM."""
    theirs, ours = copied(distilbert_case)
    with torch.no_grad():
        x = ours.embed(ours.embed_tokens(ids), torch.arange(7)[None])
        for layer in ours.layers:
            x = layer(x, LayerContext())
        torch.testing.assert_close(ours.head(x), theirs(ids).logits, **TOLERANCE)


def test_fresh_sinusoids_are_theirs() -> None:
    """Tables that are not learned start out equal."""
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    from vedcore_decoders.distilbert import interleaved_sinusoids

    model = DistilBertForMaskedLM(
        DistilBertConfig(
            vocab_size=9,
            dim=24,
            n_heads=3,
            n_layers=1,
            hidden_dim=8,
            max_position_embeddings=32,
            sinusoidal_pos_embds=True,
        )
    )
    table = model.distilbert.embeddings.position_embeddings.weight.data
    torch.testing.assert_close(interleaved_sinusoids(32, 24), table)


def test_key_map_both_ways(case: Any) -> None:
    """All names and layouts of transformers come back bit for bit, and so do ours."""
    theirs, ours = copied(case)
    there = theirs.state_dict()
    back = to_theirs(to_ours(there, ours.transformers[0].key_map), ours.transformers[0].key_map)
    assert back.keys() == there.keys()
    for name, tensor in there.items():
        if name.endswith("predictions.bias") or name == "lm_head.bias":  # a second name, which is unused when untied
            name = name.replace("bias", "decoder.bias")
        assert torch.equal(back[name], there[name]), name
        assert back[name].shape == tensor.shape
    here = ours.state_dict()
    again = to_ours(to_theirs(here, ours.transformers[0].key_map), ours.transformers[0].key_map)
    assert again.keys() == here.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in here.items())


def test_old_files(families: dict[str, Any], ids: Tensor) -> None:
    """Names without a prefix, gamma and beta, causal masks, absent heads and shared embeddings are read."""

    def old(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if name == "gpt2":
            kept = {k.removeprefix("transformer."): v for k, v in tensors.items() if k != "lm_head.weight"}
            return {**kept, "h.0.attn.bias": torch.ones(1, 1, 9, 9), "h.1.attn.masked_bias": torch.tensor(-1e4)}
        if name == "bart":
            kept = {k.removeprefix("model."): v for k, v in tensors.items() if k != "lm_head.weight"}
            shared = kept.pop("decoder.embed_tokens.weight")
            return {**kept, "shared.weight": shared, "encoder.layers.0.fc1.weight": torch.ones(2, 2)}
        kept = {k.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v for k, v in tensors.items()}
        kept.pop("cls.predictions.decoder.bias")
        return {**kept, "bert.pooler.dense.weight": torch.ones(2, 2), "cls.seq_relationship.bias": torch.ones(2)}

    for name in ("gpt2", "bart", "bert"):
        theirs, ours = copied(families[name])
        expected = ours(ids).logits
        other = families[name].build(seed=3)
        read = to_ours(old(name, theirs.state_dict()), other.transformers[0].key_map)
        absent = other.load_state_dict(read, strict=False)
        assert not absent.unexpected_keys
        assert set(absent.missing_keys) <= {"output.weight"}  # tied: it is the embedding's
        assert torch.equal(other(ids).logits, expected)
