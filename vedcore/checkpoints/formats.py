"""The contract of checkpoint formats, and `load`, which finds the format of a folder."""

from __future__ import annotations

import abc
import contextlib
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never, TypedDict, Unpack

import torch

from vedcore.checkpoints.recognition import find_format
from vedcore.components import torch_dtype as type_of_name
from vedcore.composer.build import check_device
from vedcore.composer.snapshot_files import read_json
from vedcore.config import EncoderConfig, Preprocessing
from vedcore.config_files.plain import short
from vedcore.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    HubError,
    UnknownComponentError,
    UsageError,
    close_matches,
)
from vedcore.hub import FetchOptions, check_subfolder, from_hub, is_hub_name, masked, parse_repo
from vedcore.model import VisionEncoderDecoder
from vedcore.model_files import CONFIG, WEIGHTS
from vedcore.plugins import load_component, registry
from vedcore.plugins.guarded import GuardedFormat, attributed, contract_error
from vedcore.processing.processor import make_tokenizer
from vedcore.registry import Entry, Kind
from vedcore.transformers_names import LOADING, unknown_argument
from vedcore.weights.loading import CheckFinite
from vedcore.weights.snapshot import Snapshot, read_folder
from vedcore.weights.unwrapping import ADAPTER_ALONE, ADAPTER_CONFIG, ADAPTER_HINT

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Format", "LoadOptions", "json_bytes", "load", "resolve_folder"]


class LoadOptions(TypedDict):
    """The arguments of `load` that a format has to honour."""

    device: str | torch.device | None
    dtype: torch.dtype | None
    strict: bool
    check_finite: CheckFinite
    verify: bool
    mmap: bool
    image_size: tuple[int, int] | None
    """Height and width of the images that the encoder is built for; None leaves the folder's."""
    tokenizer: Tokenizer | None
    """In place of the folder's, whose files are not read; None reads them."""
    preprocessing: Preprocessing | None
    """In place of the folder's, whose file is not read; None reads it."""


class Format(abc.ABC):
    """A layout of a model's folder; registered by ``register_formats``, constructed without arguments."""

    @abc.abstractmethod
    def recognises(self, folder: Path) -> bool:
        """True where the folder has this format. Do not raise for damaged files: `load` reports them.

        Look for a file or a setting that no other format has: one that recognises any folder is left out.
        """

    @abc.abstractmethod
    def load(self, folder: Path, options: LoadOptions) -> VisionEncoderDecoder:
        """The model in the folder, in eval mode.

        Raises:
            CheckpointError: files that are missing, damaged, or do not fit the config.
        """

    @abc.abstractmethod
    def save(self, model: VisionEncoderDecoder, folder: str | os.PathLike[str], **options: Any) -> None:
        """Write the model to a folder.

        Raises:
            CheckpointWriteError: the folder cannot be written; its earlier contents are unchanged.
        """


