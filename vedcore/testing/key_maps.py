"""Checks of encoders and decoders that open the checkpoints of a class of transformers."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vedcore.config_files.plain import short
from vedcore.errors import CheckError, CheckpointMismatchError, VedcoreError
from vedcore.plugins import registry
from vedcore.testing.calls import logits, states_of
from vedcore.testing.cases import Case, kind_of
from vedcore.testing.checks import NotApplicable, check, fail, same
from vedcore.transformers_class import TransformersClass
from vedcore.weights.keymap import to_ours, to_theirs, without_place

__all__: list[str] = []

UNFIT = ({"not": "a value"}, [[]])
"""Values that no field has."""
PARITY = 2e-4
"""Largest difference from transformers, relative to the largest value."""


def _class_of(part: Any) -> TransformersClass:
    classes: tuple[TransformersClass, ...] = getattr(part, "transformers", ())
    if not classes:
        raise NotApplicable("it opens no checkpoints of transformers")
    fitting = [each for each in classes if not each.refusal(part)]
    if not fitting:
        raise NotApplicable(f"transformers' {classes[0].name} cannot hold it: {classes[0].refusal(part)}")
    return fitting[0]


@check("encoder", "decoder")
@torch.no_grad()
def key_map_is_total_both_ways(case: Case) -> None:
    """Every stored tensor is written under transformers' names, and read back with its own values in every row."""
    part = case.build()
    theirs = _class_of(part)
    state, marked, start = part.state_dict(keep_vars=True), dict[str, Tensor](), 0
    by_tensor = dict[int, Tensor]()
    for name, tensor in state.items():  # each number once, so that no two tensors and no two rows look alike
        if id(tensor) not in by_tensor:
            values = torch.arange(start, start + tensor.numel(), dtype=torch.float64)
            by_tensor[id(tensor)] = values.reshape(tensor.shape)
            start += tensor.numel()
        marked[name] = by_tensor[id(tensor)]
    try:
        written = to_theirs(marked, theirs.key_map)
        read = to_ours(written, theirs.key_map)
        again = to_theirs({**marked, **read}, theirs.key_map)
    except CheckpointMismatchError as error:
        fail(f"a row for every tensor, to {theirs.name} and back", error.message)
    absent = without_place(state, theirs.key_map)
    found = {id(state[name]) for name in (*read, *absent) if name in state}
    lost = [name for name, tensor in state.items() if id(tensor) not in found]
    if lost:
        fail("every tensor to be read back", f"lost: {', '.join(lost[:3])}")
    for names, first, second in (("read back as it was", marked, read), ("written again as before", written, again)):
        for name, tensor in second.items():
            if name not in first or not torch.equal(first[name], tensor):
                fail(f"{name} {names}", "other values" if name in first else "a tensor that was not there")


