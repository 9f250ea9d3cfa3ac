"""``preprocessor_config.json`` of transformers, read as `Preprocessing` and written.

The pixels are those of transformers' Pillow classes. Its torchvision classes differ from them:

- With ``nearest`` and ``bilinear`` pixels differ by at most one level of 255; with ``bicubic`` and ``lanczos`` some
  pixels at hard edges differ by more.
- Nougat's margins are cut otherwise (another rounding of greys), and so is a centre crop that is larger than the image
  by an odd number of pixels.
- Nougat's thumbnails are shrunk without averaging first, and Donut's with ``nearest`` where ``resample`` is 0.

As in transformers, the result may have another size than the model (``do_resize`` false, ``do_pad`` false, or a
shortest edge without a crop). An encoder of fixed size then refuses it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vedcore.config import Preprocessing, check_limit
from vedcore.config_files.plain import short
from vedcore.errors import ConfigError, ConfigSchemaError, IncompatibleError, warn_caller
from vedcore.processing.images import MAX_PIXELS

__all__ = ["read_image_processor", "write_image_processor"]

MAX_SIDE_PIXELS = 1 << 20
"""Limit of a height or width."""
RESAMPLING_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters; the index is Pillow's number."""
IMAGENET_STANDARD = (0.5, 0.5, 0.5)
"""transformers' ``IMAGENET_STANDARD_MEAN`` and ``IMAGENET_STANDARD_STD``."""

