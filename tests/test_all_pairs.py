"""Every kind of encoder with every family of decoders: properties of all pairs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import vedcore

ENCODERS: dict[str, dict[str, Any]] = {
    "vit": {
        "name": "vit",
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "patch_size": 8,
        "image_size": (16, 32),
    },
    "deit": {
        "name": "deit_tiny_distilled_patch16_224",
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "patch_size": 8,
        "image_size": (16, 32),
    },
    "beit": {
        "name": "beit",
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "patch_size": 8,
        "image_size": (16, 32),
    },
    "swin": {
        "name": "swin",
        "embed_dim": 12,
        "depths": (1, 1),
        "num_heads": (1, 2),
        "window_size": 4,
        "patch_size": 2,
        "image_size": (16, 32),
    },
    "timm": {"name": "timm/convnext_atto", "image_size": (64, 96)},
}

_BART = {
    "d_model": 24,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 20,
}
_BERT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
}
DECODERS: dict[str, dict[str, Any]] = {
    "bert": {"name": "bert", **_BERT, "initializer_range": 0.3},
    "roberta": {"name": "roberta", **_BERT, "initializer_range": 0.3},
    "xlm-roberta": {"name": "xlm-roberta", **_BERT, "initializer_range": 0.3},
    "camembert": {"name": "camembert", **_BERT, "initializer_range": 0.3},
    "distilbert": {
        "name": "distilbert",
        "dim": 24,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 40,
        "max_position_embeddings": 20,
        "initializer_range": 0.3,
    },
    "gpt2": {"name": "gpt2", "n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 20, "initializer_range": 0.3},
    "bart": {"name": "bart", **_BART, "init_std": 0.3},
    "mbart": {"name": "mbart", **_BART, "init_std": 0.3},
    "trocr": {"name": "trocr", **_BART, "init_std": 0.3, "cross_attention_hidden_size": None},
}
PAIRS = list(itertools.product(ENCODERS, DECODERS))


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: "-".join(pair))
def model(request: pytest.FixtureRequest) -> vedcore.VisionEncoderDecoder:
    encoder, decoder = request.param
    return vedcore.compose(
        ENCODERS[encoder],
        DECODERS[decoder],
        decoder_vocab_size=50,
        tokenizer=None,
        seed=7,
        token_ids={"start": 2, "eos": (3,), "pad": 1},
    )


@pytest.fixture
def pixels(model: vedcore.VisionEncoderDecoder) -> torch.Tensor:
    height, width = model.encoder.preprocessing.image_size
    return torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2


def ids(rows: int = 3, length: int = 6) -> torch.Tensor:
    return torch.randint(4, 50, (rows, length), generator=torch.Generator().manual_seed(1))


def test_comes_in_eval_mode(model: vedcore.VisionEncoderDecoder) -> None:
    assert not any(module.training for module in model.modules())


def test_every_parameter_learns_in_one_step(model: vedcore.VisionEncoderDecoder, pixels: torch.Tensor) -> None:
    labels = ids()
    labels[0, 4:] = -100
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = {name: t.clone() for name, t in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    model.train()
    try:
        loss = model(pixels, labels=labels).loss
        loss.backward()
        still = [name for name, p in model.named_parameters() if p.grad is None]
        # a bias of keys has no gradient: softmax cancels it
        zero = [
            name
            for name, p in model.named_parameters()
            if p.grad is not None and not p.grad.any() and "key.bias" not in name
        ]
        optimizer.step()
        assert not still
        assert not [name for name in zero if "positions" not in name], zero
        for part in ("encoder.", "decoder."):
            assert any(
                not torch.equal(p, before[name]) for name, p in model.named_parameters() if name.startswith(part)
            )
        crossing = [name for name, _ in model.named_parameters() if "cross_attention.query.weight" in name]
        assert len(crossing) == 2
        assert all(not torch.equal(dict(model.named_parameters())[name], before[name]) for name in crossing)
    finally:
        model.zero_grad()
        model.load_state_dict(state)
        model.eval()


def test_logits_change_with_the_image(model: vedcore.VisionEncoderDecoder, pixels: torch.Tensor) -> None:
    with torch.no_grad():
        logits = model(pixels, decoder_input_ids=ids()[:1].expand(3, -1)).logits
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_the_future_does_not_leak(model: vedcore.VisionEncoderDecoder, pixels: torch.Tensor) -> None:
    text = ids()
    changed = text.clone()
    changed[:, 4:] = (text[:, 4:] - 4 + 7) % 46 + 4
    with torch.no_grad():
        a, b = (model(pixels, decoder_input_ids=t).logits for t in (text, changed))
    torch.testing.assert_close(a[:, :4], b[:, :4], atol=1e-5, rtol=0)
    assert (a[:, 4:] - b[:, 4:]).abs().max() > 1e-3


@pytest.mark.parametrize("beams", [1, 3])
def test_same_ids_with_and_without_cache(model: vedcore.VisionEncoderDecoder, pixels: torch.Tensor, beams: int) -> None:
    cached, plain = (model.generate(pixels, num_beams=beams, max_new_tokens=8, use_cache=c) for c in (True, False))
    assert cached.tolist() == plain.tolist()
    assert (cached[:, 0] == 2).all()


def test_an_image_alone_reads_as_in_a_batch(model: vedcore.VisionEncoderDecoder, pixels: torch.Tensor) -> None:
    together = model.generate(pixels, max_new_tokens=8)
    for row, image in zip(together, pixels, strict=True):
        alone = model.generate(image[None], max_new_tokens=8)[0]
        assert row[: len(alone)].tolist() == alone.tolist()


def test_attentions_and_hidden_states_on_request(model: vedcore.VisionEncoderDecoder, pixels: torch.Tensor) -> None:
    convolutional = "convnext" in str(model.config.encoder.fields.get("variant"))
    with torch.no_grad():
        if convolutional:
            with pytest.raises(vedcore.UsageError):
                model(pixels, decoder_input_ids=ids(), output_attentions=True)
            return
        out = model(pixels, decoder_input_ids=ids(), output_attentions=True, output_hidden_states=True)
    assert len(out.cross_attentions) == len(out.decoder_attentions) == 2
    assert out.cross_attentions[0].shape == (3, 2, 6, out.encoder_last_hidden_state.shape[1])
    torch.testing.assert_close(out.cross_attentions[1].sum(-1), torch.ones(3, 2, 6))
    assert out.encoder_attentions
    assert len(out.decoder_hidden_states) == 3


def test_bit_equal_from_disk(model: vedcore.VisionEncoderDecoder, pixels: torch.Tensor, tmp_path: Any) -> None:
    model.save_pretrained(tmp_path / "saved")
    again = vedcore.load(tmp_path / "saved")
    assert not again.training
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert again.token_ids == model.token_ids
    assert again.config == model.config
    with torch.no_grad():  # packed weights, which the model may have, round otherwise in torch 2.6
        a, b = (m.optimize_for_inference()(pixels, decoder_input_ids=ids()).logits for m in (model, again))
    assert torch.equal(a, b)


def test_the_config_makes_the_same_model(model: vedcore.VisionEncoderDecoder) -> None:
    again = vedcore.compose(model.config)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_plan_counts_what_compose_builds(model: vedcore.VisionEncoderDecoder, pixels: torch.Tensor) -> None:
    plan = vedcore.plan(model.config)
    assert plan.parameters == sum(p.numel() for p in model.parameters())
    assert plan.image_tokens == model.encode(pixels).last_hidden_state.shape[1]
    assert plan.weight_bytes == 4 * plan.parameters
