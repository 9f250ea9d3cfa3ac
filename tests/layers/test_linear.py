"""Packed linear layers compute the same, and are never out of date; images of many sizes are a few for oneDNN."""

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
from torch.fx.experimental.proxy_tensor import make_fx

import vedcore
from tests.packing import packed_products
from vedcore.layers import onednn
from vedcore.layers.attention import SelfAttention
from vedcore.layers.context import LayerContext
from vedcore.layers.linear import Linear, SeamLinear, output_layer, pack, refresh, use_seam

SMALL: tuple[dict[str, Any], dict[str, Any]] = (
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
)


@pytest.fixture(autouse=True)
def packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack wherever it is possible, whether it is faster on this machine or not."""
    can = onednn.is_right(torch.float32)
    if not can:
        pytest.skip("this torch has no oneDNN product")
    monkeypatch.setattr(onednn, "is_faster", lambda dtype, *_: onednn.is_right(dtype))


def _layers(dtype: torch.dtype = torch.float32) -> _Layers:
    torch.manual_seed(0)
    layers = _Layers(Linear(48, 33, std=0.5), nn.ReLU(), nn.Linear(33, 20), Linear(20, 7, bias=False))
    use_seam(layers)
    return layers.to(dtype).eval()


def _are_packed(model: nn.Module, dtype: torch.dtype = torch.float32) -> list[bool]:
    """For each layer of `_layers`, whether its weight is packed."""
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
    "state_dict": lambda model: model.state_dict(),
    "requires_grad_": lambda model: model.requires_grad_(False),
    "eval": lambda model: model.eval(),
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: torch.load(_saved(model), weights_only=False),
}
CHANGES: dict[str, Callable[[nn.Sequential], Any]] = {
    "train": lambda model: model.train(),
    "load_state_dict": lambda model: model.load_state_dict(_layers().mul_(2).state_dict()),
    "assign": lambda model: model.load_state_dict(_layers().mul_(2).state_dict(), assign=True),
    "to": lambda model: model.to(torch.float64).to(torch.float32),
    "in place": lambda model: model.mul_(3),
    "a new parameter": lambda model: [
        setattr(m, "weight", nn.Parameter(m.weight + 1)) for m in model if m is not model[1]
    ],
}


class _Layers(nn.Sequential):
    @torch.no_grad()
    def mul_(self, factor: float) -> _Layers:
        for parameter in self.parameters():
            parameter.mul_(factor)
        return self


def _saved(model: nn.Module) -> io.BytesIO:
    torch.save(model, stream := io.BytesIO())
    stream.seek(0)
    return stream


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_look_leaves_the_layers_as_they_are(look: str, dtype: torch.dtype) -> None:
    model = _layers(dtype)
    due = [parameter.clone() for parameter in model.parameters()]
    held = list(model.parameters())
    pack(model)
    assert _are_packed(model, dtype) == [True] * 3
    seen = LOOKS[look](model)
    assert _are_packed(model, dtype) == [True] * 3
    assert all(a is b and torch.equal(a, c) for a, b, c in zip(model.parameters(), held, due, strict=True))
    if isinstance(seen, nn.Module) and seen is not model:
        assert _are_packed(seen, dtype) == [False] * 3  # a copy has plain weights only
        assert all(torch.equal(a, b) for a, b in zip(seen.parameters(), due, strict=True))


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_in_the_next_product(change: str) -> None:
    model, x = _layers(), torch.randn(2, 48)
    pack(model)
    CHANGES[change](model)
    assert _are_packed(model) == [False] * 3
    with torch.no_grad():
        plain = copy.deepcopy(model)(x)
        assert torch.allclose(model(x), plain, rtol=1e-4, atol=1e-5)
        pack(model)
        assert _are_packed(model) == [True] * 3
        assert torch.allclose(model(x), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("again", [pack, refresh])
def test_changes_that_torch_does_not_count_are_found(again: Callable[[nn.Module], None]) -> None:
    """As libraries make that swap in averaged weights, and some optimizers."""
    model, x = _layers(), torch.randn(2, 48)
    pack(model)
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data * 0.5 + 0.25)
    again(model)
    with torch.no_grad():
        assert torch.allclose(model(x), copy.deepcopy(model)(x), rtol=1e-4, atol=1e-5)


def test_a_kernel_is_chosen_by_rows_and_by_the_size_of_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "is_faster", lambda dtype, rows, weights: rows >= 4 and weights > 20 * 33)
    model = _layers()
    pack(model)
    assert packed_products(lambda: model(torch.ones(4, 48))) == [True]  # of the layer of 48 x 33 weights
    assert packed_products(lambda: model(torch.ones(3, 48))) == []
    monkeypatch.setattr(onednn, "is_faster", lambda dtype, rows, weights: rows < 4)
    model = _layers()
    pack(model)  # a batch would not gain by it
    assert packed_products(lambda: model(torch.ones(3, 48))) == [False] * 3


def test_averaged_weights_are_swapped_in_and_out() -> None:
    model = vedcore.compose(*SMALL, tokenizer="char", seed=0)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.4)
    pixels, ids = torch.rand(1, 3, 32, 32), torch.ones(1, 3, dtype=torch.long)
    averaged = [parameter.detach().flip(0) for parameter in model.parameters()]
    texts = []
    for _ in range(2):
        texts.append(model.generate(pixels, max_new_tokens=9))
        fresh = copy.deepcopy(model)
        assert torch.equal(texts[-1], fresh.generate(pixels, max_new_tokens=9))
        held = [parameter.detach().clone() for parameter in model.parameters()]
        for parameter, other in zip(model.parameters(), averaged, strict=True):
            parameter.data.copy_(other)
        with torch.no_grad():
            logits = model(pixels, decoder_input_ids=ids).logits
            assert torch.allclose(logits, copy.deepcopy(model)(pixels, decoder_input_ids=ids).logits, atol=1e-4)
        texts.append(model.generate(pixels, max_new_tokens=9))
        for parameter, other in zip(model.parameters(), held, strict=True):
            parameter.data.copy_(other)
    assert not torch.equal(texts[0], texts[1])
    assert torch.equal(texts[0], texts[2])
    assert torch.equal(texts[1], texts[3])


def test_programs_that_are_recorded_have_plain_weights() -> None:
    model, x = _layers(), torch.randn(2, 48)
    with torch.no_grad():
        pack(model)
        programs = [
            torch.export.export(model, (x,), strict=False).module(),
            torch.jit.trace(model, x, check_trace=False),
            make_fx(model)(x),
            torch.compile(model, backend="eager"),
        ]
        due = model(x)
        for program in programs:
            assert torch.allclose(program(x), due, atol=1e-5)
            assert packed_products(lambda program=program: program(x)) == []
            code = getattr(program, "code", None)
            assert code is None or "mkldnn" not in str(code)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=9, max_size=14, unique=True), st.booleans(), st.booleans())
def test_many_numbers_of_rows_are_a_few_for_onednn(rows: list[int], with_packed: bool, joined: bool) -> None:
    attention = SelfAttention(24, 3, std=0.3).eval()
    seen: set[int] = set()
    product = onednn.product

    def watched(x: Tensor, *rest: Any) -> Tensor:
        seen.add(x.numel() // x.shape[-1])
        return product(x, *rest)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(onednn, "product", watched)
        if with_packed:
            pack(attention)
        for number in rows:
            x = torch.randn(1, number, 24) if joined else torch.randn(number, 24)
            out = attention(x, LayerContext()) if joined else attention.output(x)
            assert out.shape == x.shape
            if not joined:
                due = nn.functional.linear(x, attention.output.weight, attention.output.bias)
                assert torch.allclose(out, due, atol=1e-4)
    big = {n for n in seen if n > 16}
    assert len(big - set(rows)) <= 8 * 5
    assert len(big & set(rows)) <= 8 + sum(onednn.one_of_few(n) == n for n in rows)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.sampled_from([1, 2]))
def test_images_of_many_sizes_are_a_few_for_a_convolution(
    data: st.DataObject, kernel: int, stride: int, padding: int, dilation: int, groups: int
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups)
    plain = copy.deepcopy(layer)
    use_seam(layer)
    with torch.no_grad():
        for _ in range(12):
            x = torch.randn(1, 2, data.draw(st.integers(8, 60)), data.draw(st.integers(8, 200)))
            due = plain(x)
            out = layer(x)
            assert out.shape == due.shape
            assert torch.allclose(out, due, atol=1e-5)
            fresh = copy.deepcopy(plain)
            use_seam(fresh)
            assert torch.equal(out, fresh(x))  # what came before does not matter


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decoder", ["bert", "gpt2"])
def test_logits_do_not_depend_on_earlier_sizes(decoder: str, dtype: torch.dtype) -> None:
    encoder = {"name": "timm/resnet18", "image_size": (64, 64)}
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
    more = small if decoder == "bert" else {"n_embd": 32, "n_layer": 1, "n_head": 2}
    model = vedcore.compose(encoder, {"name": decoder, **more}, tokenizer="char", seed=0).to(dtype)
    g = torch.Generator().manual_seed(0)

    def logits(n: int, height: int, width: int) -> Tensor:
        pixels = torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(width), dtype=dtype)
        with torch.no_grad():
            out: Tensor = model(pixels, decoder_input_ids=torch.ones(n, 3, dtype=torch.long)).logits
        return out

    sizes = [(1, 61, 171), (4, 75, 115)]
    before = [logits(*size) for size in sizes]
    for _ in range(12):
        height, width = torch.randint(33, 150, (2,), generator=g).tolist()
        logits(1, height, width)
    assert all(torch.equal(logits(*size), due) for size, due in zip(sizes, before, strict=True))


@pytest.mark.parametrize("size", [224, 112, 56, 384, 256, 448, 896, 1920, 2560])
def test_usual_sizes_stay(size: int) -> None:
    assert onednn.one_of_few(size) == size


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
    assert _are_packed(model) == [True] * 3


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
        refresh(model)
        assert torch.allclose(model["output"](x), due(), atol=1e-4)
        assert model["output"].weight is embedding.weight


def test_the_off_switch_and_other_types(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> Tensor:
        raise AssertionError

    model, x = _layers(), torch.randn(2, 48)
    with torch.no_grad():
        due = model(x)
        monkeypatch.setattr(onednn, "product", refuse)
        with monkeypatch.context() as switch:
            switch.setattr(torch.backends.mkldnn, "enabled", False)
            pack(model)
            assert torch.allclose(model(x), due, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert model(x).dtype == torch.bfloat16
        model.double()
        pack(model)
        assert torch.allclose(model(x.double()).float(), due, atol=1e-5)
    model.float()
    assert torch.allclose(model(x), due, atol=1e-5)


def test_models_are_packed_when_they_write() -> None:
    model = vedcore.compose(
        *SMALL,
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
        assert not whole()
    assert all(decoder())  # off once is not off for good
    with torch.autocast("cpu", torch.bfloat16):
        model.generate(pixels, max_new_tokens=5)
        assert not whole()
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
        plain = attention(x, LayerContext())
        pack(attention)
        assert packed_products(lambda: attention(x, LayerContext())) == [True] * 2  # the second is the output
        assert torch.allclose(attention(x, LayerContext()), plain, atol=1e-5)
        assert torch.allclose(attention.key(x), nn.functional.linear(x, due[2], due[3]), atol=1e-5)
        assert packed_products(lambda: attention(x, LayerContext())) == [True] * 2
        assert all(a is b and torch.equal(a, c) for a, b, c in zip(attention.parameters(), held, due, strict=True))
        pack(attention)
        attention.value.bias.add_(1)
        assert packed_products(lambda: attention(x, LayerContext())) == [False] * 3 + [True]
        pack(attention)
        seen: list[Tensor] = []
        attention.query.register_forward_hook(lambda layer, inputs, out: seen.append(out))
        attention(x, LayerContext())
        assert len(seen) == 1
        attention.key = nn.Sequential(nn.Linear(24, 24))  # as adapters do
        use_seam(attention)
        pack(attention)
        attention(x, LayerContext())


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
            *SMALL,
            tokenizer="char",
            seed=0,
        ).eval()
        pixels = torch.randn(2, 3, 32, 32)
        first = model.generate(pixels, max_new_tokens=5)
        assert len(list(model.parameters())) == len(model.state_dict())  # the head is the embedding, and has one name
        assert torch.equal(model.generate(pixels, max_new_tokens=5), first)
