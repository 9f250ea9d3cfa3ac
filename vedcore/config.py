"""Settings as data: the base of every family's config, and the config of a whole model.

Configs are frozen pydantic models that refuse unknown keys and name the nearest valid one. Field names are
Hugging Face's own; where a family there has a second word for a field (``attribute_map``), both are taken.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NoReturn, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from vedcore.errors import ConfigError, ConfigLimitError, ConfigSchemaError, UsageError, did_you_mean, warn_caller
from vedcore.transformers_names import CONFIG, missing_attribute

__all__ = [
    "ComponentConfig",
    "Config",
    "DecoderConfig",
    "EncoderConfig",
    "ModelConfig",
    "Preprocessing",
    "ProjectorConfig",
    "TokenIds",
]

Size = Annotated[int, Field(ge=1, le=1 << 20)]
"""A width or a count."""
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
"""A dropout probability."""
Layers = Annotated[int, Field(ge=1, le=1024)]
"""Number of layers."""
MAX_VOCAB_SIZE = 1 << 24
VocabSize = Annotated[int, Field(ge=1, le=MAX_VOCAB_SIZE)]
"""Number of token ids."""
TokenId = Annotated[int, Field(ge=0, lt=MAX_VOCAB_SIZE)]
"""Number of a token in the vocabulary."""
Spread = Annotated[float, Field(gt=0.0, le=10.0, allow_inf_nan=False)]
"""Standard deviation of fresh weights."""
Epsilon = Annotated[float, Field(gt=0.0, lt=1.0, allow_inf_nan=False)]
"""Added to a variance before its root is taken."""
TOKEN_ID_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""The fields of a decoder's config that hold token ids."""
Activation = Literal[
    "gelu",
    "gelu_new",
    "gelu_pytorch_tanh",
    "gelu_fast",
    "quick_gelu",
    "relu",
    "silu",
    "swish",
    "tanh",
    "gelu_python",
    "gelu_python_tanh",
    "gelu_accurate",
    "gelu_10",
    "hardswish",
    "laplace",
    "leaky_relu",
    "linear",
    "mish",
    "relu2",
    "relu6",
    "sigmoid",
    "sqrtsoftplus",
]


class Config(BaseModel):
    """Base of all settings: frozen, strict about types, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=False)

    attribute_map: ClassVar[Mapping[str, str]] = {}
    """Second words for fields, second to first: ``{"hidden_size": "n_embd"}``."""
    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Attributes of transformers' configs that stand elsewhere here: the next step by name."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                if name in type(self).attribute_map:
                    return getattr(self, type(self).attribute_map[name])
                raise missing_attribute(f"a {type(self).__name__}", name, self.elsewhere) or sys.exception() from None

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse to change settings in place; the value that a setting has already is no change.

        Raises:
            UsageError: another value; the hint is what to write instead.
        """
        if self._is_already(name, value):
            return
        raise UsageError(
            f"settings of a {type(self).__name__} do not change in place", field=name, hint=self._instead(name, value)
        )

    def _is_already(self, name: str, value: object) -> bool:
        try:
            now = getattr(self, name)
        except AttributeError:
            return False
        return type(now) is type(value) and bool(now == value) and not callable(now)

    def _instead(self, name: str, value: object) -> str:
        """The statement to write instead of assigning ``value`` to ``name``."""
        if not self._has(name):
            return self._fields_near(name)
        return f"make a copy: config.changed({name}={_shown(value)})"

    def _fields_near(self, name: str) -> str:
        """The fields that are nearest to an unknown name, else all."""
        names = [*type(self).model_fields, *(self.__pydantic_extra__ or {})]
        return did_you_mean(name, names) or f"there are: {', '.join(names)}"

    @classmethod
    def _has(cls, name: str) -> bool:
        """Whether there is a field of that name, or one that it is a second word for."""
        return cls.attribute_map.get(name, name) in cls.model_fields

    @classmethod
    def parse(cls, data: Mapping[str, Any], *, path: object = None, prefix: str = "") -> Self:
        """A config from plain data.

        Args:
            data: field names to values; lists stand for tuples.
            path: the file that the data came from, for messages.
            prefix: what to put before a field's name in messages, such as ``"decoder."``.

        Raises:
            ConfigSchemaError: an unknown key (with the nearest valid one), a wrong type, a value out of bounds.
        """
        if not isinstance(data, Mapping):
            raise ConfigSchemaError(
                f"object expected, got {type(data).__name__}", path=path, field=prefix.rstrip(".") or None
            )
        fields = cls.model_fields
        plain: dict[str, Any] = {}
        for key, value in data.items():
            name = cls.attribute_map.get(key, key)
            if name not in fields and cls.model_config.get("extra") != "allow":
                valid = ", ".join(sorted([*fields, *cls.attribute_map]))
                hint = did_you_mean(str(key), [*fields, *cls.attribute_map]) or f"valid keys: {valid}"
                raise ConfigSchemaError(
                    "unknown key", path=path, field=f"{prefix}{key}", hint=hint, details=f"valid keys: {valid}"
                )
            if name in plain:
                raise ConfigSchemaError(
                    f"given twice, as {key!r} and as {name!r}", path=path, field=prefix + name, hint="keep one"
                )
            plain[name] = tuple(value) if isinstance(value, list) else value
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            raise schema_error(error, path, prefix) from None

    def changed(self, **fields: Any) -> Self:
        """A copy with some fields replaced, checked like a new one."""
        return self.parse({**self.model_dump(), **fields})

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in ``config.json``, for PEFT and the loggers of transformers' ``Trainer``."""
        return self.model_dump(mode="json")


