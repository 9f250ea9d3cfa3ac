"""``preprocessor_config.json`` of transformers, as our `Preprocessing` and back.

The pixels are those of transformers' Pillow classes. Its torchvision classes are within one level of 255 of them by
``nearest`` and ``bilinear``; by ``bicubic`` and ``lanczos`` some pixels at hard edges differ by more. They also cut
otherwise, in Nougat's margins (another rounding of greys) and in a centre crop larger than the image by an odd number;
and they shrink Nougat's thumbnails without averaging first, and Donut's by ``nearest`` where that is asked for.

An image may come out in a size that the model does not have (``do_resize`` false, ``do_pad`` false, a shortest edge and
no crop). It does so here as it does there, and the encoder refuses it where its size is fixed.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vedcore.config import Preprocessing, check_limit
from vedcore.config_files.plain import short
from vedcore.errors import ConfigError, ConfigSchemaError, IncompatibleError
from vedcore.processing.images import MAX_PIXELS

__all__ = ["read_image_processor", "write_image_processor"]

MAX_SIDE = 1 << 20
"""Limit of a height or width, in pixels."""
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's numbers of its filters."""
STANDARD = (0.5, 0.5, 0.5)
COMMON: dict[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": STANDARD,
    "image_std": STANDARD,
}
CROPPING: dict[str, Any] = {
    **COMMON,
    "size": 224,
    "resample": 2,
    "default_to_square": True,
    "do_center_crop": False,
    "crop_size": None,
    "do_pad": False,
}
DOCUMENT: dict[str, Any] = {
    **COMMON,
    "resample": 2,
    "do_thumbnail": True,
    "do_align_long_axis": False,
    "do_pad": True,
    "do_center_crop": False,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": CROPPING,
    "DeiT": {**CROPPING, "size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224},
    "Beit": {**CROPPING, "resample": 3, "crop_size": 224},
    "CLIP": {
        **CROPPING,
        "size": {"shortest_edge": 224},
        "resample": 3,
        "default_to_square": False,
        "do_center_crop": True,
        "crop_size": 224,
        "use_square_size": False,
        "image_mean": (0.48145466, 0.4578275, 0.40821073),
        "image_std": (0.26862954, 0.26130258, 0.27577711),
    },
    "Siglip": {**CROPPING, "resample": 3, "size": {"height": 224, "width": 224}, "default_to_square": False},
    "Donut": {**DOCUMENT, "size": {"height": 2560, "width": 1920}},
    "Nougat": {
        **DOCUMENT,
        "size": {"height": 896, "width": 672},
        "do_crop_margin": True,
        "image_mean": (0.485, 0.456, 0.406),
        "image_std": (0.229, 0.224, 0.225),
    },
}
"""What each class of transformers does where a file does not say."""
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
"""The classes that transformers takes for a model whose file names none, as the first files did not."""
NO_PART = frozenset(
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
"""Keys that change nothing of what one RGB image becomes."""


@dataclass(frozen=True)
class _Settings:
    """What a file says, over what its class does by itself; a method a kind of value."""

    values: Mapping[str, Any]
    path: object
    prefix: str

    def wrong(self, name: str, message: str, hint: str) -> ConfigSchemaError:
        return ConfigSchemaError(message, path=self.path, field=self.prefix + name, hint=hint)

    def flag(self, name: str) -> bool:
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            raise self.wrong(name, f"true or false expected, got {short(value)}", "write true or false")
        return value

    def number(self, name: str, value: Any) -> float:
        try:
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                return float(value)
        except OverflowError:
            pass
        raise self.wrong(name, f"finite number expected, got {short(value)}", "write a finite number")

    def channels(self, name: str) -> tuple[float, float, float]:
        """One number a channel, or one for all."""
        value = self.values[name]
        each = list(value) if isinstance(value, (list, tuple)) else [value] * 3
        if len(each) != 3:
            raise self.wrong(name, f"{len(each)} numbers", "write three: red, green, blue")
        red, green, blue = (self.number(name, number) for number in each)
        return red, green, blue

    def size(self, name: str, *, square: bool = True, width_first: bool = False) -> tuple[int, int] | int:
        """Height and width, or the shortest edge alone."""
        value = self.values[name]
        if isinstance(value, Mapping):
            value = {key: side for key, side in value.items() if side is not None}
            if value.keys() == {"shortest_edge"}:
                return self._area(name, value["shortest_edge"], value["shortest_edge"])[0]
            if value.keys() != {"height", "width"}:
                shown = ", ".join(short(key) for key in value) or "nothing"
                raise self.wrong(name, f"a size of {shown} cannot be honoured", "write height and width")
            return self._area(name, value["height"], value["width"])
        if isinstance(value, (list, tuple)):
            if len(value) != 2:
                raise self.wrong(name, f"two numbers expected, got {len(value)}", "write height and width")
            return self._area(name, *(reversed(value) if width_first else value))
        size = self._area(name, value, value)
        return size if square else size[0]

    def _area(self, name: str, height: Any, width: Any) -> tuple[int, int]:
        for side in (height, width):
            if type(side) is not int or side < 1:
                raise self.wrong(
                    name, f"whole numbers from 1 on expected, got {short(side)}", "write pixels, as in 224"
                )
        try:
            check_limit(max(height, width), MAX_SIDE, self.prefix + name, "a side of")
            check_limit(height * width, MAX_PIXELS, self.prefix + name, "pixels,")
        except ConfigError as error:
            raise error.at(self.path) from None
        return height, width


def read_image_processor(data: Mapping[str, Any], *, path: object, model_type: str | None = None) -> Preprocessing:
    """How an image becomes pixels, from what a processor of transformers wrote.

    Args:
        data: the file's object; also one that has it under ``image_processor``, as ``processor_config.json`` does.
        path: the file, for messages.
        model_type: the encoder's, which decides where the file names no class; None: a file must name one.

    Returns:
        The settings; ``rescale_factor`` and the switches of rescaling and normalising are folded into mean and std.

    Raises:
        ConfigSchemaError: a class that vedcore does not know, or a setting that is wrong or cannot be honoured.
        ConfigLimitError: a size past what is sane.
    """
    prefix = ""
    if isinstance(data, Mapping) and isinstance(data.get("image_processor"), Mapping):
        data, prefix = data["image_processor"], "image_processor."
    if not isinstance(data, Mapping):
        raise ConfigSchemaError(f"object expected, got {type(data).__name__}", path=path, hint="save it again")
    given = {key: value for key, value in data.items() if value is not None}  # null is the class's own
    kind = _kind(given, path, prefix, model_type)
    document = "do_thumbnail" in DEFAULTS[kind]
    if document and "align_long_axis" in given:  # its name in the first files
        given.setdefault("do_align_long_axis", given.pop("align_long_axis"))
    strange = sorted(map(str, given.keys() - DEFAULTS[kind].keys() - NO_PART))
    if strange:
        names = ", ".join(short(prefix + name) for name in strange[:8])
        warnings.warn(
            f"{path}: settings that {kind}ImageProcessor does not have are passed over: {names}",
            UserWarning,
            stacklevel=2,
        )
    settings = _Settings({**DEFAULTS[kind], **given}, path, prefix)
    fields = {**_scale(settings), **(_document if document else _cropping)(settings, kind)}
    resample = settings.values["resample"]
    if type(resample) is not int or not 0 <= resample < len(RESAMPLE):
        raise settings.wrong("resample", f"0 to 5 expected, got {short(resample)}", "write 2 (bilinear) or 3 (bicubic)")
    return Preprocessing.parse({**fields, "interpolation": RESAMPLE[resample]}, path=path)


def _kind(given: Mapping[str, Any], path: object, prefix: str, model_type: str | None) -> str:
    field = "feature_extractor_type" if "image_processor_type" not in given else "image_processor_type"
    name = given.get(field)
    if name is None:
        if model_type in MODEL_TYPES:
            return MODEL_TYPES[model_type]
        raise ConfigSchemaError(
            "no class of image processor is named",
            path=path,
            field=prefix + "image_processor_type",
            hint='add it: "image_processor_type": "ViTImageProcessor"',
        )
    kind = re.sub(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)\Z", "", name) if isinstance(name, str) else ""
    if kind not in DEFAULTS or kind == name:
        raise ConfigSchemaError(
            f"no image processor {short(name)} here",
            path=path,
            field=prefix + field,
            hint=f"known: {', '.join(DEFAULTS)}, each with ImageProcessor after it",
        )
    return kind


def _scale(settings: _Settings) -> dict[str, Any]:
    """Mean and std for pixels from 0 to 1, whatever the file's scale is."""
    mean, std, scale = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 255.0
    if settings.flag("do_normalize"):
        mean, std = settings.channels("image_mean"), settings.channels("image_std")
        if min(std) <= 0:
            raise settings.wrong("image_std", f"numbers above 0 expected, got {short(min(std))}", "write 0.5 or so")
    if settings.flag("do_rescale"):
        factor = settings.number("rescale_factor", settings.values["rescale_factor"])
        if factor <= 0:
            raise settings.wrong("rescale_factor", f"above 0 expected, got {short(factor)}", "write 1/255 as a number")
        scale = 255 * factor
    if max(*map(abs, mean), *std) / scale > 1e30 or min(std) / scale < 1e-30:  # float32 ends at 1e38
        field = "image_std" if settings.flag("do_normalize") else "rescale_factor"
        raise settings.wrong(field, "float32 cannot hold the pixels that it gives", "leave it out")
    return {"image_mean": tuple(m / scale for m in mean), "image_std": tuple(s / scale for s in std)}


def _cropping(settings: _Settings, kind: str) -> dict[str, Any]:
    """Resized, then the middle of it."""
    if settings.flag("do_pad") and kind != "Beit":  # whose class does not look at it
        raise settings.wrong("do_pad", "padding after normalising cannot be honoured", "set it to false")
    if settings.flag("use_square_size"):
        raise settings.wrong("use_square_size", "cannot be honoured", "set size to height and width")
    fields: dict[str, Any] = {"resize_mode": "none"}
    resize, crop = settings.flag("do_resize"), settings.flag("do_center_crop")
    if resize or not crop:
        size = settings.size("size", square=settings.flag("default_to_square"))
        if resize:
            fields["resize_mode"] = "shortest_edge" if isinstance(size, int) else "squash"
        fields["image_size"] = (size, size) if isinstance(size, int) else size
    if crop:
        if settings.values["crop_size"] is None:
            raise settings.wrong("crop_size", "missing", "add height and width, or set do_center_crop to false")
        size = settings.size("crop_size")
        if isinstance(size, int):
            raise settings.wrong("crop_size", "shortest_edge cannot be honoured", "write height and width")
        if resize and fields["image_size"] != size:
            fields["resize_size"] = fields["image_size"]
        fields.update(image_size=size, do_center_crop=fields["resize_mode"] != "squash" or "resize_size" in fields)
    return fields


def _document(settings: _Settings, kind: str) -> dict[str, Any]:
    """Turned, fitted into the size and centred on black."""
    if kind == "Donut" and settings.flag("do_center_crop"):  # Nougat's class does not look at it
        raise settings.wrong("do_center_crop", "cannot be honoured after padding", "set it to false")
    size = settings.size("size", width_first=kind == "Donut")
    if isinstance(size, int):
        raise settings.wrong("size", f"{kind} has no shortest_edge", "write height and width")
    thumbnail = "interpolation" if kind == "Donut" else "bicubic"
    return {
        "image_size": size,
        "resize_mode": "shortest_edge" if settings.flag("do_resize") else "none",
        "thumbnail": thumbnail if settings.flag("do_thumbnail") else None,
        "do_crop_margin": settings.flag("do_crop_margin"),
        "do_align_long_axis": settings.flag("do_align_long_axis"),
        "do_pad": settings.flag("do_pad"),
    }


def write_image_processor(preprocessing: Preprocessing) -> dict[str, Any]:
    """What ``preprocessor_config.json`` must hold for transformers' ``AutoImageProcessor`` to give the same pixels.

    Args:
        preprocessing: how images are prepared.

    Raises:
        IncompatibleError: no image processor of transformers does that; says what.
    """
    ours = preprocessing
    plain: dict[str, Any] = {
        "do_resize": ours.resize_mode != "none",
        "resample": RESAMPLE.index(ours.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(ours.image_mean),
        "image_std": list(ours.image_std),
        "do_convert_rgb": True,
    }
    if ours.resize_mode in ("crop", "pad"):
        raise _impossible(f"resize_mode {ours.resize_mode!r}")
    size = _height_width(ours.image_size)
    if ours.do_crop_margin or ours.do_align_long_axis or ours.thumbnail or ours.do_pad:
        return {**_as_document(ours), **plain, "size": size}
    resized = ours.resize_size or ours.image_size
    if ours.resize_mode == "shortest_edge":
        return {
            "image_processor_type": "CLIPImageProcessor",
            **plain,
            "size": {"shortest_edge": min(resized)},
            "do_center_crop": ours.do_center_crop,
            "crop_size": size,
        }
    if ours.do_center_crop:
        return {
            "image_processor_type": "DeiTImageProcessor",
            **plain,
            "size": _height_width(resized),
            "do_center_crop": True,
            "crop_size": size,
        }
    return {"image_processor_type": "ViTImageProcessor", **plain, "size": size}


def _as_document(ours: Preprocessing) -> dict[str, Any]:
    if ours.resize_mode == "squash":
        raise _impossible("resize_mode 'squash' with margins, turning, a thumbnail or padding")
    if ours.do_center_crop:
        raise _impossible("do_center_crop with margins, turning, a thumbnail or padding")
    words = {
        "do_thumbnail": ours.thumbnail is not None,
        "do_align_long_axis": ours.do_align_long_axis,
        "do_pad": ours.do_pad,
    }
    if ours.do_crop_margin or ours.thumbnail == "bicubic":
        if ours.thumbnail == "interpolation":
            raise _impossible("do_crop_margin with thumbnail 'interpolation'")
        return {"image_processor_type": "NougatImageProcessor", "do_crop_margin": ours.do_crop_margin, **words}
    return {"image_processor_type": "DonutImageProcessor", **words}


def _impossible(what: str) -> IncompatibleError:
    return IncompatibleError(
        f"no image processor of transformers does {what}", field="preprocessing", hint='save it with format="native"'
    )


def _height_width(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}
