"""The registered parts that a name or a distribution means, as small cases."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from vedcore.errors import ConfigError, UnknownComponentError
from vedcore.plugins import load_component, registry
from vedcore.registry import canonical
from vedcore.testing.cases import PART_KINDS, Case, PartKind

__all__ = ["registered_cases"]

SMALL: tuple[Mapping[str, Any], ...] = (
    {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "vocab_size": 61,
        "max_position_embeddings": 32,
        "image_size": 32,
        "patch_size": 8,
    },
    {
        "embed_dim": 8,
        "depths": (2, 2),
        "num_heads": (2, 4),
        "window_size": 4,
        "image_size": 32,
        "patch_size": 2,
    },
)
"""Settings that make a part small, of which it is given those that its config has."""
IN_FEATURES, OUT_FEATURES = 12, 8
"""Widths between which a projector is built."""


def registered_cases(name: str) -> list[tuple[PartKind, str, Case]]:
    """Kind, name and case of each registered encoder, decoder and projector that is meant.

    Args:
        name: of a part, a family or a variant, as `vedcore.compose` takes it; or of a distribution, for all its parts.

    Raises:
        UnknownComponentError: nothing of that name.
        PluginError: a part that does not load, or breaks the contract of its class.
    """
    found: list[tuple[PartKind, str]] = []
    for kind in PART_KINDS:
        owned = [e for e in registry().entries(kind) if canonical(e.owner.distribution) == canonical(name)]
        found += [(kind, registry().shown_name(kind, entry)) for entry in owned]
    if not found:
        for kind in PART_KINDS:
            try:
                registry().find(kind, name)
            except UnknownComponentError as error:
                unknown = error
                continue
            found.append((kind, name))
    if not found:
        raise unknown
    return [(kind, each, _case(kind, each)) for kind, each in found]


def _case(kind: PartKind, name: str) -> Case:
    target, resolved = load_component(kind, name)
    sizes = {"projector": [(IN_FEATURES, OUT_FEATURES), (IN_FEATURES, IN_FEATURES)]}.get(kind, [()])
    words = {*target.config_class.model_fields, *getattr(target.config_class, "attribute_map", {})}
    fitting = ({k: v for k, v in small.items() if k in words} for small in SMALL)
    for small in (*sorted(fitting, key=len, reverse=True), {}):
        for widths in sizes:
            try:
                config = target.make_config(resolved.variant, small)
                with torch.device("meta"):
                    target(config, *widths)
            except ConfigError:
                if not small and widths == sizes[-1]:
                    raise
                continue
            except RuntimeError:  # a constructor that needs values
                pass
            return Case(partial(target, config, *widths), name)
    raise AssertionError("the last settings are returned or refused")