_HINTS = {"missing": "add it"}
"""Hints for those of pydantic's errors that have none."""


def _shown(value: object) -> str:
    try:
        return repr(value)[:55]
    except ValueError:  # Python does not print whole numbers of thousands of digits
        return "a number of thousands of digits"


_KIND = re.compile(r"(constrained|function)-.*|\w+\[.*\]|int|str|bool|float|none")
"""How pydantic names the kinds that a field may be of."""


def _place(loc: Sequence[int | str]) -> str:
    """The path of a value, without pydantic's names of the kinds that a field may be of."""
    return ".".join(str(part) for part in loc if isinstance(part, int) or not _KIND.fullmatch(part))


def schema_error(error: ValidationError, path: object, prefix: str) -> ConfigError:
    """One of pydantic's errors as ours: a size past its limit, or a value that does not fit the schema."""
    cause = error.errors()[0].get("ctx", {}).get("error")
    if isinstance(cause, ConfigError) and cause.field:  # a validator's own error says more
        return cause.at(path, prefix + cause.field)
    problems = [(prefix + _place(e["loc"]), e["msg"], e["input"]) for e in error.errors()]
    field, message, value = problems[0]
    message = message.removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    shown = "" if isinstance(value, Mapping) else f", got {_shown(value)}"
    # the upper bounds of whole numbers are limits of sanity; those of rates are open ("less_than")
    too_large = error.errors()[0]["type"] == "less_than_equal" and isinstance(value, int)
    hint = _HINTS.get(error.errors()[0]["type"], "")
    more = f"and {len(problems) - 1} more" if len(problems) > 1 else ""
    return (ConfigLimitError if too_large else ConfigSchemaError)(
        message + shown,
        path=path,
        field=field.rstrip("."),
        hint=", ".join(filter(None, (hint, more))),
        details="\n".join(f"{f}: {m}" for f, m, _ in problems[1:]),
    )


_OPTIONS = (
    "do_sample",
    "early_stopping",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "num_beams",
    "num_return_sequences",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
)
"""Options of ``generate`` that transformers' tutorials set on a model's config."""
_OPTIONS_ELSEWHERE = {name: f"read model.generation_config.{name}" for name in _OPTIONS}


class EncoderConfig(Config):
    """Base of the encoders' configs: the field that all have."""

    image_size: tuple[Size, Size] | None = None
    """Height and width in pixels of the encoder's input; None is the variant's own. One number means a square."""

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: object) -> object:
        return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value

    def _instead(self, name: str, value: object) -> str:
        return _composed("encoder", name, value) if self._has(name) else super()._instead(name, value)


class DecoderConfig(Config):
    """Base of the decoders' configs: the fields that all have under one name."""

    elsewhere = _OPTIONS_ELSEWHERE
    vocab_size: VocabSize
    """Number of token ids; the tokenizer decides it unless it is given."""
    bos_token_id: TokenId | None = None
    """Id that starts a text."""
    eos_token_id: TokenId | tuple[TokenId, ...] | None = None
    """Id or ids that end a text."""
    pad_token_id: TokenId | None = None
    """Id that fills rows after their end."""
    decoder_start_token_id: TokenId | None = None
    """Id that generation starts with, where it is not ``bos_token_id``."""
    cross_attention_hidden_size: Size | None = None
    """Width of the encoder states that cross-attention takes; None means the decoder's own width."""
    tie_word_embeddings: bool = True
    """Whether the output layer is the input embedding."""

    @field_validator(*TOKEN_ID_FIELDS, mode="before")
    @classmethod
    def _plain_ids(cls, value: object) -> object:
        return plain(value)

    def _instead(self, name: str, value: object) -> str:
        if name not in ("token_ids", *_OPTIONS) and not self._has(name):
            return super()._instead(name, value)
        return _model_setting(name, value) or _composed("decoder", name, value)


