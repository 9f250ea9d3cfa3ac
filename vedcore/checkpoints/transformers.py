"""The folder format of transformers' VisionEncoderDecoderModel: TrOCR, Donut, Nougat, ViT-GPT2, and fine-tunes of them.

``config.json`` has a section for the encoder and one for the decoder; the families translate them
(`vedcore.transformers_class`). The weights are ``encoder.*``, ``decoder.*`` and, where the widths differ,
``enc_to_dec_proj``. Settings of generation, images and tokens are in different files, depending on the version of
transformers that wrote them (`vedcore.hf`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vedcore.checkpoints.card import model_card
from vedcore.checkpoints.formats import Format, LoadOptions, json_bytes
from vedcore.checkpoints.model_loading import check_loadable, load_model
from vedcore.components import torch_dtype
from vedcore.composer.checkpoint_sources import PROJECTOR, without_base
from vedcore.composer.snapshot_files import (
    assumed_preprocessing,
    likely_place,
    manifest_of,
    read_generation_of,
    read_json,
    read_preprocessing,
    read_tokenizer_of,
)
from vedcore.config import ComponentConfig, ModelConfig
from vedcore.config_files.plain import short
from vedcore.errors import (
    CheckpointError,
    ConfigError,
    ConfigSchemaError,
    IncompatibleError,
    UsageError,
    warn_caller,
)
from vedcore.hf.generation import within_positions, write_generation, write_ids
from vedcore.hf.image_processors import write_image_processor
from vedcore.hf.sections import WHOLE, Section, read_section
from vedcore.hf.tokenizers import TOKENIZER_FILES, write_tokenizer
from vedcore.model import VisionEncoderDecoder
from vedcore.model_files import (
    CARD,
    CONFIG,
    GENERATION_CONFIG,
    MODEL_FILES,
    PREPROCESSOR_CONFIG,
)
from vedcore.transformers_class import TransformersClass
from vedcore.weights.folder import FileWriter, save_folder
from vedcore.weights.keymap import Row, to_theirs, under, without_place
from vedcore.weights.loading import Weights
from vedcore.weights.saving import weight_files
from vedcore.weights.snapshot import Snapshot, read_folder

if TYPE_CHECKING:
    pass

__all__ = ["FlaxFormat", "TransformersFormat"]

_DTYPES = ("float32", "float16", "bfloat16", "float64", "auto")
"""Names in transformers' config.json."""
PROJECTOR_ROW = Row(PROJECTOR, "projector.proj", optional=True)


