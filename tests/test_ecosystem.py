"""Other people's changes of a model (parametrized and pruned weights, graphs): it computes as before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import vedcore

PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(3, 90, (2, 5), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> Any:
    made = vedcore.compose(
        {"name": "vit_tiny_patch16_224", "num_hidden_layers": 1},
        {"name": "gpt2", "n_layer": 2, "n_embd": 48, "n_head": 2},
        tokenizer="char",
        image_size=32,
        seed=0,
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.decoder.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.5, generator=generator)
    made.generate(PIXELS, max_new_tokens=2)  # its weights are laid out for writing
    return made


class Half(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


class Own(Tensor):
    """A tensor of a subclass, as quantized weights are."""


def _own(layer: Any) -> None:
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Own))


CHANGES: dict[str, Callable[[Any], object]] = {
    "parametrized": lambda layer: parametrize.register_parametrization(layer, "weight", Half()),
    "weight norm": parametrizations.weight_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "subclass": _own,
}


@pytest.mark.parametrize("change", CHANGES)
def test_layers_of_computed_weights(model: Any, change: str) -> None:
    CHANGES[change](next(part for part in model.decoder.layers[0].mlp.modules() if isinstance(part, nn.Linear)))
    ids = model.generate(PIXELS, max_new_tokens=8, eos_token_id=None)
    logits = model(PIXELS, decoder_input_ids=ids[:, :-1]).logits
    assert torch.equal(logits.argmax(2), ids[:, 1:])
    assert torch.equal(model.generate(PIXELS, max_new_tokens=8, eos_token_id=None), ids)


def test_export_and_whole_graphs(model: Any) -> None:
    """No branch of a training step depends on the values of tensors."""
    given = {"pixel_values": PIXELS, "labels": LABELS, "return_dict": False}
    due = model(**given)[0]
    exported = torch.export.export(model, (), given)
    assert torch.allclose(exported.module()(**given)[0], due, atol=1e-5)
    whole = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(whole(**given)[0], due, atol=1e-5)
