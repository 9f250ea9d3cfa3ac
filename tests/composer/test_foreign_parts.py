"""Parts of other distributions: good ones compose, bad ones are refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vedcore
from tests.composer.tiny import GPT2, VIT, same_weights
from tests.decoders import other_makes
from vedcore.composer import resolve
from vedcore.config import DecoderConfig, EncoderConfig, ProjectorConfig
from vedcore.registry import Entry, Owner, ResolvedEntry


class Encoder(vedcore.VisionEncoder):
    """The smallest encoder: one token for each image."""

    config_class = EncoderConfig
    loose = False
    width = 6
    gives: Any = None

    def __init__(self, config: EncoderConfig, pretrained: bool = False) -> None:
        super().__init__()
        self.config, self.hidden_size = config, self.width
        self.preprocessing = vedcore.Preprocessing(image_size=(4, 4))
        self.proj = nn.Linear(3, 6)
        if self.loose:
            self.table = torch.zeros(3)

    def num_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        return 1

    def forward(self, pixel_values: Tensor, *args: Any, **kwargs: Any) -> Any:
        states = self.proj(pixel_values.mean((2, 3)))[:, None]
        return vedcore.EncoderOutput(states) if self.gives is None else self.gives(states)


class Blind(vedcore.TextDecoder):
    """A language model without cross-attention."""

    config_class = DecoderConfig
    cross_attention_size = 0

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config, self.hidden_size, self.vocab_size, self.max_positions = config, 6, config.vocab_size, None
        self.table = nn.Embedding(config.vocab_size, 6)
        self.output = nn.Linear(6, config.vocab_size)

    def embed(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        return embeddings

    def head(self, hidden_states: Tensor) -> Tensor:
        out: Tensor = self.output(hidden_states)
        return out

    def get_input_embeddings(self) -> nn.Embedding:
        return self.table

    def get_output_embeddings(self) -> nn.Linear:
        return self.output


class Pool(vedcore.Projector):
    """A projector that halves the tokens, and publishes a number of them that may be wrong."""

    config_class = ProjectorConfig
    says = 2

    def __init__(self, config: ProjectorConfig, in_features: int, out_features: int) -> None:
        super().__init__()
        self.config, self.in_features, self.out_features = config, in_features, out_features
        self.proj = nn.Linear(in_features, out_features)

    def forward(self, hidden_states: Tensor) -> Tensor:
        out: Tensor = self.proj(hidden_states[:, ::2])
        return out

    def num_tokens(self, tokens: int) -> int:
        return -(-tokens // self.says)

    def project_mask(self, attention_mask: Tensor) -> Tensor:
        return attention_mask[:, ::2]


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``foreign(Encoder, loose=True)``: a class of another distribution, found as ``theirs``."""
    real = resolve.load_component

    def register(base: type, **attributes: Any) -> None:
        cls = type(base.__name__, (base,), attributes)
        entry = Entry("theirs", "their_package:Part", owner=Owner("vedcore-theirs", "1.2"))

        def load(kind: Any, name: str, recorded: str | None = None) -> tuple[Any, ResolvedEntry]:
            return (cls, ResolvedEntry(entry, None)) if name == "theirs" else real(kind, name, recorded)

        monkeypatch.setattr(resolve, "load_component", load)
        monkeypatch.setattr(resolve, "registry", lambda: SimpleNamespace(shown_name=lambda kind, entry: entry.name))

    return register


def test_parts_of_others_compose(foreign: Any) -> None:
    foreign(Encoder)
    model = vedcore.compose("theirs", GPT2)
    assert model.config.plugins["encoder"] == "vedcore-theirs==1.2"
    ids = torch.zeros(2, 3, dtype=torch.long)
    assert model(torch.zeros(2, 3, 4, 4), decoder_input_ids=ids).logits.shape == (2, 3, 50)
    foreign(Pool)
    plan, model = (make(VIT, GPT2, projector="theirs") for make in (vedcore.plan, vedcore.compose))
    assert plan.image_tokens == 4  # of 7
    mask = torch.ones(1, 7)
    mask[0, 3:] = 0
    given = {"decoder_input_ids": torch.zeros(1, 2, dtype=torch.long), "encoder_attention_mask": mask}
    out = model(torch.zeros(1, 3, 16, 24), **given, output_attentions=True)
    assert out.cross_attentions[0].shape[-1] == 4
    assert out.cross_attentions[0][..., 2:].abs().max() == 0