@check("encoder", "decoder")
def settings_are_read_as_they_were_written(case: Case) -> None:
    """The settings that are written into transformers' ``config.json`` make the same part once they are read."""
    part = case.build()
    theirs = _class_of(part)
    section = json.loads(json.dumps(theirs.write(part, part.settings())))
    if section.get("model_type") != theirs.model_type:
        fail(f"model_type {theirs.model_type} in the settings", str(section.get("model_type")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = _built(part, theirs, theirs.read(section))
    for name, value in part.settings().items():
        if name != "variant" and again.settings().get(name) != value:
            fail(f"{name} {short(value)}, as it was written", short(again.settings().get(name)))


@check("encoder", "decoder")
def settings_of_another_arithmetic_are_refused(case: Case) -> None:
    """A value that a field may not have, or that is not one at all, is an error of vedcore that names the field."""
    part = case.build()
    theirs = _class_of(part)
    section = theirs.write(part, part.settings())
    names = [each.name for each in theirs.fields if each.is_read and each.name != "model_type"]
    for name in names:
        for value in (*(UNFIT if name in section else ()), *_other_values(section.get(name))):
            try:
                with warnings.catch_warnings(action="ignore"):
                    read = theirs.read({**section, name: value}, path="config.json")
                if value is UNFIT[0] and _built(part, theirs, read).settings() == part.settings():
                    fail(f"an error for {name} {short(value)}", "the part as it was")
            except CheckError:
                raise
            except VedcoreError:
                continue
            except Exception as error:
                fail(f"an error of vedcore for {name} {short(value)}", type(error).__name__)


@check("encoder", "decoder")
def defaults_are_those_of_transformers(case: Case) -> None:
    """The default of each field is that of transformers' config, so that a file that leaves it out means the same."""
    part = case.build()
    theirs = _class_of(part)
    config = _their_class(theirs).config_class()
    known = {**config.to_dict(), **{name: getattr(config, name) for name in config.attribute_map}}
    for each in theirs.fields:
        default = json.loads(json.dumps(each.default))
        if each.is_read and each.name in known and default != json.loads(json.dumps(known[each.name])):
            fail(f"the default of {each.name}, {short(known[each.name])}", short(each.default))


@check("encoder", "decoder")
@torch.no_grad()
def transformers_computes_the_same(case: Case) -> None:
    """Written to a folder, the part opens in transformers with every tensor taken, and gives the same there."""
    part = case.build()
    theirs = _class_of(part)
    cls = _their_class(theirs)
    decodes = kind_of(part) == "decoder"
    if decodes and "encoder_hidden_states" not in inspect.signature(cls.forward).parameters:
        raise NotApplicable(f"transformers' {theirs.name} takes no image")
    flags = dict.fromkeys((*theirs.flags, "is_decoder"), True) if decodes else {}
    tensors = {name: t.detach().clone().contiguous() for name, t in _written(part, theirs).items()}
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stderr(io.StringIO()),  # its progress bar
    ):
        config = {**theirs.write(part, part.settings()), **flags}
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        save_file(tensors, Path(folder) / "model.safetensors", {"format": "pt"})
        model, report = cls.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(what):
            fail(f"no {what} in transformers' {theirs.name}", ", ".join(map(str, list(report[what])[:3])))
    rebuilt = cls(model.config).eval()  # from_pretrained may lose tables that are not stored, such as TrOCR's sinusoids
    rebuilt.load_state_dict(model.state_dict(), strict=False)
    rebuilt.tie_weights()
    if decodes:
        ids, states = case.ids(part), case.states(part)
        expected, came = rebuilt(ids, encoder_hidden_states=states).logits, logits(part, ids, states)
    else:
        pixels = case.images(part)
        expected, came = rebuilt(pixels).last_hidden_state, states_of(part, pixels)
    same(f"the output of transformers' {theirs.name}", expected, came, PARITY)


def _their_class(theirs: TransformersClass) -> Any:
    """The class of transformers of that name."""
    if importlib.util.find_spec("transformers") is None:
        raise NotApplicable("transformers is not installed")
    return getattr(importlib.import_module("transformers"), theirs.name)


def _built(part: Any, theirs: TransformersClass, settings: dict[str, Any]) -> Any:
    """The part that these settings of a file make, without numbers where that can be."""
    cls, variant = type(part), getattr(part.config, "variant", None)
    if theirs is not part.transformers[0]:  # the class of another family, which opens such a file
        kind = "decoder" if kind_of(part) == "decoder" else "encoder"
        entry = registry().find_model_type(kind, theirs.model_type)
        cls, variant = entry.load(), entry.default_variant
    config = cls.make_config(variant, settings)
    try:
        with torch.device("meta"):
            return cls(config)
    except RuntimeError:  # a constructor that needs values
        return cls(config)


def _other_values(value: Any) -> tuple[Any, ...]:
    """Values of the same type as one that a file may have."""
    match value:
        case bool():
            return (not value,)
        case int():
            return (value + 1, -1)
        case str():
            return (f"{value}-of-another-kind",)
    return ()


def _written(part: Any, theirs: TransformersClass) -> dict[str, Tensor]:
    tensors = dict(to_theirs(part.state_dict(), theirs.key_map))
    for name, extra in theirs.extra(part).items():
        tensors[name] = extra if isinstance(extra, Tensor) else torch.full(*extra)
    return tensors
