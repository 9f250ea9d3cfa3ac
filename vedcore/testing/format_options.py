"""Checks of checkpoint formats: the options of `vedcore.load` do what they say."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from vedcore.errors import CheckError, NonFiniteError, UsageError, VedcoreError
from vedcore.model_files import MANIFEST
from vedcore.testing.cases import Case
from vedcore.testing.checks import NotApplicable, check, fail
from vedcore.testing.format_models import contents, load, make_model, refuse_others, saved, text_of

__all__: list[str] = []

MAX_LOST = 4
"""Tensors that are taken from the folder, one at a time."""


@check("format")
def load_takes_a_type(case: Case) -> None:
    """With ``dtype`` every floating-point parameter is of that type."""
    format = case.build()
    with saved(case, format) as (_, folder):
        came = load(format, folder, dtype=torch.bfloat16)
    wrong = [n for n, p in came.named_parameters() if p.is_floating_point() and p.dtype != torch.bfloat16]
    if wrong:
        fail("parameters of torch.bfloat16", f"another type, such as that of {wrong[0]}")


@check("format")
def load_takes_a_device(case: Case) -> None:
    """With ``device`` every tensor is there."""
    format = case.build()
    with saved(case, format) as (_, folder):
        came = load(format, folder, device="meta")
    wrong = [name for name, tensor in came.state_dict().items() if not tensor.is_meta]
    if wrong:
        fail("tensors on the device that is asked for", f"{wrong[0]} on the CPU")


@check("format")
def load_takes_an_image_size(case: Case) -> None:
    """With ``image_size`` the model prepares images in that size, and its encoder takes them."""
    format = case.build()
    with saved(case, format) as (model, folder):
        height, width = model.processor.preprocessing.image_size
        came = load(format, folder, image_size=(2 * height, width))
    size = came.processor.preprocessing.image_size
    if size != (2 * height, width):
        fail(f"images of {2 * height} x {width}", f"{size[0]} x {size[1]}")
    with torch.no_grad():
        came.encode(torch.zeros(1, came.num_channels, *size))


@check("format")
def load_takes_a_tokenizer_and_preprocessing(case: Case) -> None:
    """``tokenizer`` and ``preprocessing`` stand in place of the folder's."""
    format = case.build()
    other = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "<pad>": 2, "a": 3}, unk_token="<s>"))
    with saved(case, format) as (model, folder):
        images = model.processor.preprocessing.changed(image_mean=(0.1, 0.2, 0.3))
        came = load(format, folder, tokenizer=other, preprocessing=images)
    if came.processor.preprocessing != images:
        fail("the preprocessing that was given", "another")
    if came.processor.tokenizer is None or came.processor.tokenizer.get_vocab() != other.get_vocab():
        fail("the tokenizer that was given", "another, or none")
    refuse_others(model, came)


@check("format")
def load_checks_numbers(case: Case) -> None:
    """NaN in the weights is a NonFiniteError, or with ``check_finite=False`` comes as it was saved."""
    format = case.build()
    model = make_model(case, format)
    with torch.no_grad():
        next(model.decoder.parameters()).view(-1)[0] = float("nan")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        try:
            format.save(model, folder)
        except VedcoreError as error:
            raise NotApplicable(f"it saves no NaN: {error}") from None
        came = load(format, folder, check_finite=False)
        if not bool(next(came.decoder.parameters()).isnan().any()):
            fail("NaN as it was saved", "another number")
        try:
            load(format, folder)
        except NonFiniteError:
            return
    fail("a NonFiniteError for NaN", "a model")


@check("format")
def load_is_strict(case: Case) -> None:
    """A tensor that lacks is an error of vedcore, and with ``strict=False`` the others come."""
    format = case.build()
    with saved(case, format) as (model, folder):
        files = list(folder.rglob("*.safetensors"))
        if not files:
            raise NotApplicable("it has no safetensors from which one could be taken")
        with safe_open(files[0], "pt") as opened:
            metadata, names = opened.metadata(), list(opened.keys())
            tensors = {name: opened.get_tensor(name) for name in names}
        refused = []
        for lost in names[:: max(1, len(names) // MAX_LOST)]:
            save_file({name: tensor for name, tensor in tensors.items() if name != lost}, files[0], metadata)
            try:
                refuse_others(model, load(format, folder, verify=False))
            except CheckError:
                fail(f"an error for {lost}, which lacks", "a model with another tensor in its place")
            except VedcoreError:
                refused.append(lost)
                came = load(format, folder, strict=False, verify=False).state_dict()
                others = [n for n, t in model.state_dict().items() if n not in came or not torch.equal(t, came[n])]
                if len(others) > 1 + len(names) // 2:
                    fail(f"all tensors but {lost} with strict=False", f"{len(others)} others")
        if not refused:
            fail("an error for a tensor that lacks", "a model for each")


@check("format")
def load_verifies(case: Case) -> None:
    """A changed number in the weights of a folder with a manifest is an error that names the file."""
    format = case.build()
    with saved(case, format) as (_, folder):
        files = contents(folder)
        if MANIFEST not in files:
            raise NotApplicable("it keeps no manifest")
        name = max(files, key=lambda each: len(files[each]))
        changed = bytearray(files[name])
        changed[-3] ^= 1
        (folder / name).write_bytes(changed)
        with contextlib.suppress(VedcoreError):  # such as zip's own checksum, which is always compared
            load(format, folder, verify=False)
        try:
            load(format, folder)
        except VedcoreError as error:
            if name not in text_of(error):
                fail(f"an error that names {name}", str(error)[:120])
            return
    fail(f"an error for a changed number in {name}", "a model")


@check("format")
def load_maps_the_weights(case: Case) -> None:
    """With ``mmap=True`` the tensors are the same; a format that cannot map them raises a UsageError."""
    format = case.build()
    with saved(case, format) as (model, folder):
        try:
            came: Any = load(format, folder, mmap=True)
        except UsageError as error:
            raise NotApplicable(f"it maps none: {error}") from None
        refuse_others(model, came)
        del came  # before its files go