@pytest.mark.parametrize(
    ("base", "attributes", "says"),
    [
        (Encoder, {"loose": True}, "tensor table is neither a parameter nor a buffer; use register_buffer"),
        (Encoder, {"width": 7}, r"gives \(1, 1, 6\), but publishes \(1, 1, 7\)"),
        (Encoder, {"gives": lambda self, x: x}, "AttributeError"),
        (Encoder, {"gives": lambda self, x: vedcore.EncoderOutput(x @ x)}, "forward fails: "),
        (Encoder, {"forward": nn.Module.forward}, "has no forward"),
        (Encoder, {"__init__": lambda self, config, pretrained=False: 1 / 0}, "does not build: ZeroDivisionError"),
        (Blind, {}, "no cross-attention: it would not see the image"),
        (Blind, {"cross_attention_size": 6}, "forward fails: "),
        (Pool, {"says": 3}, r"gives \(1, 4, 24\), but publishes \(1, 3, 24\)"),
    ],
)
def test_bad_parts_of_others_are_refused_by_name(
    foreign: Any, base: type, attributes: dict[str, Any], says: str
) -> None:
    foreign(base, **attributes)
    sides = {Encoder: ("theirs", GPT2), Blind: (VIT, {"name": "theirs", "vocab_size": 9}), Pool: (VIT, GPT2)}[base]
    with pytest.raises(vedcore.VedcoreError, match=says) as refused:
        vedcore.compose(*sides, projector="theirs" if base is Pool else "auto")
    assert isinstance(refused.value, (vedcore.IncompatibleError, vedcore.PluginContractError))
    assert "theirs" in str(refused.value)
    assert len(str(refused.value)) <= 300


