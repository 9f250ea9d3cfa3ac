"""Projectors: shapes, defaults, and the choice of ``auto``."""

from __future__ import annotations

import pytest
import torch

from vedcore.config import ProjectorConfig
from vedcore.errors import ConfigError, IncompatibleError
from vedcore.plugins import list_projectors, load_component
from vedcore.projectors import IdentityProjector, LinearProjector, MLPProjector, MLPProjectorConfig


def test_all_are_registered_and_meet_the_contract() -> None:
    assert {"identity", "linear", "mlp"} <= set(list_projectors())
    for name, cls in (("identity", IdentityProjector), ("linear", LinearProjector), ("mlp", MLPProjector)):
        assert load_component("projector", name)[0] is cls


def test_identity_gives_what_it_takes() -> None:
    states = torch.randn(2, 5, 8)
    projector = IdentityProjector(ProjectorConfig(), 8, 8)
    assert projector(states) is states
    assert not list(projector.parameters())
    with pytest.raises(IncompatibleError, match=r"768.*1024") as error:
        IdentityProjector(ProjectorConfig(), 768, 1024)
    assert error.value.field == "projector"


def test_linear_is_transformers_enc_to_dec_proj() -> None:
    projector = LinearProjector(ProjectorConfig(), 256, 512)
    assert {name: tuple(p.shape) for name, p in projector.named_parameters()} == {
        "proj.weight": (512, 256),
        "proj.bias": (512,),
    }
    assert abs(projector.proj.weight.std().item() - 0.02) < 0.001
    assert not projector.proj.bias.any()
    states = torch.randn(2, 5, 256)
    torch.testing.assert_close(projector(states), torch.nn.functional.linear(states, *projector.proj.parameters()))


@pytest.mark.parametrize(
    ("fields", "shapes"),
    [
        ({}, [(6, 4), (6, 6)]),
        ({"hidden_size": 10}, [(10, 4), (6, 10)]),
        ({"hidden_size": 10, "num_hidden_layers": 3}, [(10, 4), (10, 10), (10, 10), (6, 10)]),
    ],
)
def test_mlp_has_the_layers_that_are_asked_for(fields: dict[str, int], shapes: list[tuple[int, int]]) -> None:
    projector = MLPProjector(MLPProjectorConfig(**fields), 4, 6)
    assert [tuple(p.shape) for p in projector.parameters() if p.ndim == 2] == shapes
    assert projector(torch.randn(2, 5, 4)).shape == (2, 5, 6)


def test_mlp_is_linear_gelu_linear() -> None:
    projector = MLPProjector(MLPProjectorConfig(), 4, 6).eval()
    states = torch.randn(2, 5, 4)
    first, second = projector.layers
    expected = second(torch.nn.functional.gelu(first(states)))
    torch.testing.assert_close(projector(states), expected)


def test_dropout_is_for_training_alone() -> None:
    projector = MLPProjector(MLPProjectorConfig(dropout=0.5), 64, 64)
    states = torch.randn(1, 3, 64)
    assert not torch.equal(projector.train()(states), projector(states))
    assert torch.equal(projector.eval()(states), projector(states))


@pytest.mark.parametrize(
    "fields", [{"hiden_size": 3}, {"hidden_size": 0}, {"num_hidden_layers": 17}, {"hidden_act": "gelo"}]
)
def test_settings_are_checked(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as error:
        MLPProjector.make_config(None, fields, prefix="projector.")
    assert "projector." in str(error.value)
