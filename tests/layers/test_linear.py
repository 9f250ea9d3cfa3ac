"""Packed linear layers compute the same, and their weights look plain to everybody."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import vedcore
from tests.packing import packed_products
from vedcore.layers import onednn
from vedcore.layers.attention import SelfAttention
from vedcore.layers.linear import Linear, SeamLinear, output_layer, pack, use_seam


@pytest.fixture(autouse=True)
def packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack wherever it is possible, whether it is faster on this machine or not."""
    can = onednn.is_right(torch.float32)
    if not can:
        pytest.skip("this torch has no oneDNN product")
    monkeypatch.setattr(onednn, "is_faster", onednn.is_right)


def _layers(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(Linear(48, 33, std=0.5), nn.ReLU(), nn.Linear(33, 20), Linear(20, 7, bias=False))
    use_seam(layers)
    return layers.to(dtype).eval()


def _are_packed(model: nn.Module, dtype: torch.dtype = torch.float32) -> list[bool]:
    """Whether the weight is packed, of each layer of `_layers`; without looking at the weights, which unpacks them."""
    return packed_products(lambda: model(torch.ones(2, 48, dtype=dtype)))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.lists(st.integers(1, 9), min_size=0, max_size=2),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_products_are_equal(width: int, out: int, rows: list[int], bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(width * 71 + out)
    layer = nn.Linear(width, out, bias).to(dtype)
    use_seam(layer)
    x = torch.randn(*rows, width).to(dtype)
    due = nn.functional.linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    with torch.no_grad():
        for _ in range(2):
            out_ = layer(x)
            assert out_.shape == (*rows, out)
            assert out_.dtype == dtype
            assert torch.allclose(out_.double(), due, rtol=tolerance, atol=tolerance)
            pack(layer)


LOOKS: dict[str, Callable[[nn.Sequential], Any]] = {
    "by name": lambda model: [layer.weight for layer in model if isinstance(layer, SeamLinear)],
    "parameters": lambda model: list(model.parameters()),
    "named_parameters": lambda model: dict(model.named_parameters()),
    "state_dict": lambda model: model.state_dict(),
    "requires_grad_": lambda model: model.requires_grad_(False),
    "train": lambda model: model.train(),
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: torch.save(model, io.BytesIO()),
    "load_state_dict": lambda model: model.load_state_dict(_layers().state_dict()),
    "apply": lambda model: model.apply(lambda part: list(part.parameters(recurse=False))),
    "to": lambda model: model.to(torch.float32),
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_looked_at_are_plain(look: str, dtype: torch.dtype) -> None:
    model = _layers(dtype)
    due = [parameter.clone() for parameter in model.parameters()]
    names = [id(parameter) for parameter in model.parameters()]
    pack(model)
    assert _are_packed(model, dtype) == [True] * 3
    seen = LOOKS[look](model)
    if isinstance(seen, nn.Module) and seen is not model:
        assert all(torch.equal(a, b) for a, b in zip(seen.parameters(), due, strict=True))
    assert _are_packed(model, torch.float32 if look == "to" else dtype) == [False] * 3
    if look not in ("to",):
        assert [id(parameter) for parameter in model.parameters()] == names  # optimizers hold these
    if look not in ("to", "load_state_dict"):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), due, strict=True))


def test_weights_are_there_once() -> None:
    model = _layers()
    held = [layer.weight for layer in model if isinstance(layer, SeamLinear)]
    pack(model)
    assert [weight.numel() for weight in held] == [0, 0, 0]
    assert sum(parameter.numel() for parameter in model.parameters()) == 48 * 33 + 33 + 33 * 20 + 20 + 20 * 7


def test_training_goes_on_where_it_was() -> None:
    models = _layers(), _layers()
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.1) for model in models]
    x = torch.randn(5, 48)
    for _ in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            model.train()
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            model.eval()
        pack(models[0])
        with torch.no_grad():
            assert torch.allclose(models[0](x), models[1](x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))


def test_gradients_flow_through_packed_layers() -> None:
    model, x = _layers(), torch.randn(2, 48, requires_grad=True)
    pack(model)
    model(x).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is not None for parameter in model.parameters())
    pack(model)  # gradients belong to plain weights
    assert _are_packed(model) == [False] * 3


def test_a_tied_head_is_never_out_of_date() -> None:
    embedding = nn.Embedding(30, 16)
    model = nn.ModuleDict({"embedding": embedding, "output": output_layer(embedding, tied=True)}).eval()
    x = torch.randn(3, 16)

    def due() -> Tensor:
        return x @ embedding.weight.detach().T

    with torch.no_grad():
        pack(model)
        assert packed_products(lambda: model["output"](x)) == [True]
        assert torch.allclose(model["output"](x), due(), atol=1e-5)
        embedding.weight.mul_(3)
        assert torch.allclose(model["output"](x), due(), atol=1e-5)
        pack(model)
        embedding.weight.data = torch.randn(30, 16)
        assert torch.allclose(model["output"](x), due(), atol=1e-5)
        pack(model)
        for parameter in model.parameters():
            parameter.data.add_(1)
        assert torch.allclose(model["output"](x), due(), atol=1e-4)
        assert model["output"].weight is embedding.weight


