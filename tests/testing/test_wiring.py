"""`check_wiring` on composed models: what it finds, that it leaves them as they were, and wiring.json."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vedcore
from tests.testing import wrong_parts
from vedcore.checkpoints.inspection import inspect_folder
from vedcore.model.wiring import MAX_BYTES, WiringReport
from vedcore_decoders.gpt2 import GPT2Decoder

VIT = {"name": "vit", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
GPT2 = {"name": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24}


def compose(**options: Any) -> vedcore.VisionEncoderDecoder:
    return vedcore.compose(VIT, GPT2, image_size=32, tokenizer="char", seed=0, **options)


@pytest.fixture(scope="module")
def model() -> vedcore.VisionEncoderDecoder:
    return compose()


def failed(model: vedcore.VisionEncoderDecoder) -> list[str]:
    return [each.check for each in vedcore.check_wiring(model).failed]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("projector", ["linear", "mlp"])
def test_a_right_model_in_any_type(dtype: str, projector: str) -> None:
    model = compose(projector=projector).to(getattr(torch, dtype))
    report = vedcore.check_wiring(model)
    assert not report.failed
    assert report.summary == f"{len(report.results)} checks in {dtype}, none failed"
    assert str(report).count("\n") + 1 == len(report.results)
    assert model.dtype == getattr(torch, dtype)


def test_the_model_is_left_as_it_was(model: vedcore.VisionEncoderDecoder) -> None:
    model.train()
    model.encoder.eval()
    ids = torch.tensor([[3, 4, 5]])
    model(pixel_values=torch.rand(1, 3, 32, 32), labels=ids).loss.backward()
    modes = [module.training for module in model.modules()]
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    numbers = torch.get_rng_state()
    vedcore.check_wiring(model)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    for parameter, before in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (before is None)
        assert before is None or torch.equal(parameter.grad, before)
    assert torch.is_grad_enabled()
    model.eval()


DECODERS = [
    (wrong_parts.IgnoresTheImage, "image_changes_every_token"),
    (wrong_parts.IgnoresItAfterTheFirstToken, "image_changes_every_token"),
    (wrong_parts.SeesTheFirstStepAlone, "image_changes_every_token"),
    (wrong_parts.LeaksTheFuture, "later_tokens_change_nothing_before"),
    (wrong_parts.CountsOffByOne, "steps_of_one_token_are_as_one_call"),
    (wrong_parts.CacheOfAnotherRow, "reordered_rows_continue_as_others"),
    (wrong_parts.ReversesStatesOfSingleTokens, "steps_of_one_token_are_as_one_call"),
    (wrong_parts.IgnoresTheMaskOfTheImage, "image_padding_is_masked"),
    (wrong_parts.UnfoldsWrongly, "rows_of_an_image_share_its_states"),
]


@pytest.mark.parametrize(("decoder", "own"), DECODERS)
def test_a_wrong_decoder_in_a_model(decoder: type[GPT2Decoder], own: str) -> None:
    model = compose()
    model.decoder.__class__ = decoder
    assert own in failed(model)


class Reversed(nn.Module):
    """A projector that gives each image the states of another."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.config, self.num_tokens = inner, inner.config, inner.num_tokens

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.inner(hidden_states.flip(0))

    def project_mask(self, attention_mask: Tensor) -> Tensor:
        return attention_mask


def test_a_projector_that_swaps_images() -> None:
    model = compose()
    model.projector = Reversed(model.projector)
    assert "forward_is_the_parts_in_a_row" in failed(model)


@pytest.mark.parametrize(
    ("part", "method", "change", "own"),
    [
        ("encoder", "num_tokens", lambda *size: 3, "sizes_of_the_parts_fit"),
        ("projector", "num_tokens", lambda tokens: tokens + 1, "sizes_of_the_parts_fit"),
        ("projector", "project_mask", lambda mask: torch.ones_like(mask), "mask_of_the_image_reaches_the_decoder"),
    ],
)
def test_parts_that_lie(part: str, method: str, change: Callable[..., Any], own: str) -> None:
    model = compose()
    setattr(getattr(model, part), method, change)
    assert own in failed(model)


