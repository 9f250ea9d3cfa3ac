"""The contracts of vision encoders and projectors; that of text decoders is in `vedcore.text_decoder`.

A part of a third party subclasses one of these three, or is any module that has their attributes.

Shape letters: N images, C channels, H x W pixels, S encoder tokens, S' tokens after the projector, D width.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from vedcore import pytrees  # noqa: F401  registers the outputs of parts with torch
from vedcore.config import Config, EncoderConfig, Preprocessing, ProjectorConfig
from vedcore.errors import UnknownComponentError, UsageError, did_you_mean
from vedcore.layers.checkpointing import Checkpointing
from vedcore.outputs import EncoderOutput
from vedcore.token_grids import TokenGrid, derived_grid, kept_grid
from vedcore.transformers_class import TransformersClass

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "Component",
    "Projector",
    "VisionEncoder",
    "check_interpolation",
    "fit_to",
    "parameters_of",
    "torch_dtype",
]


def parameters_of(module: nn.Module) -> Iterator[Tensor]:
    """The parameters of a module; of a replica of DataParallel, which has none, the copies that it has instead."""
    yield from module.parameters()
    for part in module.modules():
        yield from getattr(part, "_former_parameters", {}).values()


class Component(nn.Module, abc.ABC):
    """Base of all three kinds of parts: a config class, variants, and a constructor that takes a config."""

    config_class: ClassVar[type[Config]]
    config: Any
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sizes: what each sets of the config."""
    transformers: ClassVar[tuple[TransformersClass, ...]] = ()
    """The classes of transformers whose checkpoints this part opens; it is written as the first that can be it."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass instead of kept."""
    checkpointing: Checkpointing = Checkpointing()
    """How, where they are."""
    float32_buffers: ClassVar[tuple[str, ...]] = ()
    """Glob patterns for names of buffers that stay float32 where this part becomes another type: ``"*.inv_freq"``."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As torch's, which ``to``, ``half`` and the like call; buffers of ``float32_buffers`` keep their type."""
        kept = {
            name: buffer
            for name, buffer in (self.named_buffers() if self.float32_buffers else ())
            if buffer.dtype == torch.float32 and any(fnmatchcase(name, glob) for glob in self.float32_buffers)
        }
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in kept.items():
            owner, _, key = name.rpartition(".")
            now = self.get_buffer(name)
            if now.dtype != torch.float32:
                self.get_submodule(owner)._buffers[key] = buffer.to(now.device)
        return self

    @classmethod
    def make_config(
        cls, variant: str | None, fields: Mapping[str, Any], *, path: object = None, prefix: str = ""
    ) -> Config:
        """The complete config of ``variant`` with ``fields`` on top.

        Args:
            variant: a name of ``variants``; None for the config class's own defaults.
            fields: what the user set.
            path: the file that it came from, for messages.
            prefix: what to put before a field's name in messages, such as ``"decoder."``.

        Raises:
            UnknownComponentError: no such variant.
            ConfigSchemaError: a field that the family does not have, or a bad value.
        """
        if variant is not None and variant not in list(cls.variants):  # it may be anything that a file can hold
            hint = did_you_mean(str(variant), cls.variants) or f"choose one of {', '.join(cls.variants)}"
            raise UnknownComponentError(f"{cls.__name__} has no variant {variant!r}", path=path, hint=hint)
        words = cls.config_class.attribute_map
        given = {words.get(field, field) for field in fields}
        base = {field: value for field, value in cls.variants.get(variant or "", {}).items() if field not in given}
        return cls.config_class.parse({**base, **fields}, path=path, prefix=prefix)

    def settings(self) -> dict[str, Any]:
        """All fields of the config as this part has them, none left to a variant."""
        config: Config = self.config
        return config.model_dump()