def test_the_off_switch_and_other_types(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> Tensor:
        raise AssertionError

    model, x = _layers(), torch.randn(2, 48)
    held = list(model.parameters())  # which packing would empty
    with torch.no_grad():
        due = model(x)
        monkeypatch.setattr(onednn, "product", refuse)
        with monkeypatch.context() as switch:
            switch.setattr(torch.backends.mkldnn, "enabled", False)
            pack(model)
            assert all(parameter.numel() for parameter in held)
            assert torch.allclose(model(x), due, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert model(x).dtype == torch.bfloat16
        model.double()
        pack(model)
        assert all(parameter.numel() for parameter in held)
        assert torch.allclose(model(x.double()).float(), due, atol=1e-5)
    model.float()
    assert torch.allclose(model(x), due, atol=1e-5)


def test_models_are_packed_when_they_write() -> None:
    model = vedcore.compose(
        {
            "name": "vit",
            "image_size": [32, 32],
            "patch_size": 16,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 48,
        },
        {"name": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2},
        tokenizer="char",
    )
    pixels = torch.randn(2, 3, 32, 32)
    ids = torch.ones(2, 3, dtype=torch.long)
    assert any(isinstance(part, SeamLinear) for part in model.encoder.modules())

    def whole() -> list[bool]:
        return packed_products(lambda: model(pixels, decoder_input_ids=ids))

    def decoder(dtype: torch.dtype = torch.float32) -> list[bool]:
        states = torch.zeros(2, 5, 32, dtype=dtype)
        return packed_products(lambda: model.decoder(ids, encoder_hidden_states=states))

    model.train()
    due = model.generate(pixels, max_new_tokens=5)
    assert not any(decoder())
    model.eval()
    assert torch.equal(model.generate(pixels, max_new_tokens=5), due)
    assert decoder()
    assert all(decoder())
    with pytest.MonkeyPatch.context() as switch:
        switch.setattr(torch.backends.mkldnn, "enabled", False)
        assert torch.equal(model.generate(pixels, max_new_tokens=5), due)
    assert not any(whole())
    model.generate(pixels, max_new_tokens=5)
    assert all(decoder())  # off once is not off for good
    with torch.autocast("cpu", torch.bfloat16):
        model.generate(pixels, max_new_tokens=5)
    assert not any(whole())
    model.generate(pixels, max_new_tokens=5)
    assert all(decoder())
    model.train()
    assert not any(decoder())
    assert model.optimize_for_inference("bfloat16") is model
    assert all(decoder(torch.bfloat16))
    assert model.dtype == torch.bfloat16
    assert model.generate(pixels, max_new_tokens=5).shape[0] == 2
    with pytest.raises(vedcore.UsageError, match="dtype"):
        model.optimize_for_inference("int8")


def test_layers_on_the_same_input_are_one_product() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(24, 3, std=0.3).eval()
    for layer in (attention.query, attention.key, attention.value):
        nn.init.normal_(layer.bias)
    due = [parameter.clone() for parameter in attention.parameters()]
    held = list(attention.parameters())
    x = torch.randn(2, 5, 24)
    with torch.no_grad():
        plain, _ = attention(x, None, None, False)
        pack(attention)
        assert packed_products(lambda: attention(x, None, None, False)) == [True] * 2  # the second is the output
        assert sum(parameter.numel() for parameter in held) == 24  # the bias of the layer that is alone
        assert torch.allclose(attention(x, None, None, False)[0], plain, atol=1e-5)
        assert torch.allclose(attention.key(x), nn.functional.linear(x, due[2], due[3]), atol=1e-5)
        assert packed_products(lambda: attention(x, None, None, False)) == [False] * 3 + [True]
        assert all(a is b and torch.equal(a, c) for a, b, c in zip(attention.parameters(), held, due, strict=True))
        pack(attention)
        attention.value.bias.add_(1)
        assert packed_products(lambda: attention(x, None, None, False)) == [False] * 3 + [True]
        pack(attention)
        seen: list[Tensor] = []
        attention.query.register_forward_hook(lambda layer, inputs, out: seen.append(out))
        attention(x, None, None, False)
        assert len(seen) == 1
        attention.key = nn.Sequential(nn.Linear(24, 24))  # as adapters do
        use_seam(attention)
        pack(attention)
        attention(x, None, None, False)


def test_inference_mode_leaves_models_that_can_be_trained() -> None:
    model, x = _layers(), torch.randn(4, 48)
    due = [parameter.clone() for parameter in model.parameters()]
    with torch.inference_mode():
        pack(model)
        model(x)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), due, strict=True))
        pack(model)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, due[0])


def test_models_of_inference_mode_write() -> None:
    with torch.inference_mode():
        model = vedcore.compose(
            {
                "name": "vit",
                "image_size": [32, 32],
                "patch_size": 16,
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 48,
            },
            {"name": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2},
            tokenizer="char",
            seed=0,
        ).eval()
        pixels = torch.randn(2, 3, 32, 32)
        first = model.generate(pixels, max_new_tokens=5)
        assert len(list(model.parameters())) == len(model.state_dict()) - 1  # the head is the embedding
        assert torch.equal(model.generate(pixels, max_new_tokens=5), first)