def test_a_gate_of_zero_is_told_from_no_wiring() -> None:
    model = compose()
    for layer in model.decoder.layers:
        nn.init.zeros_(layer.cross_attention.output.weight)
    (found,) = vedcore.check_wiring(model).failed
    assert found.check == "image_changes_every_token"
    assert found.message.endswith(
        "decoder.layers.0.cross_attention.output.weight and 1 more is zero, which shuts the image out until it is "
        "trained"
    )
    blind = compose()
    blind.decoder.__class__ = wrong_parts.IgnoresTheImage
    results = {each.check: each.message for each in vedcore.check_wiring(blind).failed}
    assert results["image_changes_every_token"].endswith("no zero among its weights explains it")


def test_anything_but_a_model() -> None:
    with pytest.raises(vedcore.UsageError, match="Linear is not a composed model"):
        vedcore.check_wiring(nn.Linear(2, 2))  # type: ignore[arg-type]


def test_the_folder_keeps_the_report_of_its_structure(model: vedcore.VisionEncoderDecoder, tmp_path: Path) -> None:
    model.wiring = None
    model.save_pretrained(tmp_path / "a")
    assert not (tmp_path / "a" / "wiring.json").exists()
    report = vedcore.check_wiring(model)
    with torch.no_grad():
        next(model.parameters()).add_(0.1)  # training changes no structure
    model.save_pretrained(tmp_path / "a")
    again = vedcore.load(tmp_path / "a")
    assert again.wiring == report
    again.save_pretrained(tmp_path / "b")
    assert json.loads((tmp_path / "b/wiring.json").read_text()) == report.to_data()
    found = inspect_folder(tmp_path / "b", verify=True)
    assert f"wiring      {report.summary}" in str(found).splitlines()
    assert found.checked["wiring.json"] == "sha256" and not found.notes
    again.resize_vocabulary(again.decoder.vocab_size + 2)
    again.save_pretrained(tmp_path / "b")
    assert not (tmp_path / "b" / "wiring.json").exists()
    vedcore.load(tmp_path / "a", image_size=64).save_pretrained(tmp_path / "c")
    assert not (tmp_path / "c" / "wiring.json").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"version": 2}',
        '{"version": 1, "structure": 3, "dtype": "float32", "checks": []}',
        '{"version": 1, "structure": "a", "dtype": "float32", "checks": []}',
        '{"version": 1, "structure": "a", "dtype": "float32", "checks": [{"check": "a"}]}',
        json.dumps(
            {
                "version": 1,
                "structure": "a",
                "dtype": "a",
                "checks": [{"check": "a" * 401, "behaviour": "", "outcome": "passed", "message": ""}],
            }
        ),
        " " * (MAX_BYTES + 1),
    ],
)
def test_a_damaged_report_is_left_out(text: str, model: vedcore.VisionEncoderDecoder, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "a")
    (tmp_path / "a/wiring.json").write_text(text)
    with pytest.warns(UserWarning, match=r"left out: .*wiring\.json") as caught:
        assert vedcore.load(tmp_path / "a").wiring is None
    assert len(caught) == 1
    found = inspect_folder(tmp_path / "a")
    assert found.wiring is None and not found.problems
    assert any("wiring.json" in note for note in found.notes)


def test_a_report_is_bounded(model: vedcore.VisionEncoderDecoder) -> None:
    report = vedcore.check_wiring(model)
    long = WiringReport(tuple(report.results[:1]) * 1000, "float32", report.structure)
    data = long.to_data()
    assert len(json.dumps(data)) < MAX_BYTES
    with warnings.catch_warnings(action="error"):
        assert WiringReport.parse(data).results == long.results[:100]