class VisionEncoder(Component):
    """Images to token sequences.

    A subclass sets ``config``, ``hidden_size`` and ``preprocessing`` in its constructor, which is called as
    ``cls(config)``, or ``cls(config, pretrained=True)`` to take published weights.
    """

    config_class: ClassVar[type[EncoderConfig]]
    config: EncoderConfig
    hidden_size: int
    """D, the width of ``last_hidden_state``."""
    preprocessing: Preprocessing
    """How an image becomes the input: size, mean, std, interpolation."""
    takes_task_prompts: bool = False
    """Whether prompts of its models name a task in place of the start id, as Donut's do."""
    key_map: ClassVar[tuple[Any, ...]] = ()
    """Rows of `vedcore.weights.keymap`: the names that transformers' class of this family has."""
    num_channels: int = 3
    """C, the channels of an image: 3 for RGB, 1 for grey."""
    interpolates_positions: bool = False
    """Whether `forward` takes ``interpolate_pos_encoding=True``: images of another size, for one call."""

    @abc.abstractmethod
    def num_tokens(self, image_size: tuple[int, int] | None = None) -> int:
        """S, the tokens that an image of ``image_size`` pixels (height, width) gives; None means its own size."""

    @abc.abstractmethod
    def forward(
        self,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> EncoderOutput:
        """Encode images.

        Args:
            pixel_values: (N, C, H, W) float, prepared as ``preprocessing`` says.
            attention_mask: (N, S) bool, False where a token shows padding.
            output_attentions: return attention weights.
            output_hidden_states: return the states between the blocks.
        """

    def fit_tensor(self, name: str, tensor: Tensor, image_size: int | Sequence[int] | None = None) -> Tensor | None:
        """A stored tensor made for images of another size, resampled for the size of this encoder.

        Args:
            name: its name in this encoder's ``state_dict``.
            tensor: its values, maybe on the meta device.
            image_size: height and width of the images that it was stored for, or one number for both; None means a
                square.

        Returns:
            A new tensor of the same type; None where the stored one is to be taken as it is, or cannot be resampled.
        """
        return None

    def preprocess(self, image: Image.Image) -> Tensor | None:
        """An RGB image to (C, H, W) float, for an encoder that prepares images its own way.

        None, the default, leaves it to ``preprocessing``. Images of one batch may come out in different sizes:
        they are padded with zeros at the right and at the bottom, and `token_mask` tells padding from image.
        """
        return None

    def placement(self, image: Image.Image) -> tuple[float, float, float, float, float, float] | None:
        """Where the pixels of `preprocess` lie in the image.

        Returns:
            (a, b, c, d, e, f): what is at (u, v) of the result, u to the right and v down, lies at
            (a u + b v + c, d u + e v + f) of ``image``. None, the default, where ``preprocess`` gives None.
        """
        return None

    def token_grid(self, image_size: tuple[int, int]) -> TokenGrid:
        """How the tokens of an image of ``image_size`` pixels (height, width) lie on it.

        By default it follows from `num_tokens`: tokens are columns, where an image of twice the height has as many; or
        squares that cover the image, where only one number of tokens before them, 0 to 8, makes such.

        Raises:
            IncompatibleError: it does not follow.
        """
        return derived_grid(self, image_size)

    def token_mask(self, sizes: Tensor, padded_size: tuple[int, int]) -> Tensor | None:
        """Which tokens of padded images show image.

        Args:
            sizes: (N, 2) height and width of each image before padding.
            padded_size: height and width after it.

        Returns:
            (N, S) bool, True where a token shows the image; None where the encoder cannot tell.
        """
        return None


def check_interpolation(encoder: Any) -> None:
    """Refuse ``interpolate_pos_encoding=True`` for an encoder that does not resample its positions.

    Raises:
        UsageError: with the size of images that the encoder takes.
    """
    if not getattr(encoder, "interpolates_positions", False):
        height, width = encoder.preprocessing.image_size
        raise UsageError(
            f"{type(encoder).__name__} does not resample its positions",
            field="interpolate_pos_encoding",
            hint=f"leave it out, and give images of {height} x {width} pixels",
        )


def fit_to(
    encoder: Any, image_size: int | Sequence[int] | None, prefix: str = ""
) -> Callable[[str, Tensor], Tensor | None] | None:
    """The function that `vedcore.weights.loading.Weights` asks to resample an encoder's stored tensors.

    Args:
        encoder: the module that the tensors are for; one without ``fit_tensor`` resamples none.
        image_size: size of the images that they were stored for; None means a square.
        prefix: prepended to the names of the encoder's tensors, such as ``"encoder."``.
    """
    fit = getattr(encoder, "fit_tensor", None)
    if fit is None:
        return None
    return lambda name, tensor: fit(name.removeprefix(prefix), tensor, image_size) if name.startswith(prefix) else None


class Projector(Component):
    """Maps encoder states to the width of cross-attention: (N, S, D_encoder) to (N, S', D_decoder).

    Its constructor is called as ``cls(config, in_features, out_features)``. Where its ``forward`` has an argument
    ``attention_mask``, it gets the mask of the encoder's tokens too: (N, S) bool, False for padding, or None.
    """

    config_class: ClassVar[type[ProjectorConfig]]
    config: ProjectorConfig
    in_features: int
    out_features: int
    takes_attention_mask: ClassVar[bool] = False
    """Whether ``forward`` has an argument ``attention_mask``; read from its signature."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "forward" in vars(cls):
            cls.takes_attention_mask = "attention_mask" in inspect.signature(cls.forward).parameters

    @abc.abstractmethod
    def forward(self, hidden_states: Tensor) -> Tensor:
        """(N, S, D_encoder) to (N, S', D_decoder)."""

    def token_grid(self, grid: TokenGrid) -> TokenGrid:
        """The grid of the tokens on an image, of the encoder's S on it; the same where there are as many.

        Raises:
            IncompatibleError: there are not as many, and the projector does not say.
        """
        return kept_grid(self, grid)

    def num_tokens(self, tokens: int) -> int:
        """S' for S; the same unless a projector says otherwise."""
        return tokens

    def project_mask(self, attention_mask: Tensor) -> Tensor:
        """(N, S) bool to (N, S') bool; a projector that changes the number of tokens must say how."""
        return attention_mask


def torch_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The type of that name.

    Raises:
        UsageError: no type for weights.
    """
    choices = {str(t).removeprefix("torch."): t for t in (torch.float32, torch.float16, torch.bfloat16, torch.float64)}
    if dtype is None or (isinstance(dtype, torch.dtype) and dtype in choices.values()):
        return dtype
    if dtype in choices:
        return choices[dtype]
    raise UsageError(f"{dtype!r} is not a type of weights", field="dtype", hint=f"choose one of {', '.join(choices)}")