class ProjectorConfig(Config):
    """Base of the projectors' configs."""


class Preprocessing(Config):
    """How an image becomes the encoder's input."""

    image_size: tuple[Size, Size]
    """Height and width in pixels."""
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Subtracted from each channel, on the scale 0 to 1: three numbers for RGB; one, and images are made grey."""
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Divides each channel afterwards."""
    interpolation: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"] = "bicubic"
    """How pixels are resampled."""
    resize_mode: Literal["squash", "crop", "pad", "shortest_edge", "none"] = "squash"
    """``squash`` stretches to the size; ``crop`` fills it and cuts the rest; ``pad`` fits in and adds the mean;
    ``shortest_edge`` makes the shorter side as long as the size's shorter side; ``none`` leaves every image its own.

    After the last two an image has ``image_size`` only where ``do_pad`` or ``do_center_crop`` make it so; else it keeps
    what it has, and an encoder of fixed size refuses it.
    """
    resize_size: tuple[Size, Size] | None = None
    """Height and width that ``squash`` and ``shortest_edge`` aim at before ``do_center_crop``; None: ``image_size``."""
    do_crop_margin: bool = False
    """Whether to cut off light margins first."""
    do_align_long_axis: bool = False
    """Whether to turn an image clockwise by 90 degrees where it is wide and ``image_size`` tall, or the reverse."""
    thumbnail: Literal["interpolation", "bicubic"] | None = None
    """How to shrink what is larger than ``image_size`` after resizing: by ``interpolation`` (by ``bicubic`` where that
    is ``nearest``, as Donut's does), or always by ``bicubic``, after averaging where it shrinks by 4 or more, as
    Nougat's does; None does not."""
    do_pad: bool = False
    """Whether to centre the image on black of ``image_size``, an odd pixel at the right and bottom; what stands out is
    cut off."""
    do_center_crop: bool = False
    """Whether to cut ``image_size`` out of the middle; what is missing is black, an odd pixel at the left and top."""

    def _instead(self, name: str, value: object) -> str:
        if name == "image_size":  # the encoder must take it too
            return f"load or compose the model with image_size={_shown(value)}"
        if not self._has(name):
            return super()._instead(name, value)
        return f"model.processor.preprocessing = model.processor.preprocessing.changed({name}={_shown(value)})"

    @field_validator("image_std")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(math.isfinite(v) and v > 0 for v in value):
            raise ValueError("every image_std must be above 0")
        return value

    @field_validator("image_mean")
    @classmethod
    def _finite(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(map(math.isfinite, value)):
            raise ValueError("every image_mean must be finite")
        return value

    @field_validator("image_mean", "image_std")
    @classmethod
    def _channels(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) not in (1, 3):
            raise ValueError(f"three numbers for RGB or one for grey expected, got {len(value)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.image_mean) != len(self.image_std):
            raise ConfigSchemaError(
                f"{len(self.image_std)} numbers, but image_mean has {len(self.image_mean)}",
                field="image_std",
                hint="give both one number for each channel",
            )
        whole = self.resize_mode in ("crop", "pad")  # these give image_size by themselves
        for name in ("thumbnail", "do_pad", "do_center_crop", "resize_size"):
            if whole and getattr(self, name):
                raise ConfigSchemaError(
                    f"nothing is left to do after resize_mode {self.resize_mode!r}",
                    field=name,
                    hint="leave it out, or use squash, shortest_edge or none",
                )
        if self.resize_size and (self.resize_mode == "none" or not self.do_center_crop):
            raise ConfigSchemaError(
                "without a resize before, and do_center_crop after it, there cannot be a second size",
                field="resize_size",
                hint="leave it out",
            )
        return self

    def with_channels(self, channels: int) -> Preprocessing:
        """The same for images of that many channels: one number becomes three, three become one.

        Warns:
            UserWarning: three different numbers, of which the mean is taken.
        """
        if channels == len(self.image_mean):
            return self
        fields = {"image_mean": self.image_mean, "image_std": self.image_std}
        for name, values in fields.items():
            if channels == 1 and len(set(values)) > 1:
                warn_caller(f"preprocessing.{name}: {values}, but the encoder takes grey images: their mean is used")
            same = len(set(values)) == 1
            fields[name] = values * 3 if channels == 3 else values[:1] if same else (sum(values) / len(values),)
        return self.model_copy(update=fields)


class TokenIds(Config):
    """The token ids that training, generation and saving read: their one place is ``model.token_ids``."""

    start: TokenId | None = None
    """First id of the decoder's input."""
    eos: tuple[TokenId, ...] = ()
    """Ids that end a text."""
    pad: TokenId | None = None
    """Fills a row after its end."""

    @field_validator("start", "eos", "pad", mode="before")
    @classmethod
    def _plain_ids(cls, value: object, info: ValidationInfo) -> object:
        value = plain(value)
        return (value,) if info.field_name == "eos" and isinstance(value, int) else value

    def _instead(self, name: str, value: object) -> str:
        role = _ROLES.get(name, name)
        if not self._has(role):
            return super()._instead(name, value)
        return f"model.token_ids = model.token_ids.changed({role}={_shown(value)})"

    def below(self, vocab_size: int) -> Self:
        """The ids that the vocabulary has."""
        start, pad = (None if i is not None and i >= vocab_size else i for i in (self.start, self.pad))
        return self.changed(start=start, eos=tuple(i for i in self.eos if i < vocab_size), pad=pad)

    def check(self, vocab_size: int, *, built: bool = False) -> None:
        """Refuse ids that the vocabulary does not have.

        Args:
            vocab_size: number of ids.
            built: whether the ids are a model's, which can be resized.

        Raises:
            ConfigSchemaError: naming the id, its role and the vocabulary size.
        """
        for role, ids in (("start", [self.start]), ("eos", self.eos), ("pad", [self.pad])):
            for token in ids:
                if token is not None and token >= vocab_size:
                    raise ConfigSchemaError(
                        f"id {token} is not below vocab_size {vocab_size}",
                        field=f"token_ids.{role}",
                        hint=f"set another id, or first call model.resize_vocabulary({token + 1})"
                        if built
                        else f"set an id below {vocab_size}",
                    )

    def required(self, role: Literal["start", "pad"]) -> int:
        """The id of a role.

        Raises:
            UsageError: the model has none.
        """
        value: int | None = getattr(self, role)
        if value is None:
            raise UsageError(
                f"the model has no {role} token id",
                field=f"token_ids.{role}",
                hint=f"set model.token_ids = model.token_ids.changed({role}=…)",
            )
        return value


class ComponentConfig(Config):
    """A part by name, and whatever fields of its family are set; the family checks them."""

    model_config = ConfigDict(extra="allow")
    elsewhere = _OPTIONS_ELSEWHERE

    name: Annotated[str, Field(min_length=1, max_length=300)]
    """Family, variant or ``distribution:name``."""

    @property
    def fields(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.__pydantic_extra__ or {})

    def _instead(self, name: str, value: object) -> str:
        kinds = {"vocab_size": "decoder", "image_size": "encoder"}  # a model's parts have all fields
        kind = next((kind for field, kind in kinds.items() if field in self.fields), "projector")
        if setting := _model_setting(name, value):
            return setting
        return _composed(kind, name, value) if name in ("name", *self.fields) else self._fields_near(name)


class ModelConfig(Config):
    """A whole model: what a config file holds, what ``model.config`` is, what ``config.json`` of a folder stores."""

    elsewhere = {**_OPTIONS_ELSEWHERE, **CONFIG}
    format_version: Literal[1] = 1
    """Version of this schema."""
    encoder: ComponentConfig
    """The vision encoder."""
    decoder: ComponentConfig
    """The text decoder."""
    projector: ComponentConfig = ComponentConfig(name="auto")
    """Maps encoder states to the decoder's width; ``auto`` is identity where widths agree, else linear."""
    tokenizer: str | None = None
    """``char``, ``byte``, a path to a tokenizer.json, or None."""
    preprocessing: Preprocessing | None = None
    """How images are prepared; None takes what the encoder publishes."""
    token_ids: TokenIds | None = None
    """None derives them from the tokenizer, else from the decoder."""
    dtype: Literal["float32", "float16", "bfloat16", "float64"] = "float32"
    """Type of the parameters."""
    pretrained: bool = False
    """Whether parts take their published weights when the model is composed; never saved as True."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    """Seed of the fresh weights; None draws from torch's global generator."""
    plugins: dict[str, str] = {}
    """Written when saved: each part's distribution and version, to say what to install when it is gone."""

    @field_validator("encoder", "decoder", "projector", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("preprocessing", mode="before")
    @classmethod
    def _preprocessing(cls, value: object) -> object:
        return Preprocessing.parse(value, prefix="preprocessing.") if isinstance(value, Mapping) else value

    @field_validator("token_ids", mode="before")
    @classmethod
    def _token_ids(cls, value: object) -> object:
        return TokenIds.parse(value, prefix="token_ids.") if isinstance(value, Mapping) else value

    @property
    def pad_token_id(self) -> int | None:
        """``token_ids.pad``, by transformers' name."""
        return self.token_ids.pad if self.token_ids else None

    @property
    def eos_token_id(self) -> int | tuple[int, ...] | None:
        """``token_ids.eos``, by transformers' name: one id, several or none."""
        ids = self.token_ids.eos if self.token_ids else ()
        return ids[0] if len(ids) == 1 else ids or None

    @property
    def decoder_start_token_id(self) -> int | None:
        """``token_ids.start``, by transformers' name."""
        return self.token_ids.start if self.token_ids else None

    @property
    def vocab_size(self) -> int | None:
        """Number of token ids of the decoder, where it is set."""
        return self.decoder.fields.get("vocab_size")

    @property
    def is_encoder_decoder(self) -> bool:
        """True, for code that asks."""
        return True

    def get_text_config(self) -> NoReturn:
        """Not here: Trainer asks for it to write the ids of transformers' tokenizer into the model.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "the ids of transformers' tokenizer or processor do not become the model's",
            field="processing_class",
            hint="give processing_class=model.processor, and set other ids before: "
            "model.token_ids = model.token_ids.changed(…)",
        )

    def to_dict(self) -> dict[str, Any]:
        """The contents of ``config.json``, for PEFT and the loggers of transformers' ``Trainer``."""
        return self.model_dump(mode="json")

    def to_json_string(self) -> str:
        """The same as text."""
        return self.model_dump_json(indent=2) + "\n"

    def __setattr__(self, name: str, value: object) -> None:
        if name != "use_cache":  # which ``Trainer`` sets on every config; here it is an argument of each call
            super().__setattr__(name, value)

    def _instead(self, name: str, value: object) -> str:
        if setting := _model_setting(name, value):
            return setting
        if name == "image_size":  # of the encoder and of the preprocessing
            return f"load or compose the model with image_size={_shown(value)}"
        return _composed("", name, value) if self._has(name) else super()._instead(name, value)


_ROLES = {
    "bos_token_id": "start",
    "decoder_start_token_id": "start",
    "eos_token_id": "eos",
    "pad_token_id": "pad",
}
"""transformers' names of the fields of `TokenIds`."""


def _model_setting(name: str, value: object) -> str:
    """The assignment to a model that changes ``name``, a setting of several parts; empty for any other."""
    if name in _ROLES:
        return f"model.token_ids = model.token_ids.changed({_ROLES[name]}={_shown(value)})"
    if name in _OPTIONS:
        return f"model.generation_config = model.generation_config.with_options({name}={_shown(value)})"
    if name == "token_ids":
        return "model.token_ids = vedcore.TokenIds(start=0, eos=2, pad=1), or model.token_ids.changed(eos=2)"
    return f"model.resize_vocabulary({_shown(value)})" if name == "vocab_size" else ""


def _composed(kind: str, name: str, value: object) -> str:
    """The call that makes a model with another value of ``name``, a field of the part ``kind``, or of the whole."""
    if name == "name":  # a part's
        return "compose the model of that part"
    argument = f"{kind}_{name}={_shown(value)}".removeprefix("_")
    if name in ("encoder", "decoder"):
        return f"compose the model with {argument}"
    return f"compose the model with {argument}; a saved one: vedcore.compose(folder, folder, {argument})"


def plain(value: Any) -> Any:
    """Tensors, arrays and their numbers as Python's own; lists as tuples, at any depth."""
    if callable(to_list := getattr(value, "tolist", None)):
        value = to_list()
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def check_limit(value: int, limit: int, field: str, what: str) -> None:
    """Refuse an absurd size before anything is allocated.

    Raises:
        ConfigLimitError: naming the field, the value and the limit.
    """
    if value > limit:
        shown = f"{value:,}" if value.bit_length() <= 64 else _shown(value)
        raise ConfigLimitError(f"{what} {shown} is above the limit of {limit:,}", field=field, hint="make it smaller")


def token_id_tuple(value: int | Iterable[int] | None) -> tuple[int, ...]:
    """One id, several or none, as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