def load(
    folder_or_name: str | os.PathLike[str],
    *,
    image_size: int | Sequence[int] | None = None,
    tokenizer: Any = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    device: str | torch.device | None = None,
    device_map: Any = None,
    dtype: str | torch.dtype | None = None,
    torch_dtype: str | torch.dtype | None = None,
    strict: bool = True,
    check_finite: CheckFinite = True,
    verify: bool = True,
    mmap: bool = False,
    **unknown: Never,
) -> VisionEncoderDecoder:
    """Load a model from a folder, an installed plugin or the hub, in eval mode, bit for bit as it was saved.

    Args:
        folder_or_name: a folder that ``save_pretrained`` or transformers' VisionEncoderDecoderModel wrote; the name of
            a plugin's model (``vedcore.list_models()``); a repository on the hub, ``"org/name"``. They are tried in
            this order. A path whose parent folder exists is never looked up on the hub; ``"hub:org/name"`` always is.
        image_size: size in pixels of the images that the encoder takes, one number or height and width; its positions
            are resampled, and images are prepared in this size. None leaves the model's.
        tokenizer: in place of the folder's, whose files are not read: what `vedcore.compose` takes. Token ids stay.
        preprocessing: in place of the folder's, whose file is not read: `Preprocessing` or its fields.
        revision: branch, tag or commit of the repository; the main branch by default.
        subfolder: the model's folder within the folder or repository; None by default.
        token: token for a private or gated repository; by default that of ``HF_TOKEN`` or of the login. False sends
            none.
        cache_dir: cache for files of the hub; by default that of ``HF_HUB_CACHE`` or ``HF_HOME``.
        local_files_only: True uses cached files and no network; False by default. For local folders, ``token``,
            ``cache_dir`` and ``local_files_only`` have no effect.
        device: device of the parameters; the CPU by default.
        device_map: transformers' name of ``device``: a device, a mapping that names only one, or ``"auto"``, the GPU
            where there is one.
        dtype: type of the parameters, such as ``"bfloat16"``; None and ``"auto"`` keep the model's.
        torch_dtype: an older name of ``dtype``.
        strict: True refuses missing and unexpected tensors. False loads those that match by name, leaves the others
            random, and warns of both.
        check_finite: True refuses NaN and Inf in the weights, ``"warn"`` warns, False does not check.
        verify: compare the weights with the sha256 in the folder's manifest, or in the hub's cache.
        mmap: True maps the weights from their safetensors files, which is the fastest start. The files must not be
            truncated or written to while the model lives: the process could die with SIGBUS or the model change. To
            replace a file by another, as ``save_pretrained`` and the hub's cache do, is safe. False copies the weights
            into memory, and the folder may change or go.

    Raises:
        CheckpointNotFoundError: no such folder or model, or a file of it is missing.
        CheckpointError: damaged or unsafe files, weights that do not fit the config, a ``subfolder`` that leads out.
        ConfigError: settings that cannot be used.
        PluginMissingError: the model needs a plugin that is not installed.
        NonFiniteError: NaN or Inf in the weights.
        PluginConflictError: the formats of two plugins recognise the folder.
        PluginContractError: the format of a plugin fails, or gives anything but a model as the arguments ask.
        HubError: the repository cannot be fetched.
        TokenizerError: a tokenizer that cannot be read.
        UsageError: an unknown argument; ``mmap`` with weights that are not safetensors; several devices; a device or
            a type given twice.
    """
    for name in unknown:
        raise unknown_argument(name, [*inspect.signature(load).parameters][1:-1], LOADING)
    token = masked(token)
    options = LoadOptions(
        device=_one_device(device, device_map),
        dtype=_one_dtype(dtype, torch_dtype),
        strict=strict,
        check_finite=check_finite,
        verify=verify,
        mmap=mmap,
        image_size=EncoderConfig.parse({"image_size": image_size}).image_size,
        tokenizer=None if tokenizer is None else make_tokenizer(tokenizer),
        preprocessing=preprocessing
        if preprocessing is None or isinstance(preprocessing, Preprocessing)
        else Preprocessing.parse(preprocessing, prefix="preprocessing."),
    )
    folder = resolve_folder(
        folder_or_name,
        revision,
        subfolder=subfolder,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    if (format := find_format(folder)) is not None:
        model = format.load(folder, options)
        if not format.is_built_in:
            _check_loaded(model, format, folder, options)
        return model  # type: ignore[no-any-return]
    read_folder(folder, _require_config)
    names = [entry.name for entry in registry().entries("format")]
    model_type = read_folder(folder, lambda snapshot: read_json(snapshot, CONFIG)).get("model_type")
    message = f"a model of type {short(model_type)}, which no installed format reads"
    raise CheckpointError(
        message, path=folder / CONFIG, hint=_part_hint(model_type) or f"the formats are {', '.join(names)}"
    )


def _check_loaded(model: Any, format: GuardedFormat, folder: Path, options: LoadOptions) -> None:
    """Refuse the result of a plugin's format that is not a model as the options ask for.

    Raises:
        PluginContractError: naming the first difference.
    """
    if not isinstance(model, VisionEncoderDecoder):
        hint = "return a vedcore.VisionEncoderDecoder from it"
        raise format.broken_contract(f"load gives {type(model).__name__}, not a model", hint, folder)
    hint = "do in load as the options say; vedcore.formats.load_model does"
    if model.training:
        raise format.broken_contract("load gives a model in training mode", hint, folder)
    device, dtype = torch.device(options["device"] or "cpu"), options["dtype"]
    for name, parameter in model.named_parameters():
        if parameter.device.type != device.type:
            raise format.broken_contract(f"load gives {name} on {parameter.device}, not {device}", hint, folder)
        if dtype is not None and parameter.dtype != dtype:
            raise format.broken_contract(f"load gives {name} as {parameter.dtype}, not {dtype}", hint, folder)


def _part_hint(model_type: object) -> str:
    """The next step for the checkpoint of an encoder or decoder alone; empty for any other."""
    alone: dict[Kind, str] = {"encoder": "compose it with a decoder", "decoder": "compose it with an encoder"}
    for kind, hint in alone.items():
        with contextlib.suppress(UnknownComponentError):
            registry().find_model_type(kind, str(model_type))
            return hint
    return ""


def _one_device(device: str | torch.device | None, device_map: Any) -> str | torch.device | None:
    """The device that ``device`` or transformers' ``device_map`` names; None where neither does."""
    if device_map is None:
        check_device(device)
        return device
    if device is not None:
        raise UsageError("device is given too", field="device_map", hint="leave it out")
    named = list(device_map.values()) if isinstance(device_map, Mapping) else [device_map]
    devices = {f"cuda:{each}" if type(each) is int else str(each) for each in named}
    if len(devices) != 1:
        message = f"{short(device_map)} names {len(devices) or 'no'} devices, and a model is on one"
        raise UsageError(message, field="device_map", hint="name one, such as device_map='cpu'")
    found = devices.pop()
    if found in ("auto", "balanced", "balanced_low_0", "sequential"):
        found = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(found)
    return found


def _one_dtype(dtype: str | torch.dtype | None, old_name: str | torch.dtype | None) -> torch.dtype | None:
    """The type of parameters that ``dtype`` or its older name says; None leaves the stored one."""
    if dtype is not None and old_name is not None:
        raise UsageError("dtype is given too, and is the same argument", field="torch_dtype", hint="leave it out")
    given = old_name if dtype is None else dtype
    return None if given == "auto" else type_of_name(given)


def _require_config(snapshot: Snapshot) -> None:
    """Raise where a folder has no config.json."""
    if not snapshot.has(CONFIG) and snapshot.has(ADAPTER_CONFIG):
        raise CheckpointNotFoundError(ADAPTER_ALONE, path=snapshot.path, hint=ADAPTER_HINT)
    if not snapshot.has(CONFIG) and snapshot.has(WEIGHTS):
        raise CheckpointNotFoundError(
            f"weights without {CONFIG}",
            path=snapshot.path,
            hint="give them to load_state_dict of the model that training began with; transformers' Trainer saves the "
            "settings too with processing_class=model.processor",
        )
    if not snapshot.has(CONFIG):
        raise CheckpointNotFoundError(f"no {CONFIG} in this folder", path=snapshot.path, hint=snapshot.listing())


def resolve_folder(
    folder_or_name: str | os.PathLike[str], revision: str | None = None, **options: Unpack[FetchOptions]
) -> Path:
    """The folder of a model: a local one, a plugin's, or a fetched snapshot; arguments as for `load`."""
    if not isinstance(folder_or_name, (str, os.PathLike)):
        raise UsageError(f"a folder or a name expected, got {type(folder_or_name).__name__}", field="folder_or_name")
    text = os.fsdecode(folder_or_name)
    if not text:
        raise CheckpointNotFoundError("an empty path", hint="name a folder, or a model of `vedcore list models`")
    path = Path(text)
    if is_hub_name(text):
        return from_hub(text, revision, **options)
    subfolder = check_subfolder(options.get("subfolder"), text)
    if os.path.lexists(path) or isinstance(folder_or_name, os.PathLike):
        if revision is not None:
            hint = "leave it out, or write hub:org/name for a repository"
            raise UsageError(f"{text!r} is a folder", field="revision", hint=hint)
        return path / subfolder
    try:
        target, found = load_component("model", text)
    except UnknownComponentError as error:
        if parse_repo(text) is not None and not path.parent.exists():
            try:
                return from_hub(text, revision, **options)
            except HubError as failure:
                message = f"no such folder here, and from the hub: {failure.message}"
                raise HubError(message, path=failure.path or text, hint=failure.hint) from None
        message = "no such folder, and no model of that name"
        raise CheckpointNotFoundError(message, path=text, hint=_hint(path, error)) from None
    return _folder_of_model(found.entry, target) / subfolder


def _folder_of_model(entry: Entry, function: Callable[[], object]) -> Path:
    """The folder that the function of a plugin's model gives.

    Raises:
        PluginContractError: it raises, or gives anything but the path of a folder.
    """
    with attributed("model", entry, "its function"):
        folder = function()
    hint = "return the path of the model's folder from it"
    if not isinstance(folder, str | Path):
        raise contract_error("model", entry, f"its function gives {type(folder).__name__}, not a path", hint)
    if not os.path.isdir(folder):
        raise contract_error("model", entry, f"its function gives {short(str(folder))}, which is not a folder", hint)
    return Path(folder)


def _hint(path: Path, error: UnknownComponentError) -> str:
    """The names in the parent folder that are nearest to a missing path, else the nearest models."""
    if "://" in str(path) or str(path).startswith(("http:", "https:")):
        return "nothing is downloaded from a URL: give a folder, or org/name for a repository of the hub"
    try:
        near = close_matches(path.name, os.listdir(path.parent))
    except OSError:
        return f"there is no folder {path.parent} either"
    return f"did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else error.hint


def json_bytes(data: Mapping[str, Any]) -> bytes:
    """The content of a JSON file, indented and in UTF-8."""
    return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
