"""Entries of the package, and that registering them imports little."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vedcore_encoders
from vedcore.errors import UnknownComponentError
from vedcore.registry import Owner, Registry


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.add([("encoder", entry) for entry in vedcore_encoders.register_encoders()], Owner("vedcore"))
    return registry


@pytest.mark.parametrize(
    ("name", "family", "variant"),
    [
        ("vit", "vit", "vit_base_patch16_224"),
        ("deit", "deit", "deit_base_patch16_224"),
        ("beit", "beit", "beit_base_patch16_224"),
        ("swin", "swin", "swin_base_patch4_window7_224"),
        ("vit_tiny_patch16_224", "vit", "vit_tiny_patch16_224"),
        ("vit_base_patch16_224.augreg_in21k", "vit", "vit_base_patch16_224.augreg_in21k"),
        ("deit3_small_patch16_224", "deit", "deit3_small_patch16_224"),
        ("deit_base_distilled_patch16_224", "deit", "deit_base_distilled_patch16_224"),
        ("beitv2_base_patch16_224", "beit", "beitv2_base_patch16_224"),
        ("swin_s3_tiny_224", "swin", "swin_s3_tiny_224"),
        ("timm/resnet18", "timm", "resnet18"),
        ("timm/swinv2_tiny_window8_256", "timm", "swinv2_tiny_window8_256"),
        ("timm/../../x", "timm", "../../x"),
        ("timm", "timm", None),
    ],
)
def test_names_mean_families(registry: Registry, name: str, family: str, variant: str | None) -> None:
    found = registry.find("encoder", name)
    assert (found.entry.name, found.variant) == (family, variant)


@pytest.mark.parametrize("name", ["swinv2_tiny_window8_256", "resnet18", "", "vi", "beit3_base_patch16_224"])
def test_other_names_are_unknown(registry: Registry, name: str) -> None:
    with pytest.raises(UnknownComponentError):
        registry.find("encoder", name)


def test_every_target_loads(registry: Registry) -> None:
    for entry in registry.entries("encoder"):
        assert entry.summary
        assert entry.load().config_class.__doc__


def test_registering_imports_neither_torch_nor_timm() -> None:
    code = (
        "import sys, vedcore_encoders; vedcore_encoders.register_encoders();"
        "print([m for m in ('torch', 'timm', 'pydantic') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
