"""Small cases for the checks, of a name, a distribution or a model."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch

from vedcore.errors import ConfigError, UnknownComponentError
from vedcore.plugins import list_plugins, load_component, registry
from vedcore.plugins.scan import scan
from vedcore.registry import canonical
from vedcore.testing.cases import PART_KINDS, Case, PartKind

__all__ = ["known_names", "part_cases", "registered_cases", "registering_modules"]

SMALL: tuple[Mapping[str, Any], ...] = (
    {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 8,
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


Kind = PartKind | Literal["format", "model"]
KINDS: tuple[Kind, ...] = (*PART_KINDS, "format", "model")
"""Kinds of entries that have checks; those of commands are in `check_registration`."""


def registered_cases(name: str) -> list[tuple[Kind, str, Case]]:
    """Kind, name and case of each registered part, format and model that is meant; empty where none is.

    Args:
        name: of a part, a family or a variant, as `vedcore.compose` takes it; of a format or a model; or of a
            distribution, for all that it registers.

    Raises:
        PluginError: a part that does not load, or breaks the contract of its class.
    """
    found: list[tuple[Kind, str]] = []
    for kind in KINDS:
        owned = [e for e in registry().entries(kind) if canonical(e.owner.distribution) == canonical(name)]
        found += [(kind, registry().shown_name(kind, entry)) for entry in owned]
    for kind in () if found else KINDS:
        with contextlib.suppress(UnknownComponentError):
            registry().find(kind, name)
            found.append((kind, name))
    return [(kind, each, _case(kind, each)) for kind, each in found]


def registering_modules(distribution: str) -> list[str]:
    """The modules that a distribution's entry points name; empty for another name, and where it is blocked."""
    blocked = {canonical(plugin.distribution) for plugin in list_plugins() if plugin.status == "blocked"}
    mine = {canonical(distribution)} - blocked
    return [point.value.partition(":")[0] for point in scan() if canonical(point.owner.distribution) in mine]


def part_cases(model: Any) -> list[tuple[Kind, str, Case]]:
    """Kind, name and small case of each part of a model, with its settings but for the sizes."""
    found: list[tuple[Kind, str, Case]] = []
    for kind in PART_KINDS:
        part, name = getattr(model, kind), getattr(model.config, kind).name
        fields = {k: v for k, v in part.config.model_dump().items() if not k.endswith("token_id") and v is not None}
        found.append((kind, name, _small(kind, type(part), fields.pop("variant", None), name, fields)))
    return found


def known_names() -> list[str]:
    """Names of all that can be checked, for an error."""
    owners = {entry.owner.distribution for kind in KINDS for entry in registry().entries(kind)}
    return sorted({*owners, *(name for kind in KINDS for name in registry().known_names(kind))})


def _case(kind: Kind, name: str) -> Case:
    target, resolved = load_component(kind, name)
    if kind in ("format", "model"):
        return Case(target, name, made=kind)
    return _small(kind, target, resolved.variant, name, {})


def _small(kind: Kind, target: Any, variant: str | None, name: str, fields: Mapping[str, Any]) -> Case:
    """The case of a part that is small where its config allows it, with these fields where they fit the small sizes."""
    sizes: list[tuple[int, ...]] = [()]
    if kind == "projector":
        sizes = [(IN_FEATURES, OUT_FEATURES), (IN_FEATURES, IN_FEATURES)]
    words = {*target.config_class.model_fields, *getattr(target.config_class, "attribute_map", {})}
    fitting = sorted(({k: v for k, v in small.items() if k in words} for small in SMALL), key=len, reverse=True)
    settings = [*({**fields, **small} for small in fitting if fields and small), *fitting, dict(fields)]
    for chosen in settings:
        for widths in sizes:
            try:
                config = target.make_config(variant, chosen)
                with torch.device("meta"):
                    target(config, *widths)
            except ConfigError:
                if chosen is settings[-1] and widths == sizes[-1]:
                    raise
                continue
            except RuntimeError:  # a constructor that needs values
                pass
            return Case(partial(target, config, *widths), name)
    raise AssertionError("the last settings are returned or refused")
