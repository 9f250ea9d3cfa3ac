"""Graphs give the model's numbers, at sizes with which they were not recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.export.conftest import DECODERS, ENCODERS, images, tiny, traced
from vedcore.errors import IncompatibleError
from vedcore.export.operations import OPERATIONS
from vedcore.export.running import run


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5 * float(b.abs().max()), rtol=0)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders(encoder: str) -> None:
    model = tiny(encoder)
    graphs, tensors = traced(model, "encode")
    for rows in (1, 4):
        pixels = images(model, rows)
        found = run(graphs["encode"], tensors, {"pixel_values": pixels})["encoder_hidden_states"]
        close(found, model.project(model.encode(pixels))[0])


def test_a_convolutional_encoder_takes_any_size() -> None:
    model = tiny("convnext")
    graphs, tensors = traced(model, "encode")
    assert graphs["encode"].inputs[0].shape == ("images", 3, "height", "width")
    pixels = torch.randn(2, 3, 96, 128)
    found = run(graphs["encode"], tensors, {"pixel_values": pixels})["encoder_hidden_states"]
    close(found, model.project(model.encoder(pixels))[0])


@pytest.mark.parametrize("decoder", DECODERS)
def test_decoders(decoder: str) -> None:
    """Texts of another length than recorded, padded at the left, two of one image; then one token behind a cache."""
    model = tiny(decoder=decoder)
    graphs, tensors = traced(model, "cross", "positions", "step")
    states = model.project(model.encode(images(model, 2)))[0]
    cross = run(graphs["cross"], tensors, {"encoder_hidden_states": states})
    ids = torch.randint(4, 50, (4, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(4, 7, dtype=torch.bool)
    mask[1, :2] = False
    ids[~mask] = model.token_ids.pad
    due = model(encoder_outputs=model.encode(images(model, 2)), decoder_input_ids=ids, decoder_attention_mask=mask)
    positions = run(graphs["positions"], tensors, {"input_ids": ids, "attention_mask": mask})["positions"]
    attends = torch.ones(7, 7).tril().bool() & mask[:, None] | torch.eye(7).bool()
    empty = {port.name: torch.zeros(4, 2, 0, 12) for port in graphs["step"].inputs if port.name.startswith("past")}
    first = {"input_ids": ids[:, :6], "positions": positions[:, :6], "mask": attends[:, None, :6, :6]}
    out = run(graphs["step"], tensors, {**first, **empty, **cross})
    close(out["logits"][mask[:, :6]], due.logits[:, :6][mask[:, :6]])
    past = {name.replace("new", "past"): each for name, each in out.items() if name.startswith("new")}
    last = {"input_ids": ids[:, 6:], "positions": positions[:, 6:], "mask": attends[:, None, 6:]}
    close(run(graphs["step"], tensors, {**last, **past, **cross})["logits"][:, 0], due.logits[:, 6])


class _WithOther(nn.Module):
    """An encoder with an operation that graphs do not have."""

    def __init__(self, encoder: Any, operation: Any) -> None:
        super().__init__()
        self.inner, self.operation = encoder, operation

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, pixel_values: Tensor, **options: Any) -> Any:
        return self.inner(self.operation(pixel_values), **options)


def branches(pixels: Tensor) -> Tensor:
    return pixels if pixels.sum() > 0 else -pixels


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (lambda pixels: torch.special.i0(pixels), "encode has an operation .*i0"),
        (branches, r"encode cannot be recorded, at \S*test_graphs.py:\d+ in branches"),
    ],
)
def test_an_operation_that_graphs_lack_is_named_with_its_place(operation: Any, words: str) -> None:
    model = tiny()
    model.encoder = _WithOther(model.encoder, operation)
    with pytest.raises(IncompatibleError, match=words) as caught:
        traced(model, "encode")
    assert "test_graphs.py" in str(caught.value)


def test_recording_changes_nothing() -> None:
    model = tiny()
    model.generate(images(model, 1), max_new_tokens=2)
    model.train()
    model.freeze("encoder")
    before = {name: (id(each), each._version, each.requires_grad) for name, each in model.named_parameters()}
    modes = [part.training for part in model.modules()]
    graphs, _ = traced(model, "encode", "cross.train")
    assert {name: (id(each), each._version, each.requires_grad) for name, each in model.named_parameters()} == before
    assert [part.training for part in model.modules()] == modes
    assert not any("dropout" in node.op for node in graphs["encode"].nodes)


def test_training_has_dropout() -> None:
    graphs, tensors = traced(tiny(decoder="bert"), "step", "step.train")
    assert {node.op for node in graphs["step.train"].nodes} - {node.op for node in graphs["step"].nodes}
    assert all(node.op in OPERATIONS for graph in graphs.values() for node in graph.nodes)
    del tensors