class PixelShuffle(vedcore.Projector):
    """A projector that joins squares of 3 x 3 tokens, and takes no others."""

    config_class = ProjectorConfig

    def __init__(self, config: ProjectorConfig, in_features: int, out_features: int) -> None:
        super().__init__()
        self.config, self.in_features, self.out_features = config, in_features, out_features
        self.proj = nn.Linear(in_features * 9, out_features)

    def forward(self, hidden_states: Tensor) -> Tensor:
        side = math.isqrt(hidden_states.shape[1])
        squares = hidden_states[:, -side * side :].unflatten(1, (side // 3, 3, side // 3, 3))
        out: Tensor = self.proj(squares.transpose(2, 3).flatten(3).flatten(1, 2))
        return out

    def num_tokens(self, tokens: int) -> int:
        return tokens // 9


@pytest.mark.parametrize(("pixels", "tokens"), [(48, 4), (72, 9)])
def test_a_projector_is_tried_with_the_tokens_of_the_encoder(foreign: Any, pixels: int, tokens: int) -> None:
    foreign(PixelShuffle)
    sides = {**VIT, "image_size": pixels}, GPT2
    assert vedcore.plan(*sides, projector="theirs").image_tokens == tokens
    model = vedcore.compose(*sides, projector="theirs")
    ids = torch.zeros(1, 2, dtype=torch.long)
    assert model(torch.rand(1, 3, pixels, pixels), decoder_input_ids=ids).logits.shape == (1, 2, 50)


def test_a_projector_that_cannot_take_the_tokens_of_the_encoder(foreign: Any) -> None:
    foreign(PixelShuffle)
    with pytest.raises(vedcore.IncompatibleError, match="projector 'theirs' of vedcore-theirs==1.2: forward fails"):
        vedcore.plan({**VIT, "image_size": 32}, GPT2, projector="theirs")


class MaskedMean(Pool):
    """The mean of the tokens that are not padding, which it has to be told."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:  # type: ignore[override]
        weight = hidden_states.new_ones(hidden_states.shape[:2]) if attention_mask is None else attention_mask
        weight = weight.to(hidden_states.dtype)[..., None]
        out: Tensor = self.proj((hidden_states * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True))
        return out

    def num_tokens(self, tokens: int) -> int:
        return 1

    def project_mask(self, attention_mask: Tensor) -> Tensor:
        return attention_mask.any(1, keepdim=True)


def test_a_projector_sees_the_mask(foreign: Any) -> None:
    foreign(MaskedMean)
    model = vedcore.compose(VIT, GPT2, projector="theirs", seed=0)
    states, mask = torch.rand(2, 7, 24), torch.ones(2, 7)
    mask[0, 3:] = 0
    ids = {"decoder_input_ids": torch.zeros(2, 3, dtype=torch.long)}

    def logits(states: Tensor, mask: Tensor | None) -> Tensor:
        out = model(encoder_outputs=vedcore.EncoderOutput(states), encoder_attention_mask=mask, **ids).logits
        assert isinstance(out, Tensor)
        return out

    padded = states.clone()
    padded[0, 3:] = 100.0
    assert torch.allclose(logits(states, mask), logits(padded, mask), atol=1e-5)
    assert not torch.allclose(logits(states, None), logits(padded, None), atol=1e-3)
    assert torch.allclose(logits(states, torch.ones(2, 7)), logits(states, None), atol=1e-6)
    prompt = torch.zeros(1, 1, dtype=torch.long)
    assert model.generate(torch.rand(1, 3, 16, 24), decoder_input_ids=prompt, max_new_tokens=2).shape == (1, 3)


class Rotary(Encoder):
    """An encoder whose frequencies lose their digits in half precision."""

    float32_buffers = ("*.inv_freq", "offsets")

    def __init__(self, config: EncoderConfig, pretrained: bool = False) -> None:
        super().__init__(config, pretrained)
        self.inner = nn.Module()
        self.inner.register_buffer("inv_freq", 1e4 ** -torch.linspace(0, 1, 5), persistent=False)
        self.inner.register_buffer("other", torch.linspace(0, 1, 5))
        self.register_buffer("offsets", torch.linspace(0, 1, 6))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_buffers_may_stay_float32(foreign: Any, tmp_path: Path, dtype: str) -> None:
    foreign(Rotary)
    wanted = 1e4 ** -torch.linspace(0, 1, 5)
    whole = vedcore.compose("theirs", GPT2)
    model = vedcore.compose("theirs", GPT2, dtype=dtype)
    model.save_pretrained(tmp_path)
    for each in (
        model,
        whole.to(getattr(torch, dtype)),
        vedcore.load(tmp_path),
        vedcore.load(tmp_path, dtype="bfloat16"),
        vedcore.load(tmp_path, dtype="float16").float().half(),
    ):
        buffers = dict(each.encoder.named_buffers())
        assert torch.equal(buffers["inner.inv_freq"], wanted)
        assert torch.equal(buffers["offsets"], torch.linspace(0, 1, 6))
        assert buffers["inner.other"].dtype == each.encoder.proj.weight.dtype != torch.float32
    assert model.to("meta").encoder.offsets.is_meta


class Counted(Encoder):
    """Counts how often it is built, and where."""

    built: ClassVar[list[str]] = []

    def __init__(self, config: EncoderConfig, pretrained: bool = False) -> None:
        super().__init__(config, pretrained)
        self.built.append(self.proj.weight.device.type)
        self.rates = self.needs()

    def needs(self) -> Any:
        return None


@pytest.fixture
def built() -> list[str]:
    Counted.built.clear()
    return Counted.built


NUMBERS: list[Callable[[Any], Any]] = [
    lambda self: [rate.item() for rate in torch.linspace(0, 0.1, 3)],
    lambda self: torch.linspace(0, 0.1, 3).tolist(),
    lambda self: np.asarray(torch.arange(3.0)).mean(),
    lambda self: float(self.proj.weight.detach().norm()),
    lambda self: 1 if self.proj.weight.sum() > 0 else 2,
]


@pytest.mark.parametrize("needs", NUMBERS)
def test_a_constructor_that_needs_numbers_is_run_once_on_the_cpu(
    foreign: Any, built: list[str], needs: Callable[[Any], Any]
) -> None:
    foreign(Counted, needs=needs)
    state = torch.get_rng_state()
    plan = vedcore.plan("theirs", GPT2)
    assert torch.equal(torch.get_rng_state(), state)
    assert [note for note in plan.notes if "encoder 'theirs' of vedcore-theirs==1.2 is built on the CPU" in note]
    assert plan.encoder.parameters == 24
    assert built == ["meta", "cpu"]
    built.clear()
    models = [vedcore.compose("theirs", GPT2, seed=3) for _ in range(2)]
    assert built == ["meta", "cpu"] * 2
    assert same_weights(*models)
    assert models[0].encoder.rates == models[1].encoder.rates
    assert not same_weights(*(vedcore.compose("theirs", GPT2) for _ in range(2)))


def test_a_constructor_that_fails_on_the_cpu_too(foreign: Any, built: list[str]) -> None:
    foreign(Counted, needs=lambda self: [][3])
    with pytest.raises(vedcore.PluginContractError, match="does not build: IndexError"):
        vedcore.plan("theirs", GPT2)


@pytest.mark.parametrize(("size", "says"), [(1, None), (2, r"gives \(1, 2, 6\), but publishes \(1, 1, 6\)")])
def test_a_forward_that_needs_numbers_is_tried_with_numbers(
    foreign: Any, built: list[str], size: int, says: str | None
) -> None:
    def gives(self: Any, states: Tensor) -> Any:
        assert states.isfinite().all().item()
        return vedcore.EncoderOutput(states.expand(-1, size, -1))

    foreign(Counted, gives=gives)
    if says is not None:
        with pytest.raises(vedcore.IncompatibleError, match=says):
            vedcore.plan("theirs", GPT2)
        return
    assert [note for note in vedcore.plan("theirs", GPT2).notes if "its forward needs numbers" in note]
    built.clear()
    assert same_weights(*(vedcore.compose("theirs", GPT2, seed=3) for _ in range(2)))
    assert built == ["meta", "cpu"] * 2


def test_projectors_and_decoders_that_need_numbers(foreign: Any) -> None:
    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        assert hidden_states.max().item() <= 1e9
        out: Tensor = self.proj(hidden_states[:, :: self.takes])
        return out

    foreign(Pool, forward=forward, takes=2)
    assert vedcore.plan(VIT, GPT2, projector="theirs").image_tokens == 4
    foreign(Pool, forward=forward, takes=3)
    with pytest.raises(vedcore.IncompatibleError, match=r"gives \(1, 3, 24\), but publishes \(1, 4, 24\)"):
        vedcore.plan(VIT, GPT2, projector="theirs")


@pytest.mark.parametrize("needs", [lambda self: None, *NUMBERS[:2]])
@pytest.mark.parametrize("strict", [True, False])
def test_a_part_of_others_is_built_once_on_load(
    foreign: Any, built: list[str], tmp_path: Path, needs: Callable[[Any], Any], strict: bool
) -> None:
    foreign(Counted, needs=needs)
    model = vedcore.compose("theirs", GPT2)
    model.save_pretrained(tmp_path)
    built.clear()
    loaded = vedcore.load(tmp_path, strict=strict)
    assert built == ["cpu"]
    assert same_weights(loaded, model)
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))
    built.clear()
    path = tmp_path / "model.safetensors"
    save_file({**load_file(path), "encoder.proj.weight": torch.zeros(9, 3)}, path)
    with pytest.raises(vedcore.CheckpointMismatchError, match=r"encoder\.proj\.weight"):
        vedcore.load(tmp_path, verify=False)


def test_the_plan_counts_the_cache_that_a_decoder_keeps(foreign: Any) -> None:
    """Few heads of keys, of a size of their own; layers that do not see the image; states in place of keys."""
    makes: tuple[tuple[Any, int, int, int], ...] = (
        (other_makes.Rotary, 5, 2 * 2 * 10, 2),
        (other_makes.OfTorch, 3, 24, 3),
        (other_makes.Relative, 2, 2 * 6, 2),
    )
    for made, layers, a_token, of_image in makes:
        foreign(made)
        plan = vedcore.plan(VIT, {"name": "theirs", "num_hidden_layers": layers})
        assert plan.cache_bytes_per_token == layers * a_token * 4
        kept_of_image = of_image * 2 * 2 * (10 if made is other_makes.Rotary else 6) * 4
        assert plan.cache_bytes_per_image == plan.image_tokens * kept_of_image


def test_parts_that_need_numbers_are_not_refused(foreign: Any) -> None:
    def gives(self: Any, states: Tensor) -> Any:
        return vedcore.EncoderOutput(states if states.sum().item() < 1e9 else -states)

    foreign(Encoder, gives=gives)
    assert vedcore.compose("theirs", GPT2).encoder.hidden_size == 6