class TransformersFormat(Format):
    """The format of ``save_pretrained(format="transformers")``."""

    flax = False
    """Whether the weights are written in Flax's file and names."""

    def recognises(self, folder: Path) -> bool:
        """True for a config.json with the ``model_type`` ``vision-encoder-decoder``."""
        try:
            return read_folder(folder, lambda snapshot: read_json(snapshot, CONFIG)).get("model_type") == WHOLE
        except (ConfigError, CheckpointError):  # damaged, or none
            return False

    def load(self, folder: Path, options: LoadOptions) -> VisionEncoderDecoder:
        """The model in the folder; see `vedcore.load`."""
        return read_folder(folder, partial(_load, options=options))

    def save(
        self,
        model: VisionEncoderDecoder,
        folder: str | os.PathLike[str],
        *,
        max_shard_size: int | str = "5GB",
        weights_dtype: str | torch.dtype | None = None,
        hashes: bool = True,
        part: str | None = None,
        **unknown: Any,
    ) -> None:
        """Write a folder that ``transformers.VisionEncoderDecoderModel.from_pretrained`` loads.

        Args:
            model: the model.
            folder: created, or replaced as a whole; see `vedcore.weights.folder`.
            max_shard_size: bytes, or text such as ``"500MB"``; larger weights become several files and an index.
            weights_dtype: type to store floating-point tensors in, such as ``"float16"``.
            hashes: False leaves the sha256 of each tensor out of the manifest, which makes saving faster.
            part: ``"encoder"`` or ``"decoder"`` writes that part alone, as a checkpoint of its transformers class.

        Raises:
            IncompatibleError: transformers has no such encoder, decoder or projector.
            CheckpointWriteError: the folder cannot be written, or could not be loaded (adapters that were not merged);
                its earlier contents are unchanged.
        """
        if unknown:
            hint = "there are max_shard_size, weights_dtype, hashes, part"
            raise UsageError("unknown option", field=next(iter(unknown)), hint=hint)
        if part not in (None, "encoder", "decoder"):
            raise UsageError(f"no part {part!r}", field="part", hint="name encoder or decoder")
        dtype, state = torch_dtype(weights_dtype), model.state_dict(keep_vars=True)
        check_loadable(model, state, folder)
        if part is not None:
            written = _WrittenPart(model, part, state)
            config, tensors = written.config(), written.tensors()
            if written.left_out:
                warn_caller(f"not written: {written.left_out}")
        else:
            encoder, decoder = (_WrittenPart(model, kind, state) for kind in ("encoder", "decoder"))
            for each in (encoder, decoder):
                if each.left_out:
                    hint = f"save it in the native format, or with part={each.kind!r} without them"
                    raise IncompatibleError(each.left_out, field=each.kind, hint=hint)
            config = {
                "model_type": WHOLE,
                "architectures": ["VisionEncoderDecoderModel"],
                "is_encoder_decoder": True,
                "tie_word_embeddings": False,
                "encoder": encoder.config(),
                "decoder": decoder.config(),
                **write_ids(model.token_ids),
            }
            tensors = _projector_tensors(model, state)
            for written in (encoder, decoder):
                tensors |= {f"{written.kind}.{name}": tensor for name, tensor in written.tensors().items()}
        config["dtype"] = str(dtype or next(t.dtype for t in tensors.values())).removeprefix("torch.")
        files: dict[str, bytes | FileWriter] = {
            CONFIG: json_bytes(config),
            **weight_files(tensors, max_shard_size, dtype, hashes=hashes, flax=self.flax),
        }
        if part != "decoder":
            files[PREPROCESSOR_CONFIG] = json_bytes(write_image_processor(model.processor.preprocessing))
        if part != "encoder":
            generation = write_generation(
                model.generation_config, model.token_ids, max_positions=model.decoder.max_positions
            )
            files[GENERATION_CONFIG] = json_bytes(generation)
            if model.processor.tokenizer is not None:
                max_length = model.decoder.max_positions
                files |= write_tokenizer(model.processor.tokenizer, model.token_ids, model_max_length=max_length)
        if part is None:
            files[CARD] = model_card(model, model.config).encode()
        save_folder(folder, files, replaces=MODEL_FILES)


class FlaxFormat(TransformersFormat):
    """The format of ``save_pretrained(format="flax")``: transformers' folder with ``flax_model.msgpack``.

    ``transformers.FlaxVisionEncoderDecoderModel`` of transformers 4 loads it where there are Flax classes of both
    parts: of ViT and BEiT; of BERT, RoBERTa, GPT2 and BART. `TransformersFormat` reads it.
    """

    flax = True

    def recognises(self, folder: Path) -> bool:
        """False: its folders are those of `TransformersFormat`, with another file of weights."""
        return False


class _WrittenPart:
    """The encoder or decoder of a model in transformers' names."""

    def __init__(self, model: VisionEncoderDecoder, kind: str, state: Mapping[str, Tensor]) -> None:
        self.kind, self.part = kind, getattr(model, kind)
        self.state = {n.removeprefix(f"{kind}."): t for n, t in state.items() if n.startswith(f"{kind}.")}
        self.target = _transformers_class(self.part, getattr(model.config, kind).name)
        lost = without_place(self.state, self.target.key_map)
        self.left_out = ""  # the tensors that transformers' class has no place for, in words
        if lost:
            name = self.target.model_type
            self.left_out = f"transformers' {name} has no place for {len(lost)} tensors, such as {lost[0]}"

    def config(self) -> dict[str, Any]:
        """The part's section of config.json."""
        flags = {"is_decoder": True, "add_cross_attention": True} if self.kind == "decoder" else {}
        return {**self.target.write(self.part, self.part.settings()), **flags}

    def tensors(self) -> dict[str, Tensor]:
        """The part's tensors under transformers' names, and those that only transformers' class has."""
        tensors = to_theirs(self.state, self.target.key_map, views=True)
        tied, names = self.part.settings().get("tie_word_embeddings"), dict[int, str]()
        for name, tensor in list(tensors.items()):
            if tensor.ndim == 1 and id(tensor) in names:
                if tied:  # a head's bias has two names: with a tied matrix it is stored under the last
                    del tensors[names[id(tensor)]]
                else:  # else under both
                    tensors[name] = tensor.clone()
            names[id(tensor)] = name
        like = next(iter(tensors.values()))
        for name, extra in self.target.extra(self.part).items():
            tensors[name] = extra if isinstance(extra, Tensor) else torch.full(*extra, dtype=like.dtype)
        return tensors


