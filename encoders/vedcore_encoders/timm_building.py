"""Building of timm models: checks of sizes, and settings that timm's constructors do not take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
from torch import Tensor, nn

from vedcore.config import check_limit
from vedcore.errors import HubError, IncompatibleError, printable
from vedcore.layers.mlp import activation

__all__ = [
    "as_square",
    "build",
    "check_division",
    "check_patches",
    "check_tokens",
    "drop_once",
    "pair",
    "set_activation",
    "set_layer_norm_eps",
]

MAX_TOKENS = 65_536
"""Limit of tokens for an image."""


def build(variant: str, pretrained: bool = False, **arguments: Any) -> nn.Module:
    """A timm model without its classifier.

    Args:
        variant: a name that `check_timm_name` has passed.
        pretrained: take the published weights.
        arguments: those of timm's constructor; None leaves an argument out.

    Raises:
        IncompatibleError: the model has no published weights, or they do not fit the arguments.
        HubError: the weights cannot be fetched.
    """
    if not pretrained:
        return timm.create_model(variant, num_classes=0, **arguments)  # type: ignore[no-any-return]
    if not timm.get_pretrained_cfg(variant).has_weights:
        raise IncompatibleError(f"{variant} has no published weights", field="pretrained", hint="leave pretrained out")
    try:
        # with its classifier: timm tolerates any missing weights if the classifier differs from the published one
        model: Any = timm.create_model(variant, pretrained=True, **arguments)
    except MemoryError:
        raise
    except Exception as error:
        if "loading state_dict" in str(error):
            changed = ", ".join(name for name, value in arguments.items() if value is not None) or "its config"
            raise IncompatibleError(
                f"the published weights of {variant} do not fit with {changed}",
                field="encoder",
                hint="leave sizes as the variant has them, or leave pretrained out",
                details=printable(error),
            ) from error
        raise HubError(
            f"the weights of {variant} cannot be fetched: {type(error).__name__}",
            details=printable(error),
            hint="check the connection, or leave pretrained out",
        ) from error
    model.reset_classifier(0)
    return model  # type: ignore[no-any-return]


def pair(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Height and width; a single number means a square, and None stays None."""
    if size is None or isinstance(size, int):
        return None if size is None else (size, size)
    height, width = size
    return height, width


def as_square(size: int | tuple[int, int]) -> int | tuple[int, int]:
    """Height and width; a single number where they are equal."""
    return size if isinstance(size, int) or size[0] != size[1] else size[0]


def check_division(size: int, divisor: int, size_name: str, divisor_name: str, field: str, hint: str) -> None:
    """Refuse a size that another does not divide.

    Raises:
        IncompatibleError: with both numbers and the field to change.
    """
    if divisor <= 0 or size % divisor:
        raise IncompatibleError(
            f"{size_name} {size} is not divisible by {divisor_name} {divisor}", field=field, hint=hint
        )


def check_patches(image_size: tuple[int, int], patch_size: tuple[int, int], prefix: str) -> None:
    """Refuse an image size that the patch size does not divide.

    Raises:
        IncompatibleError: with both numbers and the nearest size that works.
    """
    for side, patch, name in zip(image_size, patch_size, ("height", "width"), strict=True):
        nearest = max(1, round(side / patch)) * patch
        check_division(
            side,
            patch,
            f"image {name}",
            "patch size",
            f"{prefix}image_size",
            f"make it {nearest}, or change patch_size",
        )


def check_tokens(tokens: int, prefix: str) -> None:
    """Refuse more than ``MAX_TOKENS`` tokens.

    Raises:
        ConfigLimitError: with the number and the limit.
    """
    check_limit(tokens, MAX_TOKENS, f"{prefix}image_size", "number of image tokens")


class Activation(nn.Module):
    """The activation with transformers' name ``name``, as a module that replaces timm's."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.function = activation(name)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.name


def set_activation(blocks: nn.Module, name: str | None) -> None:
    """Give each feed-forward layer in ``blocks`` the activation ``name``, which not all of timm's constructors take."""
    if name is None:
        return
    layers = [m for m in blocks.modules() if isinstance(getattr(m, "act", None), nn.Module)]
    if not layers:
        raise IncompatibleError(
            "this variant has no activation to set", field="encoder.hidden_act", hint="leave hidden_act out"
        )
    for layer in layers:
        layer.act = Activation(name)


def set_layer_norm_eps(modules: nn.Module, eps: float | None) -> None:
    """Give each layer norm in ``modules`` the epsilon ``eps``; None changes nothing."""
    if eps is None:
        return
    norms = [m for m in modules.modules() if isinstance(m, nn.LayerNorm)]
    if not norms:
        raise IncompatibleError(
            "this variant has no layer norm", field="encoder.layer_norm_eps", hint="leave layer_norm_eps out"
        )
    for norm in norms:
        norm.eps = eps


def drop_once(blocks: nn.Module) -> None:
    """Keep only the dropout after the second linear layer of feed-forward blocks, as transformers; timm has two."""
    for module in blocks.modules():
        if isinstance(getattr(module, "drop1", None), nn.Dropout):
            module.drop1 = nn.Dropout(0.0)