COMMON_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": IMAGENET_STANDARD,
    "image_std": IMAGENET_STANDARD,
}
CROPPING_DEFAULTS: dict[str, Any] = {
    **COMMON_DEFAULTS,
    "size": 224,
    "resample": 2,
    "default_to_square": True,
    "do_center_crop": False,
    "crop_size": None,
    "do_pad": False,
}
DOCUMENT_DEFAULTS: dict[str, Any] = {
    **COMMON_DEFAULTS,
    "resample": 2,
    "do_thumbnail": True,
    "do_align_long_axis": False,
    "do_pad": True,
    "do_center_crop": False,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": CROPPING_DEFAULTS,
    "DeiT": {**CROPPING_DEFAULTS, "size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224},
    "Beit": {**CROPPING_DEFAULTS, "resample": 3, "crop_size": 224},
    "CLIP": {
        **CROPPING_DEFAULTS,
        "size": {"shortest_edge": 224},
        "resample": 3,
        "default_to_square": False,
        "do_center_crop": True,
        "crop_size": 224,
        "use_square_size": False,
        "image_mean": (0.48145466, 0.4578275, 0.40821073),
        "image_std": (0.26862954, 0.26130258, 0.27577711),
    },
    "Siglip": {**CROPPING_DEFAULTS, "resample": 3, "size": {"height": 224, "width": 224}, "default_to_square": False},
    "Donut": {**DOCUMENT_DEFAULTS, "size": {"height": 2560, "width": 1920}},
    "Nougat": {
        **DOCUMENT_DEFAULTS,
        "size": {"height": 896, "width": 672},
        "do_crop_margin": True,
        "image_mean": (0.485, 0.456, 0.406),
        "image_std": (0.229, 0.224, 0.225),
    },
}
"""Defaults of transformers' classes, by the class's name without ``ImageProcessor``."""
MODEL_TYPES = {
    "vit": "ViT",
    "swin": "ViT",
    "trocr": "ViT",
    "deit": "DeiT",
    "beit": "Beit",
    "donut-swin": "Donut",
    "nougat": "Nougat",
    "clip": "CLIP",
    "siglip": "Siglip",
}
"""Classes that transformers takes for a model type whose file names no class, as the first files did."""
IGNORED_KEYS = frozenset(
    {
        "_processor_class",
        "_valid_kwargs_names",
        "_valid_processor_keys",
        "auto_map",
        "crop_size",
        "data_format",
        "default_to_square",
        "device",
        "disable_grouping",
        "do_convert_rgb",
        "do_reduce_labels",
        "feature_extractor_type",
        "image_processor_type",
        "image_seq_length",
        "input_data_format",
        "pad_size",
        "processor_class",
        "reduce_labels",
        "return_tensors",
        "transformers_version",
    }
)
"""Keys that do not change the pixels of a single RGB image."""


@dataclass(frozen=True)
class _Settings:
    """The values of a file over its class's defaults; each method reads and checks one kind of value."""

    values: Mapping[str, Any]
    path: object
    prefix: str

    def error(self, name: str, message: str, hint: str) -> ConfigSchemaError:
        return ConfigSchemaError(message, path=self.path, field=self.prefix + name, hint=hint)

    def flag(self, name: str) -> bool:
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            raise self.error(name, f"true or false expected, got {short(value)}", "write true or false")
        return value

    def number(self, name: str, value: Any) -> float:
        try:
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                return float(value)
        except OverflowError:
            pass
        raise self.error(name, f"finite number expected, got {short(value)}", "write a finite number")

    def channels(self, name: str) -> tuple[float, ...]:
        """One number for each channel, of which there are 1 or 3; a single number is for all three."""
        value = self.values[name]
        numbers = list(value) if isinstance(value, (list, tuple)) else [value] * 3
        if len(numbers) not in (1, 3):
            raise self.error(name, f"{len(numbers)} numbers", "write three: red, green, blue; or one: grey")
        return tuple(self.number(name, number) for number in numbers)

    def size(self, name: str, *, square: bool = True, width_first: bool = False) -> tuple[int, int] | int:
        """Height and width, or the shortest edge alone."""
        value = self.values[name]
        if isinstance(value, Mapping):
            value = {key: side for key, side in value.items() if side is not None}
            if value.keys() == {"shortest_edge"}:
                return self._checked_size(name, value["shortest_edge"], value["shortest_edge"])[0]
            if value.keys() != {"height", "width"}:
                shown = ", ".join(short(key) for key in value) or "nothing"
                raise self.error(name, f"a size of {shown} cannot be honoured", "write height and width")
            return self._checked_size(name, value["height"], value["width"])
        if isinstance(value, (list, tuple)):
            if len(value) != 2:
                raise self.error(name, f"two numbers expected, got {len(value)}", "write height and width")
            return self._checked_size(name, *(reversed(value) if width_first else value))
        size = self._checked_size(name, value, value)
        return size if square else size[0]

    def _checked_size(self, name: str, height: Any, width: Any) -> tuple[int, int]:
        for side in (height, width):
            if type(side) is not int or side < 1:
                raise self.error(
                    name, f"whole numbers from 1 on expected, got {short(side)}", "write pixels, such as 224"
                )
        try:
            check_limit(max(height, width), MAX_SIDE_PIXELS, self.prefix + name, "a side of")
            check_limit(height * width, MAX_PIXELS, self.prefix + name, "number of pixels")
        except ConfigError as error:
            raise error.at(self.path) from None
        return height, width


def read_image_processor(data: Mapping[str, Any], *, path: object, model_type: str | None = None) -> Preprocessing:
    """The preprocessing of images that a file of transformers' image processor sets.

    Args:
        data: the file's object, or an object with that under ``image_processor``, as in ``processor_config.json``.
        path: the file, for messages.
        model_type: the encoder's, which decides the class if the file names none; with None the file must name one.

    Returns:
        The settings; ``rescale_factor``, ``do_rescale`` and ``do_normalize`` are folded into mean and std.

    Raises:
        ConfigSchemaError: a class that vedcore does not know, or a setting that is wrong or cannot be honoured.
        ConfigLimitError: a size above its limit.

    Warns:
        UserWarning: settings that the class does not have.
    """
    prefix = ""
    if isinstance(data, Mapping) and data.get("image_processor") is not None:
        data, prefix = data["image_processor"], "image_processor."
    if not isinstance(data, Mapping):
        raise ConfigSchemaError(
            f"object expected, got {type(data).__name__}",
            path=path,
            field="image_processor",
            hint="copy the file again, or save the image processor with transformers",
        )
    given = {key: value for key, value in data.items() if value is not None}  # null means the class's default
    class_name = _class_name(given, path, prefix, model_type)
    document = "do_thumbnail" in DEFAULTS[class_name]
    if document and "align_long_axis" in given:  # its name in the first files
        given.setdefault("do_align_long_axis", given.pop("align_long_axis"))
    unknown = sorted(map(str, given.keys() - DEFAULTS[class_name].keys() - IGNORED_KEYS))
    if unknown:
        names = ", ".join(short(prefix + name) for name in unknown[:8])
        warn_caller(f"{path}: settings that {class_name}ImageProcessor does not have are skipped: {names}")
    settings = _Settings({**DEFAULTS[class_name], **given}, path, prefix)
    fields = {**_scale(settings), **(_document if document else _cropping)(settings, class_name)}
    resample = settings.values["resample"]
    if type(resample) is not int or not 0 <= resample < len(RESAMPLING_FILTERS):
        raise settings.error("resample", f"0 to 5 expected, got {short(resample)}", "write 2 (bilinear) or 3 (bicubic)")
    return Preprocessing.parse({**fields, "interpolation": RESAMPLING_FILTERS[resample]}, path=path)


def _class_name(given: Mapping[str, Any], path: object, prefix: str, model_type: str | None) -> str:
    field = "feature_extractor_type" if "image_processor_type" not in given else "image_processor_type"
    name = given.get(field)
    if name is None:
        if model_type in MODEL_TYPES:
            return MODEL_TYPES[model_type]
        raise ConfigSchemaError(
            "no class of image processors is named",
            path=path,
            field=prefix + "image_processor_type",
            hint='add it: "image_processor_type": "ViTImageProcessor"',
        )
    class_name = re.sub(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)\Z", "", name) if isinstance(name, str) else ""
    if class_name not in DEFAULTS or class_name == name:
        raise ConfigSchemaError(
            f"vedcore has no image processor {short(name)}",
            path=path,
            field=prefix + field,
            hint=f"write one of {', '.join(DEFAULTS)}, with ImageProcessor after it",
        )
    return class_name


def _scale(settings: _Settings) -> dict[str, Any]:
    """Mean and std for pixels from 0 to 1, with the file's scale folded in."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale = 255.0
    if settings.flag("do_normalize"):
        mean, std = settings.channels("image_mean"), settings.channels("image_std")
        if len(mean) != len(std):  # a default has three
            mean, std = (values * 3 if len(values) == 1 else values for values in (mean, std))
        if min(std) <= 0:
            raise settings.error("image_std", f"numbers above 0 expected, got {short(min(std))}", "write 0.5 or so")
    if settings.flag("do_rescale"):
        factor = settings.number("rescale_factor", settings.values["rescale_factor"])
        if factor <= 0:
            raise settings.error("rescale_factor", f"above 0 expected, got {short(factor)}", "write 1/255 as a number")
        scale = 255 * factor
    if max(*map(abs, mean), *std) / scale > 1e30 or min(std) / scale < 1e-30:  # float32 ends at 1e38
        field = "image_std" if settings.flag("do_normalize") else "rescale_factor"
        raise settings.error(field, "the pixels would be out of float32's range", "leave it out")
    return {"image_mean": tuple(m / scale for m in mean), "image_std": tuple(s / scale for s in std)}


def _cropping(settings: _Settings, class_name: str) -> dict[str, Any]:
    """Fields of a class that resizes an image and crops its centre."""
    if settings.flag("do_pad") and class_name != "Beit":  # Beit's class does not read it
        raise settings.error("do_pad", "padding after normalising cannot be honoured", "set it to false")
    if settings.flag("use_square_size"):
        raise settings.error("use_square_size", "cannot be honoured", "set size to height and width")
    fields: dict[str, Any] = {"resize_mode": "none"}
    resize, crop = settings.flag("do_resize"), settings.flag("do_center_crop")
    if resize or not crop:
        size = settings.size("size", square=settings.flag("default_to_square"))
        if resize:
            fields["resize_mode"] = "shortest_edge" if isinstance(size, int) else "squash"
        fields["image_size"] = (size, size) if isinstance(size, int) else size
    if crop:
        if settings.values["crop_size"] is None:
            raise settings.error("crop_size", "missing", "add height and width, or set do_center_crop to false")
        size = settings.size("crop_size")
        if isinstance(size, int):
            raise settings.error("crop_size", "shortest_edge cannot be honoured", "write height and width")
        if resize and fields["image_size"] != size:
            fields["resize_size"] = fields["image_size"]
        fields.update(image_size=size, do_center_crop=fields["resize_mode"] != "squash" or "resize_size" in fields)
    return fields


def _document(settings: _Settings, class_name: str) -> dict[str, Any]:
    """Fields of a class that turns an image, fits it into the size and centres it on black."""
    if class_name == "Donut" and settings.flag("do_center_crop"):  # Nougat's class does not read it
        raise settings.error("do_center_crop", "cannot be honoured after padding", "set it to false")
    size = settings.size("size", width_first=class_name == "Donut")
    if isinstance(size, int):
        raise settings.error("size", f"{class_name} has no shortest_edge", "write height and width")
    thumbnail = "interpolation" if class_name == "Donut" else "bicubic"
    return {
        "image_size": size,
        "resize_mode": "shortest_edge" if settings.flag("do_resize") else "none",
        "thumbnail": thumbnail if settings.flag("do_thumbnail") else None,
        "do_crop_margin": settings.flag("do_crop_margin"),
        "do_align_long_axis": settings.flag("do_align_long_axis"),
        "do_pad": settings.flag("do_pad"),
    }


def write_image_processor(preprocessing: Preprocessing) -> dict[str, Any]:
    """The ``preprocessor_config.json`` with which transformers' ``AutoImageProcessor`` gives the same pixels.

    Args:
        preprocessing: the settings to write.

    Raises:
        IncompatibleError: settings that no image processor of transformers has; the message names them.
    """
    shared: dict[str, Any] = {
        "do_resize": preprocessing.resize_mode != "none",
        "resample": RESAMPLING_FILTERS.index(preprocessing.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.image_mean),
        "image_std": list(preprocessing.image_std),
        "do_convert_rgb": len(preprocessing.image_mean) == 3,
    }
    if preprocessing.resize_mode in ("crop", "pad"):
        raise _unsupported(f"resize_mode {preprocessing.resize_mode!r}")
    size = _height_width(preprocessing.image_size)
    if (
        preprocessing.do_crop_margin
        or preprocessing.do_align_long_axis
        or preprocessing.thumbnail
        or preprocessing.do_pad
    ):
        return {**_document_class(preprocessing), **shared, "size": size}
    resized = preprocessing.resize_size or preprocessing.image_size
    if preprocessing.resize_mode == "shortest_edge":
        return {
            "image_processor_type": "CLIPImageProcessor",
            **shared,
            "size": {"shortest_edge": min(resized)},
            "do_center_crop": preprocessing.do_center_crop,
            "crop_size": size,
        }
    if preprocessing.do_center_crop:
        return {
            "image_processor_type": "DeiTImageProcessor",
            **shared,
            "size": _height_width(resized),
            "do_center_crop": True,
            "crop_size": size,
        }
    return {"image_processor_type": "ViTImageProcessor", **shared, "size": size}


def _document_class(preprocessing: Preprocessing) -> dict[str, Any]:
    if preprocessing.resize_mode == "squash":
        raise _unsupported("resize_mode 'squash' with margins, turning, a thumbnail or padding")
    if preprocessing.do_center_crop:
        raise _unsupported("do_center_crop with margins, turning, a thumbnail or padding")
    switches = {
        "do_thumbnail": preprocessing.thumbnail is not None,
        "do_align_long_axis": preprocessing.do_align_long_axis,
        "do_pad": preprocessing.do_pad,
    }
    if preprocessing.do_crop_margin or preprocessing.thumbnail == "bicubic":
        if preprocessing.thumbnail == "interpolation":
            raise _unsupported("do_crop_margin with thumbnail 'interpolation'")
        return {
            "image_processor_type": "NougatImageProcessor",
            "do_crop_margin": preprocessing.do_crop_margin,
            **switches,
        }
    return {"image_processor_type": "DonutImageProcessor", **switches}


def _unsupported(settings: str) -> IncompatibleError:
    return IncompatibleError(
        f"no image processor of transformers has {settings}", field="preprocessing", hint='save it with format="native"'
    )


def _height_width(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}