def _transformers_class(part: Any, name: str) -> TransformersClass:
    """The transformers class that the part is written as."""
    classes: tuple[TransformersClass, ...] = getattr(part, "transformers", ())
    if not classes:
        raise IncompatibleError(
            f"transformers has no class for {name!r}", field=name, hint="save it in the native format"
        )
    fitting = [candidate for candidate in classes if not candidate.refusal(part)]
    return fitting[0] if fitting else classes[0]  # its write() raises the refusal


def _projector_tensors(model: VisionEncoderDecoder, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``enc_to_dec_proj``, which transformers has only where the widths differ.

    Raises:
        IncompatibleError: a projector other than the one that transformers puts between these widths.
    """
    encoder, decoder, name = model.encoder.hidden_size, model.decoder.hidden_size, model.config.projector.name
    cross_size = model.decoder.settings().get("cross_attention_hidden_size")
    required = "linear" if encoder != decoder and cross_size is None else "identity"
    if cross_size is not None and cross_size != encoder:
        raise IncompatibleError(
            f"cross-attention takes width {cross_size}, and transformers gives it the encoder's {encoder} unprojected",
            field="projector",
            hint="save it in the native format",
        )
    if name != required:
        raise IncompatibleError(
            f"{name!r}, and transformers has {required!r} between widths {encoder} (encoder) and {decoder} (decoder)",
            field="projector",
            hint="save it in the native format",
        )
    return to_theirs({n: t for n, t in state.items() if n.startswith("projector.")}, [PROJECTOR_ROW])


def _load(snapshot: Snapshot, options: LoadOptions) -> VisionEncoderDecoder:
    path = snapshot.path / CONFIG
    top = read_json(snapshot, CONFIG)
    _check_dtypes(top, path)
    encoder = read_section("encoder", top.get("encoder"), path=path, whole=True)
    decoder = read_section("decoder", top.get("decoder"), path=path, whole=True)
    tokenizer, preprocessing = None, options["preprocessing"]
    if options["tokenizer"] is None:
        tokenizer = read_tokenizer_of(snapshot, decoder.transformers_class.model_type)
    if preprocessing is None:
        preprocessing = read_preprocessing(snapshot, encoder.transformers_class.model_type)
    token_ids, generation_config = read_generation_of(snapshot, top, decoder.fields.get("vocab_size"), tokenizer)
    rows = (
        *under(encoder.transformers_class.key_map, "encoder.", "encoder."),
        *under(decoder.transformers_class.key_map, "decoder.", "decoder."),
        PROJECTOR_ROW,
    )
    select = without_base("encoder.", encoder.transformers_class.base_prefix)
    weights = Weights(snapshot, rows, select=select, pickles=True)
    config = ModelConfig(
        encoder=_component(encoder),
        decoder=_component(decoder),
        preprocessing=preprocessing,
        token_ids=token_ids,
        dtype=_dtype(weights),
    )
    manifest = manifest_of(snapshot, weights) if options["verify"] else None
    model = load_model(config, weights, options, path=path, tokenizer=tokenizer, manifest=manifest)
    model.generation_config = within_positions(generation_config, model.decoder.max_positions)
    if config.preprocessing is None:
        message = assumed_preprocessing(snapshot, model.processor.preprocessing, top, top["encoder"])
        warn_caller(message)
    if model.processor.tokenizer is None and (place := likely_place(snapshot, TOKENIZER_FILES, top, top["decoder"])):
        warn_caller(f"{snapshot.path}: no tokenizer: the model has ids and no text{place}")
    return model


def _component(section: Section) -> ComponentConfig:
    return ComponentConfig(name=section.name, **section.fields)


def _check_dtypes(top: Mapping[str, Any], path: Path) -> None:
    """Refuse names that are no types of weights, though the tensors say their own type."""
    for prefix in ("", "encoder.", "decoder."):
        section: Any = top.get(prefix[:-1]) if prefix else top
        for name in ("dtype", "torch_dtype") if isinstance(section, Mapping) else ():
            if (value := section.get(name)) is not None and value not in _DTYPES:
                message, hint = f"{short(value)} is not a type of weights", f"choose one of {', '.join(_DTYPES)}"
                raise ConfigSchemaError(message, path=path, field=prefix + name, hint=hint)


def _dtype(weights: Weights) -> Any:
    """The type of all stored floating-point tensors; float32 where they are mixed."""
    types = {str(t.dtype).removeprefix("torch.") for t in weights.stored.values() if t.dtype.is_floating_point}
    known = types & {"float32", "float16", "bfloat16", "float64"}
    return next(iter(known)) if len(types) == 1 and known else "float32"
