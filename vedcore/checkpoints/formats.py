"""Checkpoint formats as plugins bring them, and `load`, which finds the one that a folder is in."""

from __future__ import annotations

import abc
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from vedcore.components import torch_dtype
from vedcore.composer.folder_files import read_json
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
from vedcore.model_files import CONFIG
from vedcore.plugins import load_component, registry
from vedcore.weights.loading import CheckFinite
from vedcore.weights.snapshot import Snapshot, read_folder

if TYPE_CHECKING:
    import torch

    from vedcore.model import VisionEncoderDecoder

__all__ = ["Format", "LoadOptions", "folder_of", "json_bytes", "load"]


class LoadOptions(TypedDict):
    """What `load` was asked for; a format honours all of it."""

    device: str | torch.device | None
    dtype: torch.dtype | None
    strict: bool
    check_finite: CheckFinite
    verify: bool
    mmap: bool


class Format(abc.ABC):
    """A way to keep a model in a folder; registered by ``register_formats``, made without arguments."""

    @abc.abstractmethod
    def recognises(self, folder: Path) -> bool:
        """Whether the folder looks as if it were in this format; damage is for `load` to report."""

    @abc.abstractmethod
    def load(self, folder: Path, options: LoadOptions) -> VisionEncoderDecoder:
        """The model in the folder, in eval mode.

        Raises:
            CheckpointError: it is not there, damaged, or not what its config says.
        """

    @abc.abstractmethod
    def save(self, model: VisionEncoderDecoder, folder: str | os.PathLike[str], **options: Any) -> None:
        """Write the model.

        Raises:
            CheckpointWriteError: it cannot be written; what was there before is unchanged.
        """


def load(
    folder_or_name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    strict: bool = True,
    check_finite: CheckFinite = True,
    verify: bool = True,
    mmap: bool = False,
) -> VisionEncoderDecoder:
    """The model of a folder, in eval mode, bit for bit as it was saved.

    Args:
        folder_or_name: a folder that ``save_pretrained`` wrote, or one of transformers' VisionEncoderDecoderModel; the
            name of a model that a plugin brings (``vedcore.list_models()``); a repository of the hub, ``"org/name"``.
            They are looked for in this order, and a path whose parent folder is there is never looked for on the
            hub; ``"hub:org/name"`` means the hub alone.
        revision: branch, tag or commit of the repository; the main branch by default.
        subfolder: the folder within the folder or repository that has the model; None by default: it is not in one.
        token: for a private or gated repository; by default that of ``HF_TOKEN`` or of the login. False sends none.
        cache_dir: where files of the hub are kept; by default where ``HF_HUB_CACHE`` or ``HF_HOME`` says.
        local_files_only: True takes what is cached and asks no network; False by default. A folder here needs none of
            ``token``, ``cache_dir`` and ``local_files_only``.
        device: where the parameters go; the CPU by default.
        dtype: type of the parameters, such as ``"bfloat16"``; None takes the model's own.
        strict: False takes the tensors that fit by name, leaves the others random, and warns of both.
        check_finite: refuse NaN and Inf in the weights; ``"warn"`` warns, False does not look.
        verify: compare the weights with the sha256 of the folder's manifest, or of the hub that it came from.
        mmap: leave the weights in their file until they are written to, which is the fastest start. The file must then
            stay as it is while the model lives: whoever cuts it or writes into it kills the process or changes the
            model. To put another file in its place is fine, as ``save_pretrained`` and the hub's cache do it. For
            safetensors files only; by default weights are copied, and the folder may go.

    Raises:
        CheckpointNotFoundError: no such folder or model, or a file that it needs is missing.
        CheckpointError: files that are damaged, unsafe, or not what the config says; a ``subfolder`` that leads out.
        ConfigError: settings that cannot be used.
        PluginMissingError: the model needs a plugin that is not installed.
        NonFiniteError: NaN or Inf in the weights.
        HubError: the hub does not give it.
        UsageError: ``mmap`` with weights in a ``pytorch_model.bin``.
    """
    token = masked(token)
    folder = folder_of(
        folder_or_name,
        revision,
        subfolder=subfolder,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    options = LoadOptions(
        device=device, dtype=torch_dtype(dtype), strict=strict, check_finite=check_finite, verify=verify, mmap=mmap
    )
    read_folder(folder, _check_config)
    names = [entry.name for entry in registry().entries("format")]
    for name in sorted(names, key=lambda name: name != "native"):
        format: Format = load_component("format", name)[0]()
        if format.recognises(folder):
            return format.load(folder, options)
    kind = read_folder(folder, lambda snapshot: read_json(snapshot, CONFIG)).get("model_type")
    message = f"a model of type {short(kind)}, which no format here reads"
    raise CheckpointError(message, path=folder / CONFIG, hint=f"the formats are {', '.join(names)}")


def _check_config(snapshot: Snapshot) -> None:
    """Say what is wrong with a path that leads to no model."""
    if not snapshot.has(CONFIG):
        raise CheckpointNotFoundError(f"no {CONFIG} in this folder", path=snapshot.path, hint=snapshot.listing())


def folder_of(
    folder_or_name: str | os.PathLike[str], revision: str | None = None, **options: Unpack[FetchOptions]
) -> Path:
    """The folder that is meant: it, that of a registered model, or one from the hub, which ``options`` are for."""
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
            raise UsageError(f"{text!r} is a folder", field="revision", hint=f"write hub:{text} for the repository")
        return path / subfolder
    try:
        target, _ = load_component("model", text)
    except UnknownComponentError as error:
        if parse_repo(text) is not None and not path.parent.exists():
            try:
                return from_hub(text, revision, **options)
            except HubError as failure:
                what = f"no such folder here, and of the hub: {failure.message}"
                raise HubError(what, path=failure.path or text, hint=failure.hint) from None
        what = "no such folder, and no model of that name"
        raise CheckpointNotFoundError(what, path=text, hint=_offer(path, error)) from None
    return Path(target()) / subfolder


def _offer(path: Path, error: UnknownComponentError) -> str:
    """The nearest names beside the path that is not there, else what the registry offers."""
    if "://" in str(path) or str(path).startswith(("http:", "https:")):
        return "nothing is downloaded: give a folder"
    try:
        near = close_matches(path.name, os.listdir(path.parent))
    except OSError:
        return f"there is no folder {path.parent} either"
    return f"did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else error.hint


def json_bytes(data: Mapping[str, Any]) -> bytes:
    """A JSON file of that content."""
    return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
